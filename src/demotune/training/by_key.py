"""Responses by the key of the row that they answer, in arrays."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from demotune.common.record_arrays import RecordArrays
from demotune.common.sequences import Mapped
from demotune.records import Response


@dataclass(frozen=True, slots=True)
class _Keyed:
    key: str
    response: Response


class ByKey:
    """The responses to each row, in the order in which they came; none for a row without any."""

    def __init__(self, responses: Iterable[tuple[str, Response]]) -> None:
        """(key of the row, response) of each."""
        self._rows = RecordArrays(_Keyed, (_Keyed(key, response) for key, response in responses))
        keys = np.fromiter((int(row.key, 16) for row in self._rows), np.uint64, len(self._rows))
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]

    def __getitem__(self, key: str) -> Sequence[Response]:
        number = np.uint64(int(key, 16))
        first, end = (int(np.searchsorted(self._keys, number, side)) for side in ("left", "right"))
        return Mapped(lambda place: self._rows[place].response, self._order[first:end])
