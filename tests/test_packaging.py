"""What is uploaded: a wheel and an archive that pass the checks of the index, hold what is shipped, and run alone."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import demotune

ROOT = Path(__file__).parents[1]
SHIPPED = (".txt", ".yaml", ".jsonl", ".jinja", ".css", ".html", ".js", ".json")


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Standard output of a program that succeeds; packages come from nowhere but its own interpreter."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=kept | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """dist/ with wheel and archive, built from a copy, as a release is."""
    folder = tmp_path_factory.mktemp("release")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    run(sys.executable, "-m", "build", "--no-isolation", cwd=folder)
    return folder / "dist"


@pytest.fixture(scope="module")
def clean(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that holds the wheel, and what it needs by a path; no checkout."""
    folder = tmp_path_factory.mktemp("clean") / "env"
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    places = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=built).strip()
    (wheel,) = built.glob("*.whl")
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        wheel,
        cwd=built,
    )
    (Path(places) / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def test_wheel_and_archive_pass_the_checks_of_the_index(built: Path) -> None:
    files = sorted(built.iterdir())
    assert [file.name for file in files] == [
        f"demotune-{demotune.__version__}-py3-none-any.whl", f"demotune-{demotune.__version__}.tar.gz",
    ]  # fmt: skip
    run(sys.executable, "-m", "twine", "check", "--strict", *files, cwd=built)


def test_the_wheel_holds_all_files_of_the_package(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if not name.startswith("demotune-")}
    package = ROOT / "src" / "demotune"
    expected = {file.relative_to(package.parent).as_posix() for file in package.rglob("*.py")}
    shipped = {file.relative_to(package.parent).as_posix() for file in package.rglob("*") if file.suffix in SHIPPED}
    assert {Path(name).suffix for name in shipped} == set(SHIPPED)
    assert held == expected | shipped | {"demotune/py.typed"}


def test_the_version_stands_in_one_place() -> None:
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert not re.search(r"^version *= *\"", settings, re.MULTILINE)
    assert f"## {demotune.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_installed_wheel_runs_without_a_checkout(clean: Path, tmp_path: Path) -> None:
    command = clean.parent / "demotune"
    assert run(command, "--version", cwd=tmp_path).strip() == f"demotune {demotune.__version__}"
    assert "irft" in run(command, "--help", cwd=tmp_path)
    assert "shipped configs" in run(command, "doctor", cwd=tmp_path, COLUMNS="200")


def test_the_installed_names_can_be_imported_from_the_wheel(clean: Path, tmp_path: Path) -> None:
    code = "import demotune; [getattr(demotune, name) for name in demotune.__all__]; print(demotune.__file__)"
    assert Path(run(clean, "-c", code, cwd=tmp_path).strip()).is_relative_to(clean.parents[1])
