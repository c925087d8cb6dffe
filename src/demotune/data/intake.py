"""From data sources to training rows and held-out rows. Every refused row is recorded."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from demotune.common.amounts import plural
from demotune.common.errors import DemotuneError
from demotune.common.json_records import write_records
from demotune.common.progress import say
from demotune.config.methods import AnyConfig
from demotune.data import BadRow
from demotune.data.holding_out import hold_out_eval_data, hold_out_share
from demotune.data.intake_cache import tokenised
from demotune.data.rendered_rows import RenderedRows
from demotune.data.rendering import Renderer
from demotune.data.tokenising import Request, Tokenised


@dataclass(frozen=True, slots=True)
class Intake:
    """Training rows and held-out rows of a run, and a record of the rest."""

    train: RenderedRows
    """In the order of the data; no key twice, at least one row."""
    heldout: RenderedRows
    """In the order of the data; no prompt of these is in `train`."""
    bad_rows: tuple[BadRow, ...]
    notes: tuple[str, ...]
    """Lines for the screen: what was read, counted, cut, refused and held out."""
    data_hashes: dict[str, str]
    """For each source, held-out sources included, a hash of its content."""


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
    data = tokenised_data(config, renderer)
    held = _tokenised(config, renderer, config.eval_data) if config.eval_data else None
    parts = [data] if held is None else [data, held]
    bad_rows = tuple(row for part in parts for row in part.bad_rows)
    if quarantine_path is not None:
        write_records(quarantine_path, bad_rows)
    _check_bad_share(parts, bad_rows, config, quarantine_path)
    split = hold_out_share(data.rows, config) if held is None else hold_out_eval_data(data.rows, held.rows, config)
    if not split.train:
        raise DemotuneError(
            f"no row is left to train on: {plural(data.counts.rows_read, 'row')} read from {', '.join(config.data)}, "
            f"{len(data.bad_rows)} bad ({reasons(data.bad_rows) or 'none'}), {len(data.rows)} good; {split.note}; "
            "give other --data, or less --eval-data"
        )
    notes = (
        *(note for part in parts for note in part.counts.notes),
        renderer.description,
        *renderer.remarks(),
        f"train: {_sizes(split.train)}",
        f"held out: {_sizes(split.heldout)}; {split.note}",
        *_notes_on_losses(parts, bad_rows, config),
    )
    hashes = {source: digest for part in parts for source, digest in part.counts.hashes.items()}
    return Intake(split.train, split.heldout, bad_rows, notes, hashes)


def tokenised_data(config: AnyConfig, renderer: Renderer) -> Tokenised:
    """All data of a run, none of it held out, however many rows are bad. Raises DemotuneError as reading them does."""
    return _tokenised(config, renderer, config.data, config.data_weights, config.max_rows)


def _tokenised(
    config: AnyConfig,
    renderer: Renderer,
    sources: Sequence[str],
    weights: Sequence[float] = (),
    max_rows: int | None = None,
) -> Tokenised:
    request = Request(
        sources=tuple(sources),
        columns=config.columns,
        every_turn=config.every_turn,
        weights=tuple(weights),
        seed=config.seed if weights else 0,
        max_rows=max_rows,
        max_length=config.max_length,
        overlong=config.overlong,
    )
    return tokenised(request, renderer)


def _check_bad_share(
    parts: Sequence[Tokenised], bad_rows: Sequence[BadRow], config: AnyConfig, quarantine_path: Path | None
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
    for note in (note for part in parts for note in part.counts.notes):
        say(f"  {note}")
    raise DemotuneError(
        f"{len(bad_rows)} of {plural(looked_at, 'row')} read are bad ({share:.1%}, max_bad_share is "
        f"{config.max_bad_share:.1%}): {reasons(bad_rows)}; {where}. The first is {bad_rows[0].source}: "
        f"{bad_rows[0].detail}. Fix: {'; or '.join(fixes)}"
    )


def _bad_share(parts: Sequence[Tokenised]) -> float:
    """Bad rows among rows read. Where max_rows ended the rendering early, the rest is taken to render alike."""
    bad = 0.0
    for part in parts:
        refused_on_reading = part.counts.refused_on_reading
        refused_on_rendering = len(part.bad_rows) - refused_on_reading
        bad += refused_on_reading + refused_on_rendering * part.counts.good / max(part.counts.looked_at, 1)
    return bad / max(sum(map(_rows_read, parts)), 1)


def _rows_read(part: Tokenised) -> int:
    """With every_turn a row holds several demonstrations; each of them can be bad, so each counts as a row."""
    return max(part.counts.rows_read, part.counts.refused_on_reading + part.counts.good)


def _notes_on_losses(parts: Sequence[Tokenised], bad_rows: Sequence[BadRow], config: AnyConfig) -> list[str]:
    notes = [
        f"bad rows: {len(bad_rows)} of {sum(map(_rows_read, parts))} read"
        + (f" ({reasons(bad_rows)})" if bad_rows else "")
    ]
    if truncated := sum(part.counts.truncated for part in parts):
        notes.append(f"{plural(truncated, 'row')} over {config.max_length} tokens cut ({config.overlong})")
    if unused := sum(part.counts.good - part.counts.looked_at for part in parts):
        notes.append(f"{plural(unused, 'row')} not used (max_rows {config.max_rows})")
    return notes


def reasons(bad_rows: Iterable[BadRow]) -> str:
    """Each reason with its count, the most frequent first."""
    return ", ".join(f"{reason} {count}" for reason, count in Counter(row.reason for row in bad_rows).most_common())


def _sizes(rows: RenderedRows) -> str:
    if not rows:
        return "no rows"
    prompts, responses = rows.prompt_lengths, rows.response_lengths
    return (
        f"{plural(len(rows), 'row')}; prompt tokens mean {prompts.mean():.1f}, longest {prompts.max()}; "
        f"response tokens mean {responses.mean():.1f}, longest {responses.max()}"
    )
