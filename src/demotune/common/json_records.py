"""Frozen dataclasses as JSON and back: a field is a key, a tuple is a list, and nan is null.

A field whose default is None is in the file only where it has a value.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from demotune.common.files import damaged, iter_rows, read_json, write_rows

Record = TypeVar("Record")


def as_json(value: object) -> Any:
    """A record, or records in lists and mappings, as what `json` writes. Items of a tuple are of one kind."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = ((field, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {field.name: as_json(own) for field, own in fields if own is not None or field.default is not None}
    if isinstance(value, Mapping):
        return {name: as_json(own) for name, own in value.items()}
    if isinstance(value, list | tuple):
        return value if value and type(value[0]) in (int, str) else [as_json(own) for own in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def from_json(kind: type[Record], value: object) -> Record:
    """The record of this kind. Raises ValueError that names the field that is missing or holds something else."""
    reader: Callable[[Any], Record] = _reader(cast(Hashable, kind))
    return reader(value)


def read_record(kind: type[Record], file: Path) -> Record:
    """The record in a JSON file. Raises DemotuneError where the file is not what was written."""
    return from_file(kind, read_json(file), file)


def read_records(kind: type[Record], file: Path) -> tuple[Record, ...]:
    """The records in a file of JSON lines. Raises DemotuneError where it is not what was written."""
    return tuple(iter_records(kind, file))


def iter_records(kind: type[Record], file: Path) -> Iterator[Record]:
    """The same, one by one."""
    return (from_file(kind, row, file) for row in iter_rows(file))


def write_records(file: Path, records: Iterable[object]) -> None:
    """One record a line, in JSON."""
    write_rows(file, map(as_json, records))


def from_file(kind: type[Record], value: object, file: Path) -> Record:
    """`from_json` of what a file holds. Raises DemotuneError that names the file."""
    try:
        return from_json(kind, value)
    except ValueError as error:
        raise damaged(file, str(error)) from None


Reader = Callable[[Any], Any]


@cache
def _reader(kind: Any) -> Reader:
    """How a value of this type is made out of JSON."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _record_reader(kind)
    if origin in (types.UnionType, typing.Union):
        return _union_reader([one for one in arguments if one is not type(None)])
    if origin in (tuple, dict, Mapping):
        return _list_reader(arguments[0]) if origin is tuple else _mapping_reader(arguments[1])
    if kind is float:
        return lambda value: math.nan if value is None else float(_checked(value, float, int))
    plain = str if origin is typing.Literal else kind
    return (lambda value: _checked(value, plain)) if plain in (int, str, bool) else (lambda value: value)


def _record_reader(kind: Any) -> Reader:
    hints = typing.get_type_hints(kind)
    readers = {field.name: _reader(hints[field.name]) for field in dataclasses.fields(kind)}
    absent = dataclasses.MISSING
    needed = {one.name for one in dataclasses.fields(kind) if one.default is one.default_factory is absent}

    def read(value: object) -> object:
        given = _checked(value, dict)
        if lacks := [name for name in readers if name in needed and name not in given]:
            raise ValueError(f"it lacks {', '.join(lacks)}")
        found = {}
        for name, reader in readers.items():
            if name in given:
                try:
                    found[name] = reader(given[name])
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from None
        return kind(**found)

    return read


def _union_reader(kinds: list[Any]) -> Reader:
    """None stays None; of several records it is the first whose fields are all there."""
    readers = [_reader(kind) for kind in kinds]

    def read(value: object) -> object:
        if value is None:
            return None
        for reader in readers[:-1]:
            try:
                return reader(value)
            except ValueError:
                continue
        return readers[-1](value)

    return read


def _list_reader(kind: Any) -> Reader:
    if kind in (int, str):
        return lambda value: tuple(_checked(value, list))
    inner = _reader(kind)
    return lambda value: tuple(inner(one) for one in _checked(value, list))


def _mapping_reader(kind: Any) -> Reader:
    inner = _reader(kind)
    return lambda value: {name: inner(own) for name, own in _checked(value, dict).items()}


def _checked(value: Any, *kinds: type) -> Any:
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise ValueError(f"expected {kinds[0].__name__}, found {value!r:.60}")
    return value
