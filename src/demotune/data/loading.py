"""Sources in, demonstrations or preferences out: the one door through which all data enters."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeVar

from demotune.common.errors import DemotuneError
from demotune.data.column_names import parse_columns
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
from demotune.data.rows import BadRow, RawRow, RowError, Rows, column_list
from demotune.data.source_notes import Account
from demotune.data.sources import Table, open_source
from demotune.data.turns import Exchange, Remarks
from demotune.records import Demonstration, Preference

_ROWS_TO_DETECT_FROM = 20
_Row = TypeVar("_Row")


@dataclass(frozen=True, slots=True)
class LoadedData:
    """Demonstrations of all sources in their order, and an account of what was not used."""

    demonstrations: tuple[Demonstration, ...]
    """May be empty when every row was bad."""
    bad_rows: tuple[BadRow, ...]
    formats: dict[str, str]
    """For each source the detected format, in words."""
    hashes: dict[str, str]
    """For each source a hash of its content."""
    rows_read: int
    """Good and bad rows, before the mixture by weights."""
    notes: tuple[str, ...]
    """Lines for the screen: of each source the format, the columns used and not used, and what was understood how."""


@dataclass(frozen=True, slots=True)
class LoadedPreferences:
    """Preferences of all sources in their order, and an account of what was not used; see LoadedData."""

    preferences: tuple[Preference, ...]
    bad_rows: tuple[BadRow, ...]
    formats: dict[str, str]
    hashes: dict[str, str]
    rows_read: int
    notes: tuple[str, ...]


@dataclass(slots=True)
class _Intake:
    """How rows are read, and what has been read so far, over all sources."""

    columns: str | None
    every_turn: bool
    bad_rows: list[BadRow] = field(default_factory=list)
    rows_read: int = 0
    first_seen: dict[bytes, str] = field(default_factory=dict)
    """Digest of prompt and response (of both responses of a pair) -> source of the row that had them first."""
    formats: dict[str, str] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    accounts: dict[str, Account] = field(default_factory=dict)

    @property
    def notes(self) -> tuple[str, ...]:
        """What to say about the sources."""
        lines = (account.lines(source, self.formats[source]) for source, account in self.accounts.items())
        return tuple(chain(*lines))


def load_demonstrations(
    sources: Sequence[str],
    *,
    columns: str | None = None,
    every_turn: bool = False,
    weights: Sequence[float] = (),
    seed: int = 0,
) -> LoadedData:
    """Read demonstrations from files, folders and hub datasets; refuse bad rows one by one, with their reason.

    A source is a JSONL, JSON, CSV, TSV or Parquet file (or one of these with .gz), a folder of them, a folder written
    by `datasets.save_to_disk`, or `owner/name[:split]` on the hub. The format of each file is detected from the columns
    of its first 20 readable rows: prompt and completion, messages, preference rows (chosen), Alpaca, ShareGPT, SPIN
    pairs (real), question and answer. `columns` names them instead, as "prompt=question,response=answer" or
    "messages=dialogue", and beside them system, history, tools, documents and reasoning.

    every_turn: each assistant turn that follows a user turn is a demonstration, unless it has weight 0. This concerns
    messages, ShareGPT and real; rows that say where their prompt ends, and preference rows, keep to the last turn.

    A row that says the same as an earlier one, of any source, is bad. weights: one number > 0 for
    each source; the result is the largest mixture in these proportions (to the nearest row) that repeats no row.
    `seed` decides which rows are kept; their order stays that of the sources.

    Raises DemotuneError when a source does not exist, cannot be read, has no rows, or has columns of no known format.
    """
    _check_arguments(sources, weights)
    intake = _Intake(columns, every_turn)
    parts = [_read_source(source, intake, _demonstrations) for source in sources]
    if weights:
        parts = mixture(sources, parts, weights, seed)
    _check_named_columns(intake)
    return LoadedData(
        tuple(chain(*parts)), tuple(intake.bad_rows), intake.formats, intake.hashes, intake.rows_read, intake.notes
    )


def load_preferences(sources: Sequence[str], *, columns: str | None = None) -> LoadedPreferences:
    """Read pairs of a better and a worse response to one prompt, from the same sources as demonstrations.

    Preference rows (chosen, rejected), SPIN pairs (real, generated), or `columns` with a third name, as
    "prompt=question,response=good,rejected=bad". Each side is read as a demonstration is. A row whose sides answer
    different prompts, are the same, or cannot both be used, is bad. Raises DemotuneError as `load_demonstrations` does.
    """
    _check_arguments(sources, ())
    intake = _Intake(columns, every_turn=False)
    parts = [_read_source(source, intake, _preferences) for source in sources]
    _check_named_columns(intake)
    return LoadedPreferences(
        tuple(chain(*parts)), tuple(intake.bad_rows), intake.formats, intake.hashes, intake.rows_read, intake.notes
    )


def are_preferences(sources: Sequence[str], *, columns: str | None = None) -> bool:
    """Whether the first rows of the sources have a worse response beside the better one.

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


def _read_source(
    source: str, intake: _Intake, convert: Callable[[RawRow, Format, _Intake, Account], Iterator[_Row]]
) -> list[_Row]:
    """All that `convert` makes of the rows of a source; the account of it goes to `intake`."""
    opened = open_source(source, column_reader(intake.columns))
    account = intake.accounts[source] = Account(passed_over=opened.passed_over)
    rows_before = intake.rows_read
    part: list[_Row] = []
    used = [_read_table(table, intake, account, convert, part) for table in opened.tables]
    if intake.rows_read == rows_before:
        raise DemotuneError(f"{source} has no rows; check that it was written completely, or leave it out")
    intake.formats[source] = joined_names(format for format in used if format is not None)
    intake.hashes[source] = opened.content_hash
    return part


def _read_table(
    table: Table,
    intake: _Intake,
    account: Account,
    convert: Callable[[RawRow, Format, _Intake, Account], Iterator[_Row]],
    part: list[_Row],
) -> Format | None:
    """Append the converted rows of a table to `part`. Returns its format, None when no row could be read."""
    head = _head(table.rows)
    readable = [row for row in head if isinstance(row, RawRow)]
    format = choose_format(table.name, readable, intake.columns, intake.every_turn) if readable else None
    if format is not None:
        account.looked_at.update(format.reads)
    for row in chain(head, table.rows):
        intake.rows_read += 1
        if isinstance(row, BadRow):
            intake.bad_rows.append(row)
        elif format is not None:
            account.found.update(dict.fromkeys((*row.columns, *row.unread)))
            part.extend(convert(row, format, intake, account))
    return format


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


def _demonstrations(row: RawRow, format: Format, intake: _Intake, account: Account) -> Iterator[Demonstration]:
    remarks = Remarks()
    try:
        exchanges = convert_row(format, row.columns, remarks)
    except RowError as refusal:
        intake.bad_rows.append(BadRow(row.source, refusal.reason, refusal.detail))
        return
    account.count(row, format.reads, remarks)
    for one in exchanges:
        if _is_new(row.source, intake, one):
            yield Demonstration(one.prompt, one.response, row.source, one.reasoning, one.context)


def _preferences(row: RawRow, format: Format, intake: _Intake, account: Account) -> Iterator[Preference]:
    remarks = Remarks()
    try:
        chosen, rejected = convert_pair(format, row.columns, remarks)
    except RowError as refusal:
        intake.bad_rows.append(BadRow(row.source, refusal.reason, refusal.detail))
        return
    account.count(row, dict.fromkeys((*format.reads, *(format.sides or ()))), remarks)
    if _is_new(row.source, intake, chosen, rejected):
        yield Preference(
            chosen.prompt,
            chosen.response,
            rejected.response,
            row.source,
            chosen.reasoning,
            rejected.reasoning,
            chosen.context,
        )


def _is_new(source: str, intake: _Intake, *exchanges: Exchange) -> bool:
    """Whether no row before had the same; otherwise the row is bad."""
    digest = b"".join(map(_digest, exchanges))
    first = intake.first_seen.get(digest)
    if first is not None:
        intake.bad_rows.append(BadRow(source, "duplicate", f"same prompt and response as {first}"))
        return False
    intake.first_seen[digest] = source
    return True


def _digest(exchange: Exchange) -> bytes:
    """Of everything that could change what the model should write."""
    context = exchange.context
    whole = [exchange.prompt, exchange.response, exchange.reasoning, context.tools, context.documents]
    return hashlib.blake2b(json.dumps(whole).encode(), digest_size=16).digest()


def _check_named_columns(intake: _Intake) -> None:
    """A column beside the text that no row has is a slip of the pen, which would train without it."""
    found = dict.fromkeys(name for account in intake.accounts.values() for name in account.found)
    for part, column in parse_columns(intake.columns).items():
        if part in PARTS and found and column not in found:
            raise DemotuneError(
                f"columns name {column} as {part}, and no row has it; found: {column_list(found)}; mend --columns"
            )
