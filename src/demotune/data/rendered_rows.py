"""Rendered rows in an Arrow file: written once, then mapped into memory, and made into records on access."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Self, overload

import numpy as np
import pyarrow
from numpy.typing import NDArray

from demotune.data.rendering.renderer import prompt_hash
from demotune.records import RenderedDemonstration, Response

BATCH_ROWS = 1024
"""Rows of a record batch; the last one may have fewer."""

_LISTS = ("prompt", "response", "served")
_NUMBERS = ("key", "prompt_hash", "question")
_SCHEMA = pyarrow.schema(
    [
        *((name, pyarrow.list_(pyarrow.int32())) for name in _LISTS),
        ("finished", pyarrow.bool_()),
        *((name, pyarrow.uint64()) for name in _NUMBERS),
    ]
)

Places = NDArray[np.int64]


class RowWriter:
    """Writes rows to a file, batch by batch; the file is whole when the block ends."""

    def __init__(self, file: Path) -> None:
        self._sink = pyarrow.OSFile(str(file), "wb")
        self._writer = pyarrow.ipc.new_file(self._sink, _SCHEMA)
        self._rows: list[RenderedDemonstration] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self._flush()
            self._writer.close()
        self._sink.close()

    def add(self, row: RenderedDemonstration) -> None:
        self._rows.append(row)
        if len(self._rows) == BATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        rows, self._rows = self._rows, []
        if not rows:
            return
        prompts = [prompt_hash(row.prompt_ids) for row in rows]
        columns: list[Any] = [
            _lists([row.prompt_ids for row in rows]),
            _lists([row.demo.ids for row in rows]),
            _lists([row.served_ids for row in rows]),
            [row.demo.finished for row in rows],
            [int(row.key, 16) for row in rows],
            prompts,
            [prompt_hash(row.served_ids) if row.served_ids else own for row, own in zip(rows, prompts, strict=True)],
        ]
        arrays = [pyarrow.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
        self._writer.write_batch(pyarrow.record_batch(arrays, schema=_SCHEMA))


def _lists(ids: Sequence[tuple[int, ...]]) -> Any:
    offsets = np.cumsum([0, *map(len, ids)], dtype=np.int32)
    values = np.fromiter(chain.from_iterable(ids), dtype=np.int32, count=offsets[-1])
    return pyarrow.ListArray.from_arrays(offsets, values)


class RowFile:
    """The rows of one file. Token ids stay on disk until they are asked for; a row's numbers are in memory."""

    def __init__(self, file: Path) -> None:
        reader = pyarrow.ipc.open_file(pyarrow.memory_map(str(file)))
        batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        self._columns = [[_numpy_lists(batch.column(name)) for name in _LISTS] for batch in batches]
        self._finished = _joined([batch.column("finished").to_numpy(zero_copy_only=False) for batch in batches], bool)
        self.keys, self.prompts, self.questions = (
            _joined([batch.column(name).to_numpy() for batch in batches], np.uint64) for name in _NUMBERS
        )
        lengths = [[np.diff(offsets) for offsets, _ in columns] for columns in self._columns]
        self.prompt_lengths, self.response_lengths = (
            _joined([own[place] for own in lengths], np.int64) for place in (0, 1)
        )

    def __len__(self) -> int:
        return len(self.keys)

    def row(self, place: int) -> RenderedDemonstration:
        number, at = divmod(place, BATCH_ROWS)
        prompt, response, served = (
            tuple(values[offsets[at] : offsets[at + 1]].tolist()) for offsets, values in self._columns[number]
        )
        answer = Response(response, finished=bool(self._finished[place]))
        return RenderedDemonstration(prompt, answer, f"{self.keys[place]:016x}", served)


def _numpy_lists(column: Any) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    return column.offsets.to_numpy(), column.values.to_numpy()


def _joined(parts: Sequence[NDArray[Any]], kind: Any) -> NDArray[Any]:
    return np.concatenate([np.empty(0, kind), *parts]).astype(kind, copy=False)


class RenderedRows(Sequence[RenderedDemonstration]):
    """Some rows of a file, in their order there or another. A row is made when it is asked for, and is not kept.

    What concerns all rows is in arrays, one number a row: 64 bits of the hashes that name a row, its prompt and its
    question, and its tokens.
    """

    def __init__(self, file: RowFile, places: Places | None = None) -> None:
        self._file = file
        self._places = np.arange(len(file)) if places is None else places

    @property
    def keys(self) -> Iterator[str]:
        """`RenderedDemonstration.key` of each."""
        return (f"{key:016x}" for key in self.key_numbers.tolist())

    @property
    def key_numbers(self) -> NDArray[np.uint64]:
        return self._file.keys[self._places]

    @property
    def prompts(self) -> NDArray[np.uint64]:
        """`prompt_hash` of the prompts."""
        return self._file.prompts[self._places]

    @property
    def questions(self) -> NDArray[np.uint64]:
        """`prompt_hash` of the questions."""
        return self._file.questions[self._places]

    @property
    def prompt_lengths(self) -> NDArray[np.int64]:
        return self._file.prompt_lengths[self._places]

    @property
    def response_lengths(self) -> NDArray[np.int64]:
        return self._file.response_lengths[self._places]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of prompt and response."""
        return self.prompt_lengths + self.response_lengths

    def take(self, places: Iterable[int] | NDArray[Any]) -> "RenderedRows":
        """The rows at these places, or where a mask is true."""
        chosen = places if isinstance(places, np.ndarray) else np.fromiter(places, dtype=np.int64)
        return RenderedRows(self._file, self._places[chosen])

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, place: int) -> RenderedDemonstration: ...
    @overload
    def __getitem__(self, place: slice) -> "RenderedRows": ...
    def __getitem__(self, place: int | slice) -> "RenderedDemonstration | RenderedRows":
        if isinstance(place, slice):
            return RenderedRows(self._file, self._places[place])
        return self._file.row(int(self._places[place]))

    def __iter__(self) -> Iterator[RenderedDemonstration]:
        return map(self._file.row, map(int, self._places))

    def __repr__(self) -> str:
        return f"<{len(self):,} rendered rows>"
