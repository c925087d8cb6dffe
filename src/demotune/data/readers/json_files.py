"""Rows of JSON Lines and of JSON documents."""

from collections.abc import Iterator
from io import BufferedReader, BytesIO

from demotune.common.errors import DemotuneError
from demotune.data.raw_rows import RawRow, RowError, Rows, invalid_utf8, shown
from demotune.data.readers.json_text import key_twice, parse_document, parse_json
from demotune.data.readers.streams import text_lines, whole_text
from demotune.records import BadRow


def jsonl_rows(stream: BufferedReader, label: str) -> Rows:
    """One row a line; blank lines are none."""
    for number, line in enumerate(text_lines(stream, label), start=1):
        if line.strip():
            yield json_line(line, f"{label}:{number}")


def json_line(line: bytes, source: str) -> RawRow | BadRow:
    """The row that a line holds."""
    try:
        value = parse_json(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return BadRow(source, "invalid UTF-8", invalid_utf8(line[error.start], error.start))
    except RowError as refusal:
        return refusal.at(source)
    return _row(value, source)


def json_rows(stream: BufferedReader, label: str) -> Rows:
    """The objects of a list, or of the list under "data". JSON Lines that are called .json are read as such."""
    content = whole_text(stream, label)
    if not content.strip():
        return
    try:
        # A wrong byte becomes a surrogate, which refuses the row that holds it and not the whole file.
        value = parse_document(content.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        if content.lstrip().startswith(b"{") and str(error).startswith("Extra data"):
            # A second object after the first: JSON Lines, which many published datasets call .json.
            yield from jsonl_rows(BufferedReader(BytesIO(content)), label)
            return
        raise DemotuneError(f"{label} is not valid JSON ({error}); fix it, or name it .jsonl if it is lines") from None
    del content
    yield from _listed_rows(value, label)


def _listed_rows(value: object, label: str) -> Iterator[RawRow | BadRow]:
    rows = value.get("data") if isinstance(value, dict) else value
    if not isinstance(rows, list):
        raise DemotuneError(
            f'{label} holds {shown(value)}, not rows; expected a list of objects or {{"data": [...]}}; '
            "write it so, use .jsonl, or take the file out of the folder"
        )
    del value
    for index, row in enumerate(rows):
        rows[index] = None  # the caller keeps what it needs; the raw row need not stay beside it
        yield _checked_row(row, f"{label}:{index + 1}")


def _checked_row(value: object, source: str) -> RawRow | BadRow:
    try:
        key = key_twice(value)
    except RecursionError as error:
        return BadRow(source, "broken JSON", str(error))
    if key is not None:
        return BadRow(source, "key given twice", f"the key {key!r} is given twice in one object")
    return _row(value, source)


def _row(value: object, source: str) -> RawRow | BadRow:
    if not isinstance(value, dict):
        return BadRow(source, "not an object", f"{shown(value)}, expected an object with columns")
    return RawRow(source, value)
