"""Files that grow while work goes on, so that a killed process loses little of it."""

import json
import os
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

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
            size = file.stat().st_size
            lines, whole = _Lines(file), 0
            for _, line, _ in lines:
                whole += len(line)
            if whole != size:
                with publish_file(file) as unfinished, unfinished.open("wb") as opened:
                    opened.writelines(line for _, line, _ in _Lines(file))
            if lines.damaged:
                warn(f"{file}: {plural(lines.damaged, 'damaged line')} dropped; what was there is made again")

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
    return [row for _, _, row in _Lines(file)]


class KeptRows(Mapping[int, dict[str, Any]]):
    """Number of a row -> the row, of journals whose rows have their number under "row"; rows stay on disk.

    Of two rows with one number the later one counts. What is added to the files afterwards is not there.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        found: tuple[array[int], ...] = array("q"), array("q"), array("q")
        for number, file in enumerate(files):
            for place, _, row in _Lines(file):
                for column, value in zip(found, (row["row"], number, place), strict=True):
                    column.append(value)
        rows, numbers, places = (np.frombuffer(column, np.int64) for column in found)
        last = np.unique(rows[::-1], return_index=True)[1]
        order = len(rows) - 1 - last
        self._rows = array("q", rows[order].tobytes())
        self._where = numbers[order], places[order]
        self._opened = [file.open("rb") for file in files]

    def __getitem__(self, row: int) -> dict[str, Any]:
        at = bisect_left(self._rows, row)
        if at == len(self._rows) or self._rows[at] != row:
            raise KeyError(row)
        numbers, places = self._where
        file = self._opened[numbers[at]]
        file.seek(places[at])
        found: dict[str, Any] = json.loads(file.readline())
        del found[CHECKSUM]
        return found

    def __contains__(self, row: object) -> bool:
        at = bisect_left(self._rows, cast(int, row))
        return at < len(self._rows) and self._rows[at] == row

    def __iter__(self) -> Iterator[int]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def _as_lines(rows: Iterable[Mapping[str, object]]) -> bytes:
    return "".join(json.dumps(with_checksum(row)) + "\n" for row in rows).encode()


class _Lines:
    """(place in the file, line, row) of each whole line that is as it was written; counts the others."""

    def __init__(self, file: Path) -> None:
        self._file, self.damaged = file, 0

    def __iter__(self) -> Iterator[tuple[int, bytes, dict[str, Any]]]:
        place = 0
        with self._file.open("rb") as lines:
            for line in lines:
                if line.endswith(b"\n"):
                    row = _checked_row(line)
                    if row is None:
                        self.damaged += 1
                    else:
                        yield place, line, row
                place += len(line)


def _checked_row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict):
        return None
    expected = row.pop(CHECKSUM, None)
    return row if with_checksum(row)[CHECKSUM] == expected else None
