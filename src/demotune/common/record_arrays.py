"""Many frozen records in a few arrays: four bytes a token id, where Python objects take up to forty.

A record is made when it is asked for, and is not kept.
"""

import dataclasses
import types
import typing
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar, overload

Record = TypeVar("Record")


class RecordArrays(Sequence[Record], Generic[Record]):
    """Records of one dataclass, whose fields are numbers, texts, tuples of numbers, or such dataclasses, or None.

    Whole numbers in tuples are token ids, of 32 bits.
    """

    def __init__(self, kind: type[Record], records: Iterable[Record] = ()) -> None:
        """Reads `records` once, from beginning to end."""
        self._column, self._count = _column(kind), 0
        for record in records:
            self._column.append(record)
            self._count += 1

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, place: int) -> Record: ...
    @overload
    def __getitem__(self, place: slice) -> list[Record]: ...
    def __getitem__(self, place: int | slice) -> Record | list[Record]:
        places = range(self._count)[place]
        if isinstance(places, range):
            return [self._column.at(one) for one in places]
        record: Record = self._column.at(places)
        return record

    def __iter__(self) -> Iterator[Record]:
        return map(self._column.at, range(self._count))

    def __repr__(self) -> str:
        return f"<{self._count:,} records>"


class _Column(Protocol):
    """The values of one field."""

    def append(self, value: Any) -> None: ...
    def at(self, place: int) -> Any: ...


class _Numbers:
    def __init__(self, kind: type, code: str) -> None:
        self._kind, self._values = kind, array(code)

    def append(self, value: Any) -> None:
        self._values.append(value)

    def at(self, place: int) -> Any:
        return self._kind(self._values[place])


class _Lists:
    """All tuples in one array, and where each of them ends."""

    def __init__(self, code: str) -> None:
        self._values, self._ends = array(code), array("q", [0])

    def append(self, value: Iterable[float]) -> None:
        self._values.extend(value)  # type: ignore[arg-type]
        self._ends.append(len(self._values))

    def at(self, place: int) -> tuple[float, ...]:
        return tuple(self._values[self._ends[place] : self._ends[place + 1]])


class _Texts:
    def __init__(self) -> None:
        self._bytes = _Lists("B")

    def append(self, value: str) -> None:
        self._bytes.append(value.encode())

    def at(self, place: int) -> str:
        return bytes(self._bytes.at(place)).decode()  # type: ignore[arg-type]


class _Optional:
    """Values of which some are None: only the others are kept, with the number of those before each."""

    def __init__(self, column: _Column) -> None:
        self._column, self._before = column, array("q", [0])

    def append(self, value: Any) -> None:
        if value is not None:
            self._column.append(value)
        self._before.append(self._before[-1] + (value is not None))

    def at(self, place: int) -> Any:
        before = self._before[place]
        return None if self._before[place + 1] == before else self._column.at(before)


class _Records:
    def __init__(self, kind: Any) -> None:
        hints = typing.get_type_hints(kind)
        self._kind = kind
        self._columns = [(field.name, _column(hints[field.name])) for field in dataclasses.fields(kind)]

    def append(self, value: Any) -> None:
        for name, column in self._columns:
            column.append(getattr(value, name))

    def at(self, place: int) -> Any:
        return self._kind(*[column.at(place) for _, column in self._columns])


def _column(kind: Any) -> _Column:
    """What holds values of this type. Raises TypeError for one that no array holds."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _Records(kind)
    if origin in (types.UnionType, typing.Union):
        (own,) = [one for one in arguments if one is not types.NoneType]
        return _Optional(_column(own))
    if origin is tuple and arguments in ((int, ...), (float, ...)):
        return _Lists("i" if arguments[0] is int else "d")
    if kind is str or origin is typing.Literal:
        return _Texts()
    if kind in (bool, int, float):
        return _Numbers(kind, {bool: "b", int: "q", float: "d"}[kind])
    raise TypeError(f"{kind} is kept in no array")
