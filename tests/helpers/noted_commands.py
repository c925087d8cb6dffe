"""A script for torchrun: demotune commands, and notes of which rows this process added to which journal.

Its argument is JSON: commands, the folder of the notes, and a part of a journal's name; process 1 dies, as by kill -9,
once it has added rows to such a journal. An empty command squares the numbers 0 to 4 in three batches without a folder.
"""

import json
import os
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from demotune.cli.main import app
from demotune.common.journals import Journal
from demotune.runs.shared_work import compute_rows, shared

commands, folder, dying = json.loads(sys.argv[1])
append = Journal.append


def note(journal: str, rows: Sequence[int]) -> None:
    with (Path(folder) / f"{os.environ['RANK']}.jsonl").open("a") as notes:
        notes.write(json.dumps({"journal": journal, "rows": list(rows)}) + "\n")


def noted_append(self: Any, rows: Iterable[Mapping[str, Any]]) -> None:
    added = list(rows)
    append(self, added)
    note(str(self._file), [row["row"] for row in added if "row" in row])
    if dying and dying in self._file.name and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)


def squares(rows: Sequence[int]) -> list[int]:
    note("exchanged", rows)
    return [row * row for row in rows]


Journal.append = noted_append  # type: ignore[method-assign]
for command in commands:
    if command:
        app(command, standalone_mode=False)
        continue
    with shared("exchanged", None):
        assert compute_rows([[0, 1], [4], [2, 3]], squares, lambda _: None) == {row: row * row for row in range(5)}
