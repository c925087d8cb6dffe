"""Load demonstrations or preferences from sources: all data enters through here."""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Generic, TypeVar

from demotune.common.errors import DemotuneError
from demotune.data.columns_flag import parse_columns
from demotune.data.extra_columns import PARTS
from demotune.data.formats import (
    Format,
    choose_format,
    column_reader,
    convert_pair,
    convert_row,
    holds_pairs,
    joined_names,
)
from demotune.data.mixture import mixture
from demotune.data.raw_rows import RawRow, RowError, Rows, column_list
from demotune.data.source_notes import SourceNotes
from demotune.data.sources import Table, open_source
from demotune.data.turns import Exchange, Remarks
from demotune.records import BadRow, Demonstration, Preference

Row = TypeVar("Row")
_ROWS_TO_DETECT_FROM = 20


@dataclass(frozen=True, kw_only=True)
class Account:
    """What was read of all sources, and what was not used."""

    bad_rows: tuple[BadRow, ...]
    formats: dict[str, str]
    """For each source the detected format, in words."""
    hashes: dict[str, str]
    """For each source a hash of its content."""
    rows_read: int
    """Good and bad rows, before the mixture by weights."""
    notes: tuple[str, ...]
    """Lines for the screen: of each source the format, the columns used and not used, and how they were understood."""


@dataclass(frozen=True, kw_only=True)
class Loaded(Account, Generic[Row]):
    """Demonstrations or preferences of all sources in their order, and an account of what was not used."""

    rows: tuple[Row, ...]
    """May be empty when every row was bad."""


Convert = Callable[[Format, RawRow, Remarks], Iterable[tuple[Row, tuple[Exchange, ...]]]]
"""The records of a row, each with the exchanges by which duplicates are found. Raises RowError."""


def load_demonstrations(
    sources: Sequence[str],
    *,
    columns: str | None = None,
    every_turn: bool = False,
    weights: Sequence[float] = (),
    seed: int = 0,
) -> Loaded[Demonstration]:
    """Read demonstrations from files, folders and hub datasets; refuse bad rows one by one, with their reason.

    A source is a JSONL, JSON, CSV, TSV or Parquet file (or one of these with .gz), a folder of them, a folder written
    by `datasets.save_to_disk`, or `owner/name[:split]` on the hub. The format of each file is detected from the columns
    of its first 20 readable rows: prompt and completion, messages, preference rows (chosen), Alpaca, ShareGPT, SPIN
    pairs (real), question and answer. `columns` names them instead, as "prompt=question,response=answer" or
    "messages=dialogue", and also system, history, tools, documents and reasoning.

    every_turn: each assistant turn that follows a user turn is a demonstration, unless it has weight 0. This concerns
    messages, ShareGPT and real; rows that say where their prompt ends, and preference rows, keep to the last turn.

    A row that says the same as an earlier one, of any source, is bad. weights: one number > 0 for
    each source; the result is the largest mixture in these proportions (to the nearest row) that repeats no row.
    `seed` decides which rows are kept; their order stays that of the sources.

    Raises DemotuneError when a source does not exist, cannot be read, has no rows, or has columns of no known format.
    """
    return stream_demonstrations(columns, every_turn=every_turn).load(sources, weights, seed)


def stream_demonstrations(columns: str | None, *, every_turn: bool) -> "Stream[Demonstration]":
    """What `load_demonstrations` gives, row by row: for more rows than memory holds."""
    return Stream(_demonstrations, columns, every_turn=every_turn)


def source_hashes(sources: Sequence[str], columns: str | None, weights: Sequence[float] = ()) -> dict[str, str]:
    """For each source a hash of its content; no row is read. Raises DemotuneError for what cannot be opened."""
    _check_arguments(sources, weights)
    return {source: open_source(source, column_reader(columns)).content_hash for source in sources}


def load_preferences(sources: Sequence[str], *, columns: str | None = None) -> Loaded[Preference]:
    """Read pairs of a better and a worse response to one prompt, from the same sources as demonstrations.

    Preference rows (chosen, rejected), SPIN pairs (real, generated), or `columns` with a third name, as
    "prompt=question,response=good,rejected=bad". Each side is read as a demonstration is. A row whose sides answer
    different prompts, are the same, or cannot both be used, is bad. Raises DemotuneError as `load_demonstrations` does.
    """
    return Stream(_preferences, columns, reads_worse=True).load(sources)


def are_preferences(sources: Sequence[str], *, columns: str | None = None) -> bool:
    """Whether the first rows of the sources have a worse response besides the better one.

    Raises DemotuneError when those of one table have it and those of another have not, and as reading them does.
    """
    _check_arguments(sources, ())
    found: dict[bool, str] = {}
    for source in sources:
        for table in open_source(source, column_reader(columns)).tables:
            readable = [row for row in _head(table.rows) if isinstance(row, RawRow)]
            if readable:
                format = choose_format(table.name, readable, columns, every_turn=False)
                found[holds_pairs(format, readable)] = table.name
    if len(found) == 2:
        raise DemotuneError(f"{found[True]} has pairs of responses and {found[False]} has not; give them one at a time")
    return True in found


def _check_arguments(sources: Sequence[str], weights: Sequence[float]) -> None:
    if not sources or not all(sources):
        raise DemotuneError(f"data sources are {list(sources)}; give at least one, none empty, with --data")
    twice = [source for index, source in enumerate(sources) if source in sources[:index]]
    if twice:
        raise DemotuneError(f"data source {twice[0]} is given twice; give it once (rows are never repeated)")
    if weights and len(weights) != len(sources):
        raise DemotuneError(f"got {len(weights)} weights for {len(sources)} data sources; give one for each source")
    for weight in weights:
        if not (math.isfinite(weight) and weight > 0):
            raise DemotuneError(f"weights must be > 0, got {weight}; leave the source out instead")


@dataclass(slots=True)
class Stream(Generic[Row]):
    """How rows are read, and what has been read so far, over all sources. Reads once."""

    convert: Convert[Row]
    columns: str | None
    every_turn: bool = False
    reads_worse: bool = False
    """Whether the column of worse responses is read."""
    bad_rows: list[BadRow] = field(default_factory=list)
    rows_read: int = 0
    first_seen: dict[bytes, str] = field(default_factory=dict)
    """Digest of a record's exchanges -> source of the row that had them first."""
    formats: dict[str, str] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    notes: dict[str, SourceNotes] = field(default_factory=dict)

    def load(self, sources: Sequence[str], weights: Sequence[float] = (), seed: int = 0) -> Loaded[Row]:
        """The records of all sources, mixed by weights where there are any."""
        rows = tuple(self.rows(sources, weights, seed))
        return Loaded(rows=rows, **vars(self.account()))

    def rows(self, sources: Sequence[str], weights: Sequence[float] = (), seed: int = 0) -> Iterator[Row]:
        """The same, one by one. With weights the sources are read twice: sizes must be known first."""
        _check_arguments(sources, weights)
        if not weights:
            yield from (row for _, row in self._records_of(sources))
            return
        first = replace(self, bad_rows=[], first_seen={}, formats={}, hashes={}, notes={})
        good = [0] * len(sources)
        for number, _ in first._records_of(sources):
            good[number] += 1
        chosen = [iter(places) for places in mixture(sources, good, weights, seed)]
        wanted, seen = [next(places, None) for places in chosen], [0] * len(sources)
        for number, row in self._records_of(sources):
            if seen[number] == wanted[number]:
                wanted[number] = next(chosen[number], None)
                yield row
            seen[number] += 1
        if changed := [source for source in sources if self.hashes[source] != first.hashes[source]]:
            raise DemotuneError(f"{changed[0]} has changed while it was read; start again when it is written")

    def account(self) -> Account:
        """What `rows` did not give; it must have come to its end."""
        return Account(
            bad_rows=tuple(self.bad_rows),
            formats=self.formats,
            hashes=self.hashes,
            rows_read=self.rows_read,
            notes=tuple(chain(*(notes.lines(name, self.formats[name]) for name, notes in self.notes.items()))),
        )

    def _records_of(self, sources: Sequence[str]) -> Iterator[tuple[int, Row]]:
        """Each record with the number of its source."""
        for number, source in enumerate(sources):
            opened = open_source(source, column_reader(self.columns))
            notes = self.notes[source] = SourceNotes(passed_over=opened.passed_over)
            rows_before = self.rows_read
            used: list[Format] = []
            for table in opened.tables:
                for row in self._records_of_table(table, notes, used):
                    yield number, row
            if self.rows_read == rows_before:
                raise DemotuneError(f"{source} has no rows; check that it was written completely, or leave it out")
            self.formats[source] = joined_names(used)
            self.hashes[source] = opened.content_hash
        self._check_named_columns()

    def _records_of_table(self, table: Table, notes: SourceNotes, used: list[Format]) -> Iterator[Row]:
        """The records of a table; its format goes to `used`, unless no row could be read."""
        head = _head(table.rows)
        readable = [row for row in head if isinstance(row, RawRow)]
        format = choose_format(table.name, readable, self.columns, self.every_turn) if readable else None
        if format is not None:
            used.append(format)
            notes.looked_at.update(format.reads)
        for row in chain(head, table.rows):
            self.rows_read += 1
            if isinstance(row, BadRow):
                self.bad_rows.append(row)
            elif format is not None:
                notes.found.update(dict.fromkeys((*row.columns, *row.unread)))
                yield from self._records(row, format, notes)

    def _records(self, row: RawRow, format: Format, notes: SourceNotes) -> Iterator[Row]:
        remarks = Remarks()
        try:
            converted = list(self.convert(format, row, remarks))
        except RowError as refusal:
            self.bad_rows.append(refusal.at(row.source))
            return
        worse = format.sides[1:] if format.sides and self.reads_worse else ()
        notes.count(row, (*format.reads, *worse), remarks)
        for record, exchanges in converted:
            digest = b"".join(map(_digest, exchanges))
            if (first := self.first_seen.get(digest)) is not None:
                self.bad_rows.append(BadRow(row.source, "duplicate", f"same prompt and response as {first}"))
                continue
            self.first_seen[digest] = row.source
            yield record

    def _check_named_columns(self) -> None:
        """Refuse a column named with --columns that no row has: a typing error, which would train without it."""
        found = dict.fromkeys(name for notes in self.notes.values() for name in notes.found)
        for part, column in parse_columns(self.columns).items():
            if part in PARTS and found and column not in found:
                raise DemotuneError(
                    f"columns name {column} as {part}, and no row has it; found: {column_list(found)}; fix --columns"
                )


def _head(rows: Rows) -> list[RawRow | BadRow]:
    """Rows up to the 20th readable one."""
    head: list[RawRow | BadRow] = []
    readable = 0
    while readable < _ROWS_TO_DETECT_FROM:
        row = next(rows, None)
        if row is None:
            break
        head.append(row)
        readable += isinstance(row, RawRow)
    return head


def _demonstrations(
    format: Format, row: RawRow, remarks: Remarks
) -> Iterator[tuple[Demonstration, tuple[Exchange, ...]]]:
    for one in convert_row(format, row.columns, remarks):
        yield Demonstration(one.prompt, one.response, row.source, one.reasoning, one.context), (one,)


def _preferences(format: Format, row: RawRow, remarks: Remarks) -> Iterator[tuple[Preference, tuple[Exchange, ...]]]:
    better, worse = convert_pair(format, row.columns, remarks)
    texts = (better.prompt, better.response, worse.response)
    yield Preference(*texts, row.source, better.reasoning, worse.reasoning, better.context), (better, worse)


def _digest(exchange: Exchange) -> bytes:
    """Of everything that could change what the model should write."""
    context = exchange.context
    whole = [exchange.prompt, exchange.response, exchange.reasoning, context.tools, context.documents]
    return hashlib.blake2b(json.dumps(whole).encode(), digest_size=16).digest()
