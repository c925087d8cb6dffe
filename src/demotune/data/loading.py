"""Sources in, demonstrations out: the one function through which all training data enters."""

import hashlib
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain

from demotune.data.files import Rows
from demotune.data.formats import Format, choose_format, convert_row, joined_names
from demotune.data.reading import Table, open_source
from demotune.data.rows import BadRow, RawRow, RowError
from demotune.data.turns import Exchange
from demotune.errors import DemotuneError
from demotune.records import Demonstration

_ROWS_TO_DETECT_FROM = 20


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


@dataclass(slots=True)
class _Intake:
    """What has been read so far, over all sources."""

    bad_rows: list[BadRow] = field(default_factory=list)
    rows_read: int = 0
    first_seen: dict[bytes, str] = field(default_factory=dict)
    """Digest of prompt and response -> source of the row that had them first."""


def load_demonstrations(
    sources: Sequence[str],
    *,
    columns: str | None = None,
    every_turn: bool = False,
    weights: Sequence[float] = (),
    seed: int = 0,
) -> LoadedData:
    """Read demonstrations from files, folders and hub datasets; refuse bad rows one by one, with their reason.

    A source is a JSONL, JSON, CSV or Parquet file (or one of these with .gz), a folder of them, a folder written by
    `datasets.save_to_disk`, or `owner/name[:split]` on the hub. The format of each file is detected from the columns
    of its first 20 readable rows: prompt and completion, messages, preference rows (chosen), Alpaca, ShareGPT, SPIN
    pairs (real). `columns` names them instead, as "prompt=question,response=answer" or "messages=dialogue".

    every_turn: each assistant turn that follows a user turn is a demonstration. This concerns messages, ShareGPT
    and real; rows that say where their prompt ends, and preference rows, keep to the last turn.

    A row with the same prompt and response as an earlier one, of any source, is bad. weights: one number > 0 for
    each source; the result is the largest mixture in these proportions (to the nearest row) that repeats no row.
    `seed` decides which rows are kept; their order stays that of the sources.

    Raises DemotuneError when a source does not exist, cannot be read, has no rows, or has columns of no known format.
    """
    _check_arguments(sources, weights)
    intake = _Intake()
    formats: dict[str, str] = {}
    hashes: dict[str, str] = {}
    parts: list[list[Demonstration]] = []
    for source in sources:
        opened = open_source(source)
        rows_before = intake.rows_read
        part: list[Demonstration] = []
        used = [_read_table(table, columns, every_turn, intake, part) for table in opened.tables]
        if intake.rows_read == rows_before:
            raise DemotuneError(f"{source} has no rows; check that it was written completely, or leave it out")
        parts.append(part)
        formats[source] = joined_names(format for format in used if format is not None)
        hashes[source] = opened.content_hash
    if weights:
        parts = _mixture(sources, parts, weights, seed)
    return LoadedData(tuple(chain(*parts)), tuple(intake.bad_rows), formats, hashes, intake.rows_read)


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


def _read_table(
    table: Table, columns: str | None, every_turn: bool, intake: _Intake, part: list[Demonstration]
) -> Format | None:
    """Append the demonstrations of a table to `part`. Returns its format, None when no row could be read."""
    head = _head(table.rows)
    readable = [row for row in head if isinstance(row, RawRow)]
    format = choose_format(table.name, readable, columns, every_turn) if readable else None
    for row in chain(head, table.rows):
        intake.rows_read += 1
        if isinstance(row, BadRow):
            intake.bad_rows.append(row)
        elif format is not None:
            part.extend(_demonstrations(row, format, intake))
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


def _demonstrations(row: RawRow, format: Format, intake: _Intake) -> Iterator[Demonstration]:
    try:
        exchanges = convert_row(format, row.columns)
    except RowError as refusal:
        intake.bad_rows.append(BadRow(row.source, refusal.reason, refusal.detail))
        return
    for exchange in exchanges:
        digest = _digest(exchange)
        first = intake.first_seen.get(digest)
        if first is None:
            intake.first_seen[digest] = row.source
            yield Demonstration(exchange.prompt, exchange.response, row.source)
        else:
            intake.bad_rows.append(BadRow(row.source, "duplicate", f"same prompt and response as {first}"))


def _digest(exchange: Exchange) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for turn in (*exchange.prompt, {"role": "response", "content": exchange.response}):
        content = turn["content"].encode()
        # The length keeps apart turns that would read the same when written one after the other.
        digest.update(f"{turn['role']} {len(content)}\n".encode())
        digest.update(content)
    return digest.digest()


def _mixture(
    sources: Sequence[str], parts: Sequence[list[Demonstration]], weights: Sequence[float], seed: int
) -> list[list[Demonstration]]:
    """The largest choice of rows with part sizes proportional to the weights, each to the nearest row."""
    shares = [Fraction(str(weight)) for weight in weights]  # 0.1 means one tenth, not the nearest binary number
    rows_per_share = min(len(part) / share for part, share in zip(parts, shares, strict=True))
    sizes = [math.floor(share * rows_per_share + Fraction(1, 2)) for share in shares]
    if 0 in sizes:
        source = min(zip(sizes, map(len, parts), sources, strict=True))[-1]
        raise DemotuneError(
            f"weights {list(weights)} leave no row of {source} (good rows: {[len(part) for part in parts]}); "
            "give it a larger weight or leave it out"
        )
    return [
        _chosen(part, size, random.Random(f"mixture {seed} {index}"))
        for index, (part, size) in enumerate(zip(parts, sizes, strict=True))
    ]


def _chosen(part: Sequence[Demonstration], size: int, generator: random.Random) -> list[Demonstration]:
    return [part[index] for index in sorted(generator.sample(range(len(part)), size))]
