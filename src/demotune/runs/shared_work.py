"""Numbers that several processes compute together: whole batches, as one process has them, are dealt out.

What is in a batch never depends on the number of processes, so the numbers do not either.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from accelerate.utils import gather_object

from demotune.common.processes import process_count
from demotune.runs.phase_journal import PhaseJournal, share_of_this_process

Value = TypeVar("Value")
Compute = Callable[[Sequence[int]], Sequence[Value]]
"""The rows of a batch -> a value for each."""
_Advance = Callable[[int], None]
"""Called with the number of rows that are done since the last call."""


@dataclass
class _Sharing:
    name: str
    folder: Path | None
    calls: int = 0

    def next_name(self, key: str) -> str:
        self.calls += 1
        return ".".join(filter(None, (self.name, str(self.calls), key)))


_SHARING: ContextVar[_Sharing | None] = ContextVar("sharing", default=None)


@contextmanager
def shared(name: str, folder: Path | None) -> Iterator[None]:
    """In here `compute_rows` shares its batches among the processes; all of them must come here with the same work.

    Values are kept in journals in `folder`, `name` first, so that an interrupted command computes none of them twice;
    they must be JSON. Without a folder the processes exchange them, each after as many batches as any other: where a
    model is cut up among processes, a pass takes them all.
    """
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    before = _SHARING.set(_Sharing(name, folder))
    try:
        yield
    finally:
        _SHARING.reset(before)


def compute_rows(
    batches: Sequence[Sequence[int]],
    compute: Compute[Value],
    advance: _Advance,
    key: Callable[[], str] = lambda: "",
) -> Mapping[int, Value]:
    """Row -> value, of all rows of all batches; `advance` counts rows as any process finishes them.

    `key` says what the rows are, where values are kept: others under the same key are taken for these.
    """
    sharing = _SHARING.get()
    if sharing is None:
        return dict(_computed(batches, compute, advance))
    before = _SHARING.set(None)  # what a batch computes within is its own
    try:
        if sharing.folder is None:
            return _exchanged(batches, compute, advance)
        return _kept(PhaseJournal(sharing.folder, sharing.next_name(key())), batches, compute, advance)
    finally:
        _SHARING.reset(before)


def journal_here() -> PhaseJournal:
    """A further journal of the work that is `shared` with a folder, for rows that are not computed in batches."""
    sharing = _SHARING.get()
    if sharing is None or sharing.folder is None:
        raise LookupError("no folder is shared here")
    return PhaseJournal(sharing.folder, sharing.next_name(""))


def _computed(
    batches: Sequence[Sequence[int]], compute: Compute[Value], advance: _Advance
) -> Iterator[tuple[int, Value]]:
    for batch in batches:
        yield from zip(batch, compute(batch), strict=True)
        advance(len(batch))


def _exchanged(batches: Sequence[Sequence[int]], compute: Compute[Value], advance: _Advance) -> dict[int, Value]:
    if process_count() == 1:
        return dict(_computed(batches, compute, advance))
    mine = share_of_this_process(batches)
    found = dict(_computed(mine, compute, advance))
    if len(mine) < -(-len(batches) // process_count()):
        compute(batches[0])
    everything: dict[int, Value] = dict(gather_object([*found.items()]))
    advance(len(everything) - len(found))
    return everything


def _kept(
    journal: PhaseJournal, batches: Sequence[Sequence[int]], compute: Compute[Value], advance: _Advance
) -> Mapping[int, Value]:
    def records(batch: Sequence[int]) -> list[dict[str, Any]]:
        return [{"row": row, "value": value} for row, value in zip(batch, compute(batch), strict=True)]

    if known := sum(len(batch) for batch in batches if all(row in journal.done for row in batch)):
        advance(known)
    return _Values(journal.compute_missing(batches, records, advance))


class _Values(Mapping[int, Value]):
    """Row -> its value, of records that hold it."""

    def __init__(self, records: Mapping[int, dict[str, Any]]) -> None:
        self._records = records

    def __getitem__(self, row: int) -> Value:
        value: Value = self._records[row]["value"]
        return value

    def __iter__(self) -> Iterator[int]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)
