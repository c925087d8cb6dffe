"""Imports go down only: each package may import from lower floors, never from its own or a higher one."""

import ast
from pathlib import Path

import demotune

PACKAGE = Path(demotune.__file__).parent

FLOORS = [
    {"common", "records"},
    {"config"},
    {"data", "runs"},
    {"models"},
    {"sampling"},
    {"rewards"},
    {"training"},
    {"advice", "estimation", "evaluation"},
    {"report"},
    {"conclusion", "push", "result"},
    {"pipeline", "sweep"},
    {"api", "paper", "trainer"},
    {"cli"},
    {"__main__"},
]
FLOOR_OF = {package: floor for floor, packages in enumerate(FLOORS) for package in packages}


def package_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_packages(file: Path) -> set[str]:
    packages = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide which package they come from"
            names = [node.module] if node.module != "demotune" else [f"demotune.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        packages |= {name.split(".")[1] for name in names if name and name.startswith("demotune.")}
    return packages


def test_every_package_has_a_floor() -> None:
    packages = {package_of(file) for file in PACKAGE.rglob("*.py")} - {"__init__"}
    assert packages == set(FLOOR_OF)


def test_imports_go_down_only() -> None:
    wrong = [
        f"{package_of(file)} (floor {FLOOR_OF[package_of(file)]}) imports {target} (floor {FLOOR_OF[target]})"
        for file in PACKAGE.rglob("*.py")
        if package_of(file) != "__init__"
        for target in imported_packages(file) - {package_of(file)}
        if FLOOR_OF[target] >= FLOOR_OF[package_of(file)]
    ]
    assert wrong == []


def test_a_loss_needs_nothing_of_the_package_but_the_names_of_links() -> None:
    assert imported_packages(PACKAGE / "training" / "losses.py") == {"config"}


def test_help_does_not_wait_for_torch() -> None:
    import subprocess
    import sys

    code = "import sys, demotune.cli.main; print(sorted({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"
