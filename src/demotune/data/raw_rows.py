"""A row that was read: with its columns, or refused with a reason."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from demotune.records import BadRow

Reason = Literal[
    "broken JSON",
    "key given twice",
    "broken CSV",
    "invalid UTF-8",
    "unreadable value",
    "not an object",
    "missing column",
    "wrong type",
    "empty prompt",
    "empty response",
    "no user turn",
    "no final user turn",
    "no final assistant turn",
    "no turn to learn",
    "turn weight",
    "unknown role",
    "tool call",
    "non-text content",
    "two system texts",
    "two thoughts",
    "prompt mismatch",
    "duplicate",
]
"""Every reason for which a row is refused while it is read."""

_SHOWN_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row as it was read, nothing checked yet."""

    source: str
    columns: Mapping[str, object]
    unread: tuple[str, ...] = ()
    """Names of the other columns of the file, which no format reads."""


class RowError(Exception):
    """Why one row cannot be used. Never leaves `demotune.data`: it becomes a `BadRow`."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason: Reason = reason
        self.detail = detail

    def at(self, source: str) -> BadRow:
        """The row that was refused."""
        return BadRow(source, self.reason, self.detail)


Rows = Iterator[RawRow | BadRow]


def shown(value: object) -> str:
    """Type of a value, and its beginning where it is short enough to mean something to a reader."""
    if value is None:
        return "null"
    if isinstance(value, list | tuple | dict):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, str):
        return f"text {value[:_SHOWN_CHARACTERS]!r}"
    return f"{type(value).__name__} {str(value)[:_SHOWN_CHARACTERS]}"


def invalid_utf8(byte: int, position: int) -> str:
    """What is wrong with a text, and of which encoding it probably is."""
    return f"byte 0x{byte:02x} at position {position}; is it Windows-1252? save the file as UTF-8"


def column_list(names: Iterable[str]) -> str:
    """Column names for a message; names that no terminal can print are escaped."""
    return ", ".join(name.encode("utf-8", "backslashreplace").decode() for name in names)
