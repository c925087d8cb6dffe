"""The documentation names things that exist: links, files, functions, flags, and every file of a run folder."""

import ast
import importlib
import os
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from demotune.cli.main import app
from demotune.config.methods import CONFIGS
from demotune.runs import file_names as names

ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").exists())
PACKAGE = ROOT / "src" / "demotune"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
ELSEWHERE = "migration.md"
"""The first cells of its tables name the code of others."""
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9_-]*[a-z0-9]")
FSDP = {"--config_file", "--machine_rank", "--main_process_ip"}
SLURM = {"--nodes", "--ntasks-per-node", "--gpus-per-node", "--requeue", "--signal"}
VLLM = {
    "--enforce-eager", "--no-enable-chunked-prefill", "--gpu-memory-utilization", "--max-model-len", "--enable-lora",
    "--max-lora-rank",
}  # fmt: skip
PIP = {"--constraint", "--no-deps"}
OTHER_PROGRAMS = {
    "--num_processes",
    "--nproc_per_node",
    "--multi_gpu",
    "--logdir",
    "--port",
    "--head",
    *FSDP,
    *SLURM,
    *VLLM,
    *PIP,
}
"""Flags of accelerate, torchrun, tensorboard, Slurm, Ray, vLLM and pip."""


def text_of(page: Path) -> str:
    """What the page says of this repository."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"^\| [^|]* \|", "|", text, flags=re.MULTILINE) if page.name == ELSEWHERE else text


def prose(page: Path) -> str:
    """The page without its code blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@cache
def definitions(file: Path) -> frozenset[str]:
    """Functions, classes, methods (`Class.method`) and assigned names of a module."""
    found: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return frozenset(found)


def resolve(name: str) -> Any:
    """What `demotune.NAME` is: a module, or something in one."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(["demotune", *parts[:count]]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            found = getattr(found, part)
        return found
    raise AttributeError(name)


def links() -> Iterator[tuple[Path, str, str]]:
    """(page, text, target) of each link that stays in the repository."""
    for page in PAGES:
        for text, target in LINK.findall(prose(page)):
            if not re.match(r"https?:", target):
                yield page, text, target


def code_blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^ *```{language}\n(.*?)^ *```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_links_lead_somewhere() -> None:
    wrong = []
    for page, _, target in links():
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            wrong.append(f"{page.name}: {target}")
    assert wrong == []


def test_a_link_to_code_names_what_is_defined_there() -> None:
    to_code = [
        (text.strip("`"), (page.parent / target).resolve())
        for page, text, target in links()
        if text.startswith("`") and target.endswith(".py")
    ]
    assert len(to_code) > 50
    assert [both for both in to_code if both[0] != both[1].name and both[0] not in definitions(both[1])] == []


def test_named_files_exist() -> None:
    """`test_x.py` may be anywhere below tests/; other names are relative to the repository or to the package."""
    wrong = []
    for page in PAGES:
        for name in re.findall(r"`([\w./*-]+\.(?:py|sh|md))`", LINK.sub("", prose(page))):
            where = [ROOT.glob(name), PACKAGE.glob(name), (ROOT / "tests").rglob(name)]
            if Path(name).name != names.MODEL_CARD and not any(found for place in where for found in place):
                wrong.append(f"{page.name}: {name}")
        for name in re.findall(r"\b(?:benchmarks|tests|docs|src)/[\w./*-]*\w", text_of(page)):
            if not any(ROOT.glob(f"{name}*")):
                wrong.append(f"{page.name}: {name}")
    assert wrong == []


def folder_map() -> Iterator[tuple[str, Path]]:
    """(name, path) of each file and folder that begins a line of the README's map."""
    block = re.search(
        r"^```\n(src/demotune/\n.*?)^```$", PAGES[0].read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert block is not None
    above: list[Path] = []
    for line in block[1].splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        if depth > 3:
            continue  # a further line of the description above it
        for name in re.split(r"  +", line.strip())[0].split(", "):
            path = (above[depth - 1] if depth else ROOT) / name
            if name.endswith("/"):
                above[depth:] = [path]
            yield name, path


def test_the_map_is_true_and_names_every_package() -> None:
    found = dict(folder_map())
    assert {name for name, path in found.items() if not path.exists()} == set()
    packages = {file.parent for file in PACKAGE.glob("*/__init__.py")}
    assert packages <= set(found.values())


@pytest.mark.parametrize("method", CONFIGS)
def test_functions_in_the_table_of_parts_exist(method: str) -> None:
    text = (ROOT / "docs" / "methods" / f"{method}.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"^\| part \| function \|\n((?:\|.*\n)+)", text, re.MULTILINE)
    for row in table.splitlines()[1:]:
        found = re.findall(r"`([\w.]+\.[\w.]+)`", row.replace(r"\|", "").split("|")[2])
        assert found, f"no function in {row}"
        for name in found:
            resolve(name)


def flags_of(command: Any) -> set[str]:
    return {flag for one in command.params for flag in (*one.opts, *one.secondary_opts)}


def test_flags_exist() -> None:
    """In some command, or in the benchmarks and the campaign, which are scripts of their own."""
    root: Any = typer.main.get_command(app)
    known = OTHER_PROGRAMS | {"--help"} | set().union(*map(flags_of, (root, *root.commands.values())))
    for script in [*(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "tests" / "campaign").glob("*.py")]:
        known.update(re.findall(r'"(--[a-z-]+)"', script.read_text(encoding="utf-8")))
    found = {page.name: set(FLAG.findall(text_of(page))) - known for page in PAGES}
    assert {page: unknown for page, unknown in found.items() if unknown} == {}


def test_commands_in_the_examples_take_their_flags() -> None:
    root: Any = typer.main.get_command(app)
    wrong, count = [], 0
    for block in (block for page in PAGES for block in code_blocks(page, "console")):
        for line in re.findall(r"^\s*\$ demotune ([^#\n]*)", block, re.MULTILINE):
            taken = flags_of(root.commands[line.split()[0]]) | {"--help"}
            for method in re.findall(r"--method (\w+)", line):
                taken |= flags_of(root.commands[method])
            wrong += [f"{flag}: {line}" for flag in FLAG.findall(line) if flag not in taken]
            count += 1
    assert wrong == []
    assert count > 30


def test_every_file_of_a_run_folder_has_a_row() -> None:
    """Names are those of `demotune.runs.file_names`, and records those that read and write the files."""
    text = (ROOT / "docs" / "runs.md").read_text(encoding="utf-8")
    section = text[text.index("## The folder") : text.index("## Models")]
    known = {value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)}
    named = {part.strip("*") for path in re.findall(r"`([*\w./-]+)`", section) for part in path.split("/")}
    assert known - named == set()
    rows = [row.split("|")[1] for row in section.splitlines() if row.startswith("| `")]
    assert {name.strip("*/") for row in rows for name in re.findall(r"`([^`]+)`", row)} - known == {"stages/NN"}
    for record in re.findall(r"`([a-z]+\.[A-Z]\w+)`", section):
        resolve(f"runs.{record}")


def literals() -> Iterator[str]:
    """Every text of the source, with … in place of values that are put in."""
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_messages_in_troubleshooting_are_those_of_the_code() -> None:
    rows = re.findall(
        r"^\| `([^`]+)` \|", (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    known = "\n".join(literals())
    assert len(rows) > 50
    assert [row for row in rows if row.strip("… ") not in known] == []


def test_imports_of_the_examples_work() -> None:
    blocks = [block for page in PAGES for block in code_blocks(page, "python")]
    nodes = [node for block in blocks for node in ast.walk(ast.parse(block)) if isinstance(node, ast.ImportFrom)]
    ours = [
        (node.module, alias.name) for node in nodes if (node.module or "")[:8] == "demotune" for alias in node.names
    ]
    assert len(ours) > 20
    assert [both for both in ours if not hasattr(importlib.import_module(str(both[0])), both[1])] == []


@pytest.mark.parametrize("begun", [False, True])
def test_the_job_for_slurm_begins_a_run_or_goes_on_with_it(begun: bool, tmp_path: Path) -> None:
    """By bash, with stand-ins: `srun` runs what follows, `accelerate` shows how it was called."""
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    (job,) = re.findall(r"```bash\n(#!/bin/bash\n.*?)```", page, flags=re.DOTALL)
    for name, script in {
        "scontrol": "printf 'first\\nsecond\\n'", "srun": 'exec "$@"', "accelerate": 'echo "$@"',
    }.items():  # fmt: skip
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    if begun:
        (tmp_path / "runs" / "irft").mkdir(parents=True)
        (tmp_path / "runs" / "irft" / names.MANIFEST).touch()
    variables = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "SLURM_NODEID": "1", "SLURM_JOB_NODELIST": "x"}
    done = subprocess.run(
        ["bash", "-c", job], cwd=tmp_path, env=os.environ | variables, capture_output=True, text=True, check=True
    )
    action = "resume runs/irft" if begun else "irft --model MODEL --data rows.jsonl --output runs/irft"
    launched = "launch --config_file fsdp2-two-nodes.yaml --machine_rank 1 --main_process_ip first -m demotune"
    assert done.stdout.split() == f"{launched} {action}".split()
