"""Sequences that are views of others: nothing is copied, an item is looked up when it is asked for."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, chain
from typing import Any, TypeVar, overload

from numpy.typing import NDArray

Item = TypeVar("Item")


class Mapped(Sequence[Item]):
    """`of(row)` of each row."""

    def __init__(self, of: Callable[[Any], Item], rows: Sequence[Any] | NDArray[Any]) -> None:
        self._of, self._rows = of, rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, place: int) -> Item: ...
    @overload
    def __getitem__(self, place: slice) -> "Mapped[Item]": ...
    def __getitem__(self, place: int | slice) -> "Item | Mapped[Item]":
        return Mapped(self._of, self._rows[place]) if isinstance(place, slice) else self._of(self._rows[place])

    def __iter__(self) -> Iterator[Item]:
        return map(self._of, self._rows)


class Joined(Sequence[Item]):
    """The items of several sequences, one sequence after the other."""

    def __init__(self, *parts: Sequence[Item]) -> None:
        self._parts, self._ends = parts, [*accumulate(map(len, parts))]

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, place: int) -> Item: ...
    @overload
    def __getitem__(self, place: slice) -> "Mapped[Item]": ...
    def __getitem__(self, place: int | slice) -> "Item | Mapped[Item]":
        places = range(len(self))[place]
        if isinstance(places, range):
            return Mapped(self.__getitem__, places)
        part = bisect_right(self._ends, places)
        return self._parts[part][places - self._ends[part]]

    def __iter__(self) -> Iterator[Item]:
        return chain(*self._parts)
