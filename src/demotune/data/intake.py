"""From data sources to training rows and held-out rows. Every refused row is recorded."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from demotune.common.errors import DemotuneError
from demotune.common.json_records import write_records
from demotune.common.progress import say
from demotune.config.methods import AnyConfig
from demotune.data import BadRow, Loaded, load_demonstrations
from demotune.data.rendering import Renderer, RenderError, content_key
from demotune.records import Demonstration, RenderedDemonstration, Response

_FEW_ROWS = 10
"""With fewer rows than this, eval_share alone decides; otherwise at least one row is held out."""


@dataclass(frozen=True, slots=True)
class Intake:
    """Training rows and held-out rows of a run, and a record of the rest."""

    train: tuple[RenderedDemonstration, ...]
    """In the order of the data; no key twice, at least one row."""
    heldout: tuple[RenderedDemonstration, ...]
    """In the order of the data; no prompt of these is in `train`."""
    bad_rows: tuple[BadRow, ...]
    notes: tuple[str, ...]
    """Lines for the screen: what was read, counted, cut, refused and held out."""
    data_hashes: dict[str, str]
    """For each source, held-out sources included, a hash of its content."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """The rows of some sources."""

    loaded: Loaded[Demonstration]
    rows: tuple[RenderedDemonstration, ...]
    sources: tuple[str, ...]
    """Where each row stood."""
    bad_rows: tuple[BadRow, ...]
    truncated: int
    looked_at: int
    """Demonstrations rendered or refused; fewer than all when max_rows was reached."""


@dataclass(frozen=True, slots=True)
class _Split:
    train: tuple[RenderedDemonstration, ...]
    heldout: tuple[RenderedDemonstration, ...]
    note: str


def prepare(config: AnyConfig, renderer: Renderer, quarantine_path: Path | None = None) -> Intake:
    """Load, render and divide the data of a run. The same files give the same rows, whatever their order.

    Held-out rows are all of one side: with `eval_data`, its rows; otherwise the rows whose prompt falls, by a hash of
    its ids, into `eval_share`. Where more than `max_eval_rows` qualify, those with the smallest hash are kept; the
    others stay in training without eval_data, and are unused with it. No training row has the prompt of a held-out
    row, nor of any row in eval_data.

    quarantine_path: where the bad rows are written, also when an error about them is raised.

    Raises DemotuneError when a source cannot be read, when more than `max_bad_share` of the rows are bad, or when no
    row is left to train on.
    """
    data = render_data(config, renderer)
    held = _render_all(_load(config, config.eval_data), config, renderer) if config.eval_data else None
    parts = [data] if held is None else [data, held]
    bad_rows = tuple(row for part in parts for row in part.bad_rows)
    if quarantine_path is not None:
        write_records(quarantine_path, bad_rows)
    _check_bad_share(parts, bad_rows, config, quarantine_path)
    split = _hold_out_share(data.rows, config) if held is None else _hold_out_eval_data(data.rows, held.rows, config)
    if not split.train:
        raise DemotuneError(
            f"no row is left to train on: {_count(data.loaded.rows_read, 'row')} read from {', '.join(config.data)}, "
            f"{len(data.bad_rows)} bad ({reasons(data.bad_rows) or 'none'}), {len(data.rows)} good; {split.note}; "
            "give other --data, or less --eval-data"
        )
    notes = (
        *(note for part in parts for note in part.loaded.notes),
        renderer.description,
        *renderer.remarks(),
        f"train: {_sizes(split.train)}",
        f"held out: {_sizes(split.heldout)}; {split.note}",
        *_notes_on_losses(parts, bad_rows, config),
    )
    hashes = {source: digest for part in parts for source, digest in part.loaded.hashes.items()}
    return Intake(split.train, split.heldout, bad_rows, notes, hashes)


def render_data(config: AnyConfig, renderer: Renderer) -> Rendered:
    """All data of a run, none of it held out, however many rows are bad. Raises DemotuneError as reading them does."""
    return _render_all(_load(config, config.data, config.data_weights), config, renderer, config.max_rows)


def _load(config: AnyConfig, sources: Sequence[str], weights: Sequence[float] = ()) -> Loaded[Demonstration]:
    return load_demonstrations(
        sources, columns=config.columns, every_turn=config.every_turn, weights=weights, seed=config.seed
    )


def _render_all(
    loaded: Loaded[Demonstration], config: AnyConfig, renderer: Renderer, max_rows: int | None = None
) -> Rendered:
    rows: dict[str, RenderedDemonstration] = {}
    sources: list[str] = []
    bad_rows = list(loaded.bad_rows)
    truncated = looked_at = 0
    for demonstration in loaded.rows:
        if len(rows) == max_rows:
            break
        looked_at += 1
        try:
            whole = renderer.render(demonstration)
            row = _fit(whole, config, renderer.bos_id)
            if row.key in rows:
                # Texts that differ can have the same ids: templates strip spaces, and cutting removes what differs.
                raise RenderError("duplicate", "same prompt and response ids as an earlier row")
        except RenderError as refusal:
            bad_rows.append(BadRow(demonstration.source, refusal.reason, refusal.detail))
        else:
            rows[row.key] = row
            sources.append(demonstration.source)
            truncated += row is not whole
    return Rendered(loaded, tuple(rows.values()), tuple(sources), tuple(bad_rows), truncated, looked_at)


def _fit(row: RenderedDemonstration, config: AnyConfig, bos_id: int | None) -> RenderedDemonstration:
    """The row itself when it fits into max_length, else cut as config.overlong says. Raises RenderError."""
    prompt_ids, response = row.prompt_ids, row.demo
    if len(prompt_ids) + len(response.ids) <= config.max_length:
        return row
    if config.overlong == "truncate-prompt":
        # A model has hardly seen a text without its first token, so that one stays.
        first = prompt_ids[:1] if prompt_ids[0] == bos_id else ()
        left = config.max_length - len(response.ids) - len(first)
        prompt_ids = first + prompt_ids[-left:] if left > 0 else ()
    elif config.overlong == "truncate-response":
        left = config.max_length - len(prompt_ids)
        response = Response(response.ids[: max(left, 0)], finished=False)
    if not prompt_ids or not response.ids or len(prompt_ids) + len(response.ids) > config.max_length:
        lengths = f"{len(row.prompt_ids)} prompt + {len(row.demo.ids)} response tokens"
        raise RenderError("over-long", f"{lengths}, max_length is {config.max_length}")
    key = content_key(prompt_ids, response.ids)
    return replace(row, prompt_ids=prompt_ids, demo=response, key=key, served_ids=row.question)


def _place(prompt_ids: Sequence[int]) -> float:
    """Where a prompt falls between 0 and 1: evenly spread, and the same in every run and data set."""
    digest = hashlib.sha256(json.dumps(list(prompt_ids)).encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64


def _hold_out_share(rows: tuple[RenderedDemonstration, ...], config: AnyConfig) -> _Split:
    places = {row.question: _place(row.question) for row in rows}
    prompts = sorted(places, key=places.__getitem__)
    chosen = [prompt for prompt in prompts if places[prompt] < config.eval_share]
    if config.eval_share > 0 and not chosen and len(rows) >= _FEW_ROWS:
        chosen = prompts[:1]
    if len(chosen) == len(prompts):
        chosen = chosen[:-1]  # something must be left to train on
    candidates = set(chosen)
    heldout = _smallest([row for row in rows if row.question in candidates], config.max_eval_rows)
    kept = {row.key for row in heldout}
    train, dropped = _without_prompts_of(heldout, [row for row in rows if row.key not in kept])
    note = f"chosen by a hash of the prompt (eval_share {config.eval_share:g}, at most {config.max_eval_rows} rows)"
    return _Split(train, heldout, note + dropped)


def _hold_out_eval_data(
    rows: tuple[RenderedDemonstration, ...], eval_rows: tuple[RenderedDemonstration, ...], config: AnyConfig
) -> _Split:
    heldout = _smallest(eval_rows, config.max_eval_rows)
    note = f"{len(heldout)} of {_count(len(eval_rows), 'row')} of eval_data"
    if len(heldout) < len(eval_rows):
        note += f", chosen by a hash of the prompt (max_eval_rows {config.max_eval_rows})"
    train, dropped = _without_prompts_of(eval_rows, rows)
    return _Split(train, heldout, note + dropped)


def _smallest(rows: Sequence[RenderedDemonstration], limit: int) -> tuple[RenderedDemonstration, ...]:
    """At most `limit` rows, those whose prompts have the smallest hash, in the order of `rows`."""
    kept = {row.key for row in sorted(rows, key=lambda row: (_place(row.question), row.key))[:limit]}
    return tuple(row for row in rows if row.key in kept)


def _without_prompts_of(
    heldout: Sequence[RenderedDemonstration], rows: Sequence[RenderedDemonstration]
) -> tuple[tuple[RenderedDemonstration, ...], str]:
    """The rows whose prompt no held-out row has, and a remark on the others."""
    prompts, questions = {row.prompt_ids for row in heldout}, {row.question for row in heldout}
    train = tuple(row for row in rows if row.prompt_ids not in prompts and row.question not in questions)
    dropped = len(rows) - len(train)
    return train, f"; {_count(dropped, 'training row')} dropped because the prompt is held out" if dropped else ""


def _check_bad_share(
    parts: Sequence[Rendered], bad_rows: Sequence[BadRow], config: AnyConfig, quarantine_path: Path | None
) -> None:
    share = _bad_share(parts)
    if share <= config.max_bad_share:
        return
    where = f"each is named in {quarantine_path or 'quarantine.jsonl of the run folder'}"
    looked_at = round(len(bad_rows) / share)  # fewer than were read where max_rows ended the rendering early
    fixes = ["correct the data"]
    if share < 1:
        fixes.append("accept more with --max-bad-share")
    if any(row.reason == "over-long" for row in bad_rows):
        fixes.append("give over-long rows a larger --max-length, or cut them with --overlong truncate-prompt")
    for note in (note for part in parts for note in part.loaded.notes):
        say(f"  {note}")
    raise DemotuneError(
        f"{len(bad_rows)} of {_count(looked_at, 'row')} read are bad ({share:.1%}, max_bad_share is "
        f"{config.max_bad_share:.1%}): {reasons(bad_rows)}; {where}. The first is {bad_rows[0].source}: "
        f"{bad_rows[0].detail}. Fix: {'; or '.join(fixes)}"
    )


def _bad_share(parts: Sequence[Rendered]) -> float:
    """Bad rows among rows read. Where max_rows ended the rendering early, the rest is taken to render alike."""
    bad = 0.0
    for part in parts:
        refused_on_reading = len(part.loaded.bad_rows)
        refused_on_rendering = len(part.bad_rows) - refused_on_reading
        bad += refused_on_reading + refused_on_rendering * len(part.loaded.rows) / max(part.looked_at, 1)
    return bad / max(sum(map(_rows_read, parts)), 1)


def _rows_read(part: Rendered) -> int:
    """With every_turn a row holds several demonstrations; each of them can be bad, so each counts as a row."""
    return max(part.loaded.rows_read, len(part.loaded.bad_rows) + len(part.loaded.rows))


def _notes_on_losses(parts: Sequence[Rendered], bad_rows: Sequence[BadRow], config: AnyConfig) -> list[str]:
    notes = [
        f"bad rows: {len(bad_rows)} of {sum(map(_rows_read, parts))} read"
        + (f" ({reasons(bad_rows)})" if bad_rows else "")
    ]
    if truncated := sum(part.truncated for part in parts):
        notes.append(f"{_count(truncated, 'row')} over {config.max_length} tokens cut ({config.overlong})")
    if unused := sum(len(part.loaded.rows) - part.looked_at for part in parts):
        notes.append(f"{_count(unused, 'row')} not used (max_rows {config.max_rows})")
    return notes


def reasons(bad_rows: Iterable[BadRow]) -> str:
    """Each reason with its count, the most frequent first."""
    return ", ".join(f"{reason} {count}" for reason, count in Counter(row.reason for row in bad_rows).most_common())


def _sizes(rows: Sequence[RenderedDemonstration]) -> str:
    if not rows:
        return "no rows"
    prompts, responses = [len(row.prompt_ids) for row in rows], [len(row.demo.ids) for row in rows]
    return (
        f"{_count(len(rows), 'row')}; prompt tokens mean {fmean(prompts):.1f}, longest {max(prompts)}; "
        f"response tokens mean {fmean(responses):.1f}, longest {max(responses)}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
