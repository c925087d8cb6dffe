"""One process that takes itself for one of several, and commands in two processes that share their work."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

import demotune
from demotune.common.files import read_rows
from demotune.common.processes import process_state

SOURCE = str(Path(demotune.__file__).parents[1])


def pretend_processes(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate counts so many processes. Nothing may wait for the others."""
    monkeypatch.setattr(process_state(), "num_processes", count)


def in_two_processes(
    arguments: Sequence[str], variables: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """What torchrun does with these arguments of Python, on CPU."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", port]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": SOURCE}
    return subprocess.run(
        [*torchrun, *arguments],
        env=environment | dict(variables or {}),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def noted_commands(
    folder: Path, commands: Sequence[Sequence[str]], *, dying: str = ""
) -> "subprocess.CompletedProcess[str]":
    """`noted_commands.py` in two processes."""
    folder.mkdir()
    script = Path(__file__).with_name("noted_commands.py")
    return in_two_processes([str(script), json.dumps([commands, str(folder), dying])])


def noted_rows(folder: Path, name: str) -> list[list[int]]:
    """Of each process the rows that it added to journals with `name` in their path."""
    notes = [read_rows(folder / f"{rank}.jsonl") if (folder / f"{rank}.jsonl").exists() else [] for rank in (0, 1)]
    return [[row for note in own if name in note["journal"] for row in note["rows"]] for own in notes]
