"""Responses that a command has drawn so far, beside its output: the same command again draws none of them twice."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from demotune.common.errors import DemotuneError, changes
from demotune.common.files import damaged
from demotune.common.journals import Journal, append_in_turn, read_journal
from demotune.common.json_records import from_json
from demotune.records import Response
from demotune.runs.file_names import PARTIAL


def journal_beside(output: Path) -> Path:
    """OUTPUT.partial.jsonl, which is there while the output is being made."""
    return output.with_name(output.name + PARTIAL)


class AnswerJournal:
    """Responses by their numbers, `done`, after a line that says with which settings they were drawn."""

    def __init__(self, file: Path, settings: Mapping[str, str | int | float]) -> None:
        """Raises DemotuneError where the file holds responses that were drawn with other settings."""
        file.parent.mkdir(parents=True, exist_ok=True)
        self._journal = Journal(file)
        rows = read_journal(file) if file.exists() else []
        if not rows:
            self._journal.append([{"settings": dict(settings)}])
            rows = [{"settings": settings}]
        begun = rows[0].get("settings")
        if begun is None:
            raise damaged(file, "its first line is not there")
        if changed := changes(begun, settings):
            raise DemotuneError(
                f"{file} holds the responses of an interrupted command with other settings ({changed}); "
                "give the same ones to go on, or delete the file to start over"
            )
        self.done = {row["row"]: from_json(Response, row) for row in rows[1:]}

    def append_in_turn(self, drawn: Iterable[tuple[int, Response]]) -> None:
        """Keep each (number, response) as it comes, without its log-probabilities."""
        records = ({"row": row, "ids": list(response.ids), "finished": response.finished} for row, response in drawn)
        append_in_turn(records, self._journal.append)
