"""Imports go down only: each module may import from lower floors, never from its own or a higher one."""

import ast
from pathlib import Path

import demotune

PACKAGE = Path(demotune.__file__).parent

FLOORS = [
    {"errors", "interrupts", "screen", "allocator", "records", "processes", "profiling", "statistics", "diversity"},
    {"field_limits", "messages", "loggers", "yaml_fields"},
    {"config", "progress", "attention", "packing"},
    {"files", "losses", "advantages", "values", "logprobs", "machine", "data", "rendering", "reward_card"},
    {"config_files", "journals", "model_files", "sampling", "heldout", "intake"},
    {"run_folder", "adapter_files", "gguf_models"},
    {"models"},
    {"reward_models", "gate"},
    {"objectives", "callbacks", "schedule", "smaller_passes"},
    {"scoring"},
    {"setup", "training", "rewards"},
    {"phases"},
    {"estimation"},
    {"methods", "objects", "preparation", "manifest", "summary", "answering", "ranking", "doctor"},
    {"evaluation", "estimate"},
    {"report"},
    {"conclusion"},
    {"pipeline"},
    {"quickstart", "flags", "control", "inputs"},
    {"cli"},
    {"__main__"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(file: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide which room they come from"
            names = [node.module] if node.module != "demotune" else [f"demotune.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name and name.startswith("demotune.")}
    return rooms


def test_every_room_has_a_floor() -> None:
    rooms = {room_of(file) for file in PACKAGE.rglob("*.py")} - {"__init__"}
    assert rooms == set(FLOOR_OF)


def test_imports_go_down_only() -> None:
    wrong = [
        f"{room_of(file)} (floor {FLOOR_OF[room_of(file)]}) imports {target} (floor {FLOOR_OF[target]})"
        for file in PACKAGE.rglob("*.py")
        if room_of(file) != "__init__"
        for target in imported_rooms(file) - {room_of(file)}
        if FLOOR_OF[target] >= FLOOR_OF[room_of(file)]
    ]
    assert wrong == []


def test_a_loss_needs_nothing_of_the_package() -> None:
    assert imported_rooms(PACKAGE / "losses.py") == set()


def test_help_does_not_wait_for_torch() -> None:
    import subprocess
    import sys

    code = "import sys, demotune.cli; print(sorted({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"
