"""From sources to rows of token ids, written to files as they come: no data set is in memory as a whole."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal

from demotune.common.files import publish_file, write_record
from demotune.common.json_records import as_json, read_record, read_records, write_records
from demotune.common.progress import SECONDS_BETWEEN_LINES, minutes, say, track
from demotune.data.loading import stream_demonstrations
from demotune.data.rendered_rows import RenderedRows, RowFile, RowWriter
from demotune.data.rendering import Renderer, RenderError, content_key
from demotune.records import BadRow, Demonstration, RenderedDemonstration, Response

ROWS, BAD_ROWS, COUNTS = "rows.arrow", "bad_rows.jsonl", "counts.json"
_BATCH_ROWS, _BATCH_CHARACTERS = 1024, 4_000_000
"""Rows that are rendered together: at most so many, or of so much text."""


@dataclass(frozen=True, slots=True)
class Request:
    """Which rows are read, and how they are cut: every setting that changes token ids."""

    sources: tuple[str, ...]
    columns: str | None
    every_turn: bool
    weights: tuple[float, ...]
    seed: int
    """Of the mixture by weights."""
    max_rows: int | None
    max_length: int
    overlong: Literal["quarantine", "truncate-prompt", "truncate-response"]


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the rows."""

    notes: tuple[str, ...]
    """Lines for the screen about the sources."""
    hashes: dict[str, str]
    """For each source a hash of its content."""
    rows_read: int
    good: int
    """Demonstrations that were read, after the mixture by weights."""
    looked_at: int
    """Those that were rendered or refused then; fewer than all when max_rows was reached."""
    refused_on_reading: int
    truncated: int
    remarks: dict[str, int]
    """What was done to conversations, for the screen, and to how many."""


@dataclass(frozen=True, slots=True)
class Tokenised:
    """The rows of some sources."""

    rows: RenderedRows
    bad_rows: tuple[BadRow, ...]
    counts: Counts


def tokenise(request: Request, renderer: Renderer, folder: Path) -> list[Path]:
    """Read and render the rows and write them into the folder. Returns the files. Raises DemotuneError."""
    stream = stream_demonstrations(request.columns, every_turn=request.every_turn)
    demonstrations = stream.rows(request.sources, request.weights, request.seed)
    refused: list[BadRow] = []
    keys: set[str] = set()
    remarks: Counter[str] = Counter()
    looked_at = truncated = 0
    with (
        publish_file(folder / ROWS) as unfinished,
        RowWriter(unfinished) as writer,
        track("reading and tokenising", None, "rows") as tracker,
    ):
        while batch := _batch(demonstrations, None if request.max_rows is None else request.max_rows - len(keys)):
            looked_at += len(batch)
            for demonstration, whole in zip(batch, renderer.render_all(batch, remarks), strict=True):
                try:
                    row = _fit(whole, request, renderer.bos_id)
                    if row.key in keys:
                        # Texts that differ can have the same ids: templates strip spaces, and cutting removes what
                        # differs.
                        raise RenderError("duplicate", "same prompt and response ids as an earlier row")
                except RenderError as refusal:
                    refused.append(BadRow(demonstration.source, refusal.reason, refusal.detail))
                else:
                    keys.add(row.key)
                    writer.add(row)
                    truncated += row is not whole
            tracker.advance(len(batch), f"{looked_at / max(tracker.seconds, 1e-9):,.0f} rows/s")
        unused = sum(1 for _ in demonstrations)
    if tracker.seconds > SECONDS_BETWEEN_LINES:
        say(f"  {looked_at:,} rows read and tokenised in {minutes(tracker.seconds)}")
    account = stream.account()
    counts = Counts(
        notes=account.notes,
        hashes=account.hashes,
        rows_read=account.rows_read,
        good=looked_at + unused,
        looked_at=looked_at,
        refused_on_reading=len(account.bad_rows),
        truncated=truncated,
        remarks=dict(remarks),
    )
    write_records(folder / BAD_ROWS, (*account.bad_rows, *refused))
    write_record(folder / COUNTS, as_json(counts))
    return [folder / name for name in (ROWS, BAD_ROWS, COUNTS)]


def read_tokenised(folder: Path) -> Tokenised:
    """What `tokenise` wrote; token ids stay on disk."""
    return Tokenised(
        RenderedRows(RowFile(folder / ROWS)),
        read_records(BadRow, folder / BAD_ROWS),
        read_record(Counts, folder / COUNTS),
    )


def _batch(demonstrations: Iterator[Demonstration], left: int | None) -> list[Demonstration]:
    """The next ones, at most `left`: each may be a row."""
    found, characters = [], 0
    for one in islice(demonstrations, _BATCH_ROWS if left is None else min(left, _BATCH_ROWS)):
        found.append(one)
        characters += len(one.response) + sum(len(message["content"]) for message in one.prompt)
        if characters > _BATCH_CHARACTERS:
            break
    return found


def _fit(row: RenderedDemonstration | RenderError, request: Request, bos_id: int | None) -> RenderedDemonstration:
    """The row itself when it fits into max_length, else cut as `overlong` says. Raises RenderError."""
    if isinstance(row, RenderError):
        raise row
    prompt_ids, response = row.prompt_ids, row.demo
    if len(prompt_ids) + len(response.ids) <= request.max_length:
        return row
    if request.overlong == "truncate-prompt":
        # A model has hardly seen a text without its first token, so that one stays.
        first = prompt_ids[:1] if prompt_ids[0] == bos_id else ()
        left = request.max_length - len(response.ids) - len(first)
        prompt_ids = first + prompt_ids[-left:] if left > 0 else ()
    elif request.overlong == "truncate-response":
        left = request.max_length - len(prompt_ids)
        response = Response(response.ids[: max(left, 0)], finished=False)
    if not prompt_ids or not response.ids or len(prompt_ids) + len(response.ids) > request.max_length:
        lengths = f"{len(row.prompt_ids)} prompt + {len(row.demo.ids)} response tokens"
        raise RenderError("over-long", f"{lengths}, max_length is {request.max_length}")
    key = content_key(prompt_ids, response.ids)
    return replace(row, prompt_ids=prompt_ids, demo=response, key=key, served_ids=row.question)
