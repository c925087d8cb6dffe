"""Rows of one file: JSONL, JSON, CSV or Parquet, gzipped or not. Files are streamed where their format allows it."""

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from io import BufferedIOBase, BytesIO
from pathlib import Path
from typing import Any

from demotune.data.rows import BadRow, RawRow, shown
from demotune.errors import DemotuneError

Rows = Iterator[RawRow | BadRow]

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_PARQUET_BATCH_ROWS = 1024


def is_data_file(path: Path) -> bool:
    """Whether the name ends in one of the known suffixes, with or without .gz."""
    return _kind(path) in _READERS


def file_rows(path: Path) -> Rows:
    """Rows of a file in their order; source labels are `PATH:LINE`, or `PATH:ROW` for JSON and Parquet, from 1.

    A row that cannot be read becomes a `BadRow`. Blank lines are no rows. Raises DemotuneError when the file as a
    whole cannot be read, or when its suffix is not known.
    """
    kind = _kind(path)
    if kind not in _READERS:
        raise DemotuneError(
            f"{path} has the suffix {path.suffix!r}, which is not one of {', '.join(_READERS)} (or these with .gz); "
            "rename the file or convert it to JSONL"
        )
    try:
        with _opened(path) as stream:
            yield from _READERS[kind](stream, str(path))
    except (OSError, EOFError, zlib.error) as error:
        raise DemotuneError(f"{path} cannot be read ({error}); copy or download it again") from error


def _kind(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def _opened(path: Path) -> BufferedIOBase:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rb")
    return path.open("rb")


def _lines(stream: BufferedIOBase) -> Iterator[bytes]:
    for number, line in enumerate(stream):
        yield line.removeprefix(_BYTE_ORDER_MARK) if number == 0 else line


def _jsonl_rows(stream: BufferedIOBase, label: str) -> Rows:
    for number, line in enumerate(_lines(stream), start=1):
        if line.strip():
            yield _json_line(line, f"{label}:{number}")


def _json_line(line: bytes, source: str) -> RawRow | BadRow:
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return BadRow(source, "invalid UTF-8", f"byte 0x{line[error.start]:02x} at position {error.start}")
    except (ValueError, RecursionError) as error:  # RecursionError: thousands of opening brackets
        return BadRow(source, "broken JSON", str(error))
    return _json_row(value, source)


def _json_row(value: object, source: str) -> RawRow | BadRow:
    if not isinstance(value, dict):
        return BadRow(source, "not an object", f"{shown(value)}, expected an object with columns")
    return RawRow(source, value)


def _json_rows(stream: BufferedIOBase, label: str) -> Rows:
    content = stream.read().removeprefix(_BYTE_ORDER_MARK)
    if not content.strip():
        return
    try:
        # A wrong byte becomes a surrogate, which refuses the row that holds it and not the whole file.
        value = json.loads(content.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        if content.lstrip().startswith(b"{") and str(error).startswith("Extra data"):
            # A second object after the first: JSON Lines, which many published datasets call .json.
            yield from _jsonl_rows(BytesIO(content), label)
            return
        raise DemotuneError(f"{label} is not valid JSON ({error}); mend it, or name it .jsonl if it is lines") from None
    del content
    rows = value.get("data") if isinstance(value, dict) else value
    if not isinstance(rows, list):
        raise DemotuneError(
            f'{label} holds {shown(value)}, not rows; expected a list of objects or {{"data": [...]}}; '
            "write it so, use .jsonl, or take the file out of the folder"
        )
    del value
    for index, row in enumerate(rows):
        rows[index] = None  # the caller keeps what it needs; the raw row need not stay beside it
        yield _json_row(row, f"{label}:{index + 1}")


def _csv_rows(stream: BufferedIOBase, label: str) -> Rows:
    csv.field_size_limit(2**31 - 1)  # the default refuses cells above 128 KiB, which long conversations reach
    # A wrong byte becomes a surrogate, which refuses the row that holds it and not the whole file.
    # strict: a misplaced quote is an error of its row instead of a silently different row.
    reader = csv.reader((line.decode("utf-8", "surrogateescape") for line in _lines(stream)), strict=True)
    header = _csv_header(reader, label)
    while True:
        first_line = reader.line_num + 1
        source = f"{label}:{first_line}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield BadRow(source, "broken CSV", f"{error}; lines {first_line} to {reader.line_num}")
            continue
        if len(cells) == len(header):
            yield RawRow(source, {name: _csv_cell(cell) for name, cell in zip(header, cells, strict=True)})
        elif cells:
            yield BadRow(source, "broken CSV", f"{len(cells)} cells, but the header has {len(header)}")


def _csv_header(reader: Iterator[list[str]], label: str) -> list[str]:
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise DemotuneError(f"{label} has a broken header line ({error}); mend line 1") from None
    if len(set(header)) < len(header):
        raise DemotuneError(f"{label} names a column twice in its header {header}; rename one")
    return header


def _csv_cell(cell: str) -> object:
    """A cell is text, unless it is JSON for a list of objects: the only way to keep messages in CSV."""
    if not cell.startswith('[{"'):
        return cell
    try:
        value: object = json.loads(cell)
    except (ValueError, RecursionError):
        return cell
    return value


def _parquet_rows(stream: BufferedIOBase, label: str) -> Rows:
    import pyarrow  # noqa: PLC0415 (a second to import, and only needed here)
    from pyarrow import parquet  # noqa: PLC0415

    try:
        # Parquet is read from its end; a gzip stream cannot seek there without unpacking everything each time.
        seekable = pyarrow.BufferReader(stream.read()) if isinstance(stream, gzip.GzipFile) else stream
        number = 0
        for batch in parquet.ParquetFile(seekable).iter_batches(batch_size=_PARQUET_BATCH_ROWS):
            for row in _batch_rows(batch):
                number += 1
                source = f"{label}:{number}"
                yield RawRow(source, row) if isinstance(row, dict) else BadRow(source, "invalid UTF-8", row)
    except pyarrow.ArrowException as error:
        raise DemotuneError(f"{label} is not valid Parquet ({error}); copy or download it again") from error


def _batch_rows(batch: Any) -> list[dict[str, object] | str]:
    """Rows of a record batch, a problem in place of those that hold text that is not UTF-8."""
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError:
        return [_batch_row(batch, index) for index in range(batch.num_rows)]


def _batch_row(batch: Any, index: int) -> dict[str, object] | str:
    try:
        row: dict[str, object] = batch.slice(index, 1).to_pylist()[0]
    except UnicodeDecodeError as error:
        return f"byte 0x{error.object[error.start]:02x} at position {error.start} of a text"
    return row


_READERS: dict[str, Callable[[BufferedIOBase, str], Rows]] = {
    ".jsonl": _jsonl_rows,
    ".ndjson": _jsonl_rows,
    ".json": _json_rows,
    ".csv": _csv_rows,
    ".parquet": _parquet_rows,
}
