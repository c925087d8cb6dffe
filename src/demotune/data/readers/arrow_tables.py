"""Rows of Arrow tables, which Parquet files and datasets are made of."""

from collections.abc import Callable, Iterator
from io import BufferedReader
from typing import Any

from demotune.common.errors import DemotuneError, one_line
from demotune.data.raw_rows import RawRow, RowError, Rows

_BATCH_ROWS = 1024


def parquet_rows(stream: BufferedReader, label: str, reads: Callable[[str], bool]) -> Rows:
    """Rows with the columns that `reads` names, all where it names none; the others are not even unpacked."""
    import pyarrow  # noqa: PLC0415 (a second to import, and only needed here)
    from pyarrow import parquet  # noqa: PLC0415

    try:
        # Parquet is read from its end; a gzip stream cannot seek there without unpacking everything each time.
        source = stream if stream.seekable() else pyarrow.BufferReader(stream.read())
        file = parquet.ParquetFile(source)
        wanted, unread = divided(file.schema_arrow.names, reads, label)
        batches = file.iter_batches(batch_size=_BATCH_ROWS, columns=wanted)
        yield from arrow_rows(batches, label, wanted, unread)
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DemotuneError(f"{label} is not valid Parquet ({error}); copy or download it again") from error


def divided(names: list[str], reads: Callable[[str], bool], label: str) -> tuple[list[str], tuple[str, ...]]:
    """The columns to read and the others. Raises DemotuneError where one to read is there twice."""
    wanted = [name for name in names if reads(name)] or names
    twice = [name for name in wanted if names.count(name) > 1]
    if twice:
        raise DemotuneError(f"{label} has the column {twice[0]} twice; rename one")
    return wanted, tuple(name for name in names if name not in wanted)


def arrow_rows(batches: Iterator[Any], label: str, wanted: list[str], unread: tuple[str, ...]) -> Rows:
    """Rows of record batches; a value that Python cannot hold refuses its row."""
    number = 0
    for batch in batches:
        columns = [_values(batch.column(name)) for name in wanted]
        for values in zip(*columns, strict=True):
            number += 1
            source = f"{label}:{number}"
            refusal = next((value for value in values if isinstance(value, RowError)), None)
            if refusal is None:
                yield RawRow(source, dict(zip(wanted, values, strict=True)), unread)
            else:
                yield refusal.at(source)


def _values(column: Any) -> list[object]:
    """A value for each row, a refusal in place of those that Python cannot hold."""
    try:
        return [without_nulls(value) for value in column.to_pylist()]
    except Exception:  # whatever pyarrow raises for dates out of range, time zones, texts that are not UTF-8
        return [_value(column[index]) for index in range(len(column))]


def _value(scalar: Any) -> object:
    try:
        return without_nulls(scalar.as_py())
    except UnicodeDecodeError as error:
        return RowError("invalid UTF-8", f"byte 0x{error.object[error.start]:02x} at position {error.start} of a text")
    except Exception as error:  # as above
        problem = one_line(error, longest=200)
        return RowError("unreadable value", f"a value of the type {scalar.type} cannot be read ({problem})")


def without_nulls(value: object) -> object:
    """Arrow gives every object the keys of all others, as null: those that are null are not there."""
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return value
