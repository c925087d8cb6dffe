"""Files that grow while work goes on, so that a killed process loses little of it."""

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from demotune.common.amounts import plural
from demotune.common.files import CHECKSUM, publish_file, with_checksum
from demotune.common.progress import warn

ROWS_KEPT_TOGETHER = 16
SECONDS_UNKEPT = 1.0
"""Finished rows that a killed process may cost: so many, or those of so long a time."""


class Journal:
    """A file that grows by whole lines while a phase runs; torn lines are dropped, damaged ones with a warning.

    Each line is a row with a checksum as its last field.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        if file.exists():
            rows, count = _checked_lines(file)
            if _as_lines(rows) != file.read_bytes():
                with publish_file(file) as unfinished:
                    unfinished.write_bytes(_as_lines(rows))
            if count:
                warn(f"{file}: {plural(count, 'damaged line')} dropped; what was there is made again")

    def append(self, rows: Iterable[Mapping[str, object]]) -> None:
        """Add rows and wait until they are on disk."""
        with self._file.open("ab") as opened:
            opened.write(_as_lines(rows))
            opened.flush()
            os.fsync(opened.fileno())


def append_in_turn(
    rows: Iterable[Mapping[str, object]], append: Callable[[list[Mapping[str, object]]], object]
) -> None:
    """Append rows as they come, several at a time: each time waits for the disk. An error costs none of them."""
    unkept: list[Mapping[str, object]] = []
    last = time.monotonic()
    try:
        for row in rows:
            unkept.append(row)
            if len(unkept) >= ROWS_KEPT_TOGETHER or time.monotonic() - last >= SECONDS_UNKEPT:
                append(unkept)
                unkept, last = [], time.monotonic()
    finally:
        if unkept:
            append(unkept)


def read_journal(file: Path) -> list[dict[str, Any]]:
    """The rows of a journal's whole lines; a last line without its end, or a damaged one, is not there."""
    return _checked_lines(file)[0]


def _as_lines(rows: Iterable[Mapping[str, object]]) -> bytes:
    return "".join(json.dumps(with_checksum(row)) + "\n" for row in rows).encode()


def _checked_lines(file: Path) -> tuple[list[dict[str, Any]], int]:
    """(rows, how many whole lines are not what was written)."""
    lines = [line for line in file.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    rows = [row for line in lines if (row := _checked_row(line)) is not None]
    return rows, len(lines) - len(rows)


def _checked_row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict):
        return None
    expected = row.pop(CHECKSUM, None)
    return row if with_checksum(row)[CHECKSUM] == expected else None
