"""The documentation as a site: it builds in strict mode, asks no network, holds what the code has, and is searched."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
import yaml
from helpers.page_browser import FLAGS, find_or_skip

import demotune
from demotune.cli.main import app
from demotune.config.config_files import shipped_configs
from demotune.config.field import fields_of
from demotune.config.methods import CONFIGS

ROOT = Path(__file__).parents[1]
BUILT = ("mkdocs.yml", "CHANGELOG.md", "CONTRIBUTING.md")


class Page(HTMLParser):
    """Text, anchors, links and what the browser fetches by itself."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.text = ""
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.fetched: set[str] = set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.ids |= {found["id"]} if "id" in found else set()
        if tag == "a" and "href" in found:
            self.links.add(found["href"])
        elif "src" in found or (tag == "link" and found.get("rel") not in ("canonical", "prev", "next")):
            self.fetched.add(found.get("src") or found.get("href", ""))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the site is made of, with a page that nobody has placed."""
    folder = tmp_path_factory.mktemp("source")
    for name in BUILT:
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "docs", folder / "docs")
    (folder / "src").symlink_to(ROOT / "src")
    (folder / "docs" / "unplaced.md").write_text("# A page without a place\n\n[code](../src/demotune/api.py)\n")
    return folder


def build(source: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "NO_MKDOCS_2_WARNING": "1", **environment}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    return subprocess.run(command, cwd=source, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(source: Path) -> Path:
    done = build(source)
    assert done.returncode == 0, done.stderr
    return source / "site"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {file: Page(file) for file in site.rglob("*.html")}


def test_every_page_of_the_docs_is_on_the_site(site: Path, source: Path) -> None:
    docs = source / "docs"
    expected = {page.relative_to(docs).with_suffix(".html") for page in docs.rglob("*.md")}
    assert expected == {file.relative_to(site) for file in site.rglob("*.html")} - {Path("404.html")}


def test_links_within_the_site_lead_to_a_page_and_a_heading(pages: dict[Path, Page], site: Path) -> None:
    wrong = []
    for file, page in pages.items():
        for link in page.links:
            if file.name == "404.html" or re.match(r"[a-z]+:", link):
                continue
            path, _, anchor = link.partition("#")
            target = (file.parent / path).resolve() if path else file
            if not target.is_file() or (anchor and target.suffix == ".html" and anchor not in pages[target].ids):
                wrong.append(f"{file.relative_to(site)}: {link}")
    assert wrong == []


def test_the_browser_fetches_nothing_from_elsewhere(pages: dict[Path, Page], site: Path) -> None:
    for file, page in pages.items():
        if file.name != "404.html":
            assert {one for one in page.fetched if not (file.parent / one.partition("#")[0]).exists()} == set()
    styles = "".join(file.read_text(encoding="utf-8") for file in site.rglob("*.css"))
    assert re.findall(r"@import|url\(['\"]?https?:", styles) == []


def test_the_reference_has_every_command_and_flag(pages: dict[Path, Page], site: Path) -> None:
    text = pages[site / "reference" / "commands.html"].text
    root: Any = typer.main.get_command(app)
    assert {f"demotune {name}" for name in root.commands} <= set(re.findall(r"demotune \w+", text))
    for name, command in root.commands.items():
        if name not in CONFIGS:
            assert {
                flag for one in command.params for flag in one.opts if flag.startswith("--") and flag not in text
            } == set()


def test_the_reference_has_every_setting_config_and_public_name(pages: dict[Path, Page], site: Path) -> None:
    reference = site / "reference"
    settings = set(re.findall(r"--([\w-]+)", pages[reference / "settings.html"].text))
    fields = {name.replace("_", "-") for config in CONFIGS.values() for name in fields_of(config)}
    assert fields - settings == set()
    assert {name for name in shipped_configs() if name not in pages[reference / "configs.html"].text} == set()
    named = {one.rpartition(".")[2] for one in pages[reference / "api.html"].ids}
    assert set(demotune.__all__) - named == set()


def test_a_page_that_nobody_has_placed_can_be_reached(pages: dict[Path, Page], site: Path) -> None:
    assert "unplaced.html" in pages[site / "index.html"].links
    navigation = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:")[1], yaml.SafeLoader)
    assert "unplaced" not in str(navigation)


def test_a_broken_link_fails_the_build(source: Path, site: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    (broken / "docs").mkdir(parents=True)
    settings = (source / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:")[0]
    (broken / "mkdocs.yml").write_text(f"{settings}\nnav:\n  - index.md\n", encoding="utf-8")
    for folder in ("site", "assets"):
        shutil.copytree(source / "docs" / folder, broken / "docs" / folder)
    (broken / "docs" / "index.md").write_text("# Home\n\n[nowhere](nowhere.md) [no heading](#nothing)\n")
    done = build(broken)
    assert done.returncode != 0
    assert "nowhere.md" in done.stderr
    assert "#nothing" in done.stderr


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "docs" / "site")
        spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "site" / "hooks.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("link", "repository", "expected"),
    [
        ("[`run`](../src/a.py)", "https://host/me/it/", "[`run`](https://host/me/it/blob/main/src/a.py)"),
        ("[`run`](../src/a.py)", "", '<span title="src/a.py">`run`</span>'),
        ("[runs](../runs.md)", "", "[runs](../runs.md)"),
        (
            "[studies](../../benchmarks/studies/README.md)",
            None,
            '<span title="benchmarks/studies/README.md">studies</span>',
        ),
    ],
)
def test_links_out_of_the_docs(hooks: ModuleType, link: str, repository: str | None, expected: str) -> None:
    page = "page.md" if "(../src" in link else "methods/page.md"
    assert hooks.link_out(link, page, repository) == expected


def test_search_works_in_pages_that_are_opened_from_disk(site: Path, tmp_path: Path) -> None:
    """Without a server and without a network."""
    chromium, chromedriver = find_or_skip("chromium", "chromium-browser", "google-chrome"), find_or_skip("chromedriver")
    from selenium import webdriver
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support import expected_conditions
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path / 'profile'}"]:
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    try:
        driver.get((site / "index.html").as_uri())
        wait = WebDriverWait(driver, 120)
        field = (By.CSS_SELECTOR, "input.md-search__input")
        wait.until(expected_conditions.element_to_be_clickable(field)).send_keys("quarantine")
        found = wait.until(lambda here: here.find_elements(By.CSS_SELECTOR, "a.md-search-result__link"))
        assert any("quarantine" in (link.get_attribute("href") or "") for link in found)
    finally:
        driver.quit()
