"""Hooks of mkdocs: text written at build time, links that leave docs/, pages that the navigation does not name."""

import posixpath
import re
from pathlib import Path
from typing import Any

from reference import WRITTEN

MARK = re.compile(r"^<!-- here: ([\w .]+) -->$.*?^<!-- end -->$", re.MULTILINE | re.DOTALL)
"""In place of what stands between both, the site has text that is generated, or a file of the repository's root."""
OUTWARD = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\((\.\./[^)\s]+)\)")
REST = "More"


def on_config(config: Any) -> Any:
    """Put pages that nobody has placed at the end, so that a new page is never out of reach."""
    docs = Path(config.docs_dir)
    named = set(_leaves(config.nav))
    rest = sorted({page.relative_to(docs).as_posix() for page in docs.rglob("*.md")} - named)
    if rest:
        config.nav.append({REST: rest})
    return config


def _leaves(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [leaf for part in (nav.values() if isinstance(nav, dict) else nav) for leaf in _leaves(part)]


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """The text of a page as the site shows it."""
    text = MARK.sub(lambda found: _written(found[1], Path(config.docs_dir).parent), markdown)
    return link_out(text, page.file.src_uri, config.repo_url)


def _written(name: str, root: Path) -> str:
    if name in WRITTEN:
        return WRITTEN[name]()
    text = (root / name).read_text(encoding="utf-8")
    without_title = re.sub(r"\A# .*\n", "", text)
    to_pages = without_title.replace("](docs/", "](")
    return re.sub(r"\]\([A-Z]+\.md\)", lambda found: found[0].lower(), to_pages)


def link_out(markdown: str, page: str, repository: str | None) -> str:
    """Lead links to files outside of docs/ to the repository; without its address they show the file's path instead."""

    def outward(found: re.Match[str]) -> str:
        text, target = found.groups()
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
        if path.startswith("docs/"):
            return found[0]
        if repository:
            return f"[{text}]({repository.rstrip('/')}/blob/main/{path})"
        return f'<span title="{path}">{text}</span>'

    return OUTWARD.sub(outward, markdown)
