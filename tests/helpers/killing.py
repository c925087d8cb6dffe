"""Death at a chosen moment, and what a run recorded until then."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from demotune.common.files import read_rows
from demotune.common.journals import Journal


class Killed(BaseException):
    """Stands for kill -9: nothing of ours catches it, so files are left as a dead process leaves them."""


def die_at(number: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Die at the n-th moment at which a file becomes durable or takes its name. Returns the count so far."""
    count = 0

    def dying(function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            nonlocal count
            count += 1
            if count == number:
                raise Killed
            return function(*arguments)

        return call

    monkeypatch.setattr(os, "fsync", dying(os.fsync))
    monkeypatch.setattr(Path, "replace", dying(Path.replace))
    monkeypatch.setattr(Path, "rename", dying(Path.rename))
    return lambda: count


def die_at_call(function: Callable[..., object], number: int) -> Callable[..., object]:
    calls = 0

    def call(*arguments: object, **named: object) -> object:
        nonlocal calls
        calls += 1
        if calls == number:
            raise Killed
        return function(*arguments, **named)

    return call


def die_before(pattern: str, monkeypatch: pytest.MonkeyPatch, error: type[BaseException] = Killed) -> None:
    """Die when a file, or folder, of such a name is complete and about to take its name."""

    def dying(function: Callable[..., object]) -> Callable[..., object]:
        def call(self: Path, target: Path) -> object:
            if Path(target).match(pattern):
                raise error
            return function(self, target)

        return call

    monkeypatch.setattr(Path, "replace", dying(Path.replace))
    monkeypatch.setattr(Path, "rename", dying(Path.rename))


def after_append(act: Callable[[list[Mapping[str, Any]]], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Call `act(rows)` whenever rows have been added to a journal, and are on disk."""
    append = Journal.append

    def adding(self: Journal, rows: Iterable[Mapping[str, Any]]) -> None:
        added = list(rows)
        append(self, added)
        act(added)

    monkeypatch.setattr(Journal, "append", adding)


def recorded(run_folder: Path, numbers: Sequence[str]) -> list[dict[str, object]]:
    """What metrics.jsonl says of these, line by line."""
    rows = read_rows(run_folder / "metrics.jsonl")
    return [{name: row.get(name) for name in ("stage", "phase", *numbers)} for row in rows]
