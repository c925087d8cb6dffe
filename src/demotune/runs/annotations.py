"""The votes of people on an evaluation's answers: a journal for each rater, which only grows."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from demotune.common.errors import DemotuneError
from demotune.common.journals import Journal, read_journal
from demotune.common.json_records import as_json, from_file
from demotune.common.locks import held
from demotune.runs.file_names import ANNOTATIONS

SUFFIX = ".jsonl"
RATER = re.compile(r"\w[\w.-]{0,63}")
"""A rater's name is that of a file."""


@dataclass(frozen=True, slots=True)
class Vote:
    """One line of a journal. The last one about a row, a baseline and their answers holds."""

    key: str
    """Of the row."""
    baseline: str
    answers: str
    """A hash of both answers: a vote counts for these only."""
    left: str
    """Whose answer stood on the left, or above."""
    verdict: float | None
    """1 where the model's answer is better than the baseline's, 0.5 tie, 0; None where the vote was taken back."""
    time: str
    """ISO 8601, UTC."""


class VoteJournal:
    """The journal of one rater, open for this process alone. Made by `open_journal`."""

    def __init__(self, file: Path) -> None:
        self._journal = Journal(file)

    def append(self, vote: Vote) -> None:
        """Keep the vote; it is on disk when this returns."""
        self._journal.append([as_json(vote)])


@contextmanager
def open_journal(folder: Path, rater: str) -> Iterator[VoteJournal]:
    """Raises DemotuneError where another process votes as this rater."""
    file = folder / ANNOTATIONS / f"{rater}{SUFFIX}"
    with held(
        file.with_suffix(".lock"),
        lambda process: f"{rater} votes on {folder} in process {process} already; end it, or give another --rater",
    ):
        yield VoteJournal(file)


def check_rater(name: str) -> None:
    """Raise DemotuneError for a name that cannot be that of a file."""
    if not RATER.fullmatch(name):
        raise DemotuneError(
            f"rater {name!r} cannot be the name of a file; give letters, digits, - and _ only, at most 64"
        )


def read_votes(folder: Path) -> dict[str, list[Vote]]:
    """Rater -> all lines of the journal, in the order in which they were cast."""
    files = sorted((folder / ANNOTATIONS).glob(f"*{SUFFIX}"))
    return {file.stem: [from_file(Vote, line, file) for line in read_journal(file)] for file in files}
