"""Rows of text tables: cells between commas, semicolons, tabs or bars."""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from io import BufferedReader
from itertools import chain, islice

from demotune.common.errors import DemotuneError
from demotune.data.raw_rows import RawRow, RowError, Rows
from demotune.data.readers.json_text import parse_json
from demotune.data.readers.streams import LARGEST_LINE, text_lines
from demotune.records import BadRow

_DELIMITERS = (",", ";", "\t", "|")
_LINES_TO_DETECT_FROM = 200
_DECLARED = re.compile(r"sep=(.)\r?\n")
"""What Excel understands as a first line."""
_OBJECTS = re.compile(r"\[\s*\{")
_MESSAGES = re.compile(r'\[\s*\{\s*"(role|content|from|value)"')
_PYTHON_MESSAGES = re.compile(r"\[\{'(role|content|from|value)'")


def csv_rows(stream: BufferedReader, label: str) -> Rows:
    """One row per record; the first one names the columns, and its separator is the delimiter."""
    csv.field_size_limit(LARGEST_LINE)  # the default refuses cells above 128 KiB, which long conversations reach
    # A wrong byte becomes a surrogate, which refuses the row that holds it and not the whole file.
    lines = (line.decode("utf-8", "surrogateescape") for line in text_lines(stream, label))
    first = list(islice(lines, _LINES_TO_DETECT_FROM))
    # strict: a misplaced quote is an error of its row instead of a silently different row.
    declared = _DECLARED.fullmatch(first[0]) if first else None
    reader = csv.reader(chain(first, lines), strict=True, delimiter=declared[1] if declared else _delimiter(first))
    if declared:
        next(reader)
    header = _header(reader, label)
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
        if cells:
            yield _row(header, cells, source)


def _delimiter(lines: Sequence[str]) -> str:
    """What divides the header, and the most of the first records into as many cells; a comma where nothing does."""

    def records(delimiter: str) -> tuple[int, int]:
        widths: list[int] = []
        with suppress(csv.Error):  # its row is refused when it is read
            widths.extend(len(cells) for cells in csv.reader(lines, delimiter=delimiter))
        header = widths[0] if widths else 0
        return (Counter(widths[1:])[header], header) if header > 1 else (-1, 0)

    return max(_DELIMITERS, key=records)


def _header(reader: Iterator[list[str]], label: str) -> list[str]:
    try:
        header = next(reader, [])
    except csv.Error as error:
        fix = "save it with line feeds at the end of lines" if "new-line" in str(error) else "correct line 1"
        raise DemotuneError(f"{label} has a broken header line ({error}); {fix}") from None
    if len(set(header)) < len(header):
        raise DemotuneError(f"{label} names a column twice in its header {header}; rename one")
    return header


def _row(header: Sequence[str], cells: Sequence[str], source: str) -> RawRow | BadRow:
    if len(cells) != len(header):
        return BadRow(source, "broken CSV", f"{len(cells)} cells, but the header has {len(header)}")
    try:
        return RawRow(source, {name: _cell(cell) for name, cell in zip(header, cells, strict=True)})
    except RowError as refusal:
        return refusal.at(source)


def _cell(cell: str) -> object:
    """A cell is text, unless it is JSON for a list of messages, which have no other way into CSV."""
    if _PYTHON_MESSAGES.match(cell):
        raise RowError("wrong type", "messages are written as Python shows them; write them with json.dumps")
    if not _OBJECTS.match(cell):
        return cell
    try:
        value = parse_json(cell, "a list of messages")
    except RowError:
        if _MESSAGES.match(cell):
            raise
        return cell
    is_messages = isinstance(value, list) and all(isinstance(i, dict) and i.keys() & {"role", "from"} for i in value)
    return value if is_messages else cell
