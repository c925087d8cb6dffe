"""`demotune inspect`: rows as the model sees them, what of them is learned, their lengths, and what is refused."""

from pathlib import Path

import numpy as np
from rich.text import Text

from demotune.common.errors import DemotuneError
from demotune.common.progress import console, say, show_table
from demotune.config.field import fields_of
from demotune.config.interactive import InspectConfig
from demotune.config.methods import AnyConfig, SFTConfig
from demotune.data.intake import tokenised_data
from demotune.data.rendered_rows import RenderedRows
from demotune.data.rendering import Renderer
from demotune.data.tokenising import Tokenised
from demotune.models.policy import longest_input, resolve_model
from demotune.models.tokenizers import renderer_of
from demotune.records import BadRow, RenderedDemonstration

GIVEN, LEARNED = "dim", "green"
OPEN, CLOSE = "⟦", "⟧"
"""Around what is learned, where there are no colours."""
LONGEST_TEXT = 1500
"""Characters of a prompt or of a response that are shown."""
EXAMPLES = 2
"""Refused rows shown for each reason."""
QUANTILES = {"shortest": 0, "5%": 5, "median": 50, "95%": 95, "longest": 100}
BINS, BAR = 8, 40


def inspect(config: InspectConfig) -> None:
    """Show the data of `config` as training would read it. Raises DemotuneError where it cannot be read."""
    found, renderer = read_data(
        SFTConfig(
            model=config.model, data=config.data, output="not written", columns=config.columns,
            template=config.template, every_turn=config.every_turn, overlong=config.overlong,
            max_length=config.max_length or readable_length(resolve_model(config.model)), max_rows=config.max_rows,
        )
    )  # fmt: skip
    show_rows(found, renderer, config.rows)
    _show_lengths(found.rows)
    _show_refused(found)
    if not found.rows:
        raise DemotuneError("no row can be used; the reasons are above")


def readable_length(model: Path) -> int:
    """The max_length of a run, or what the model can read where that is less."""
    longest = longest_input(model)
    default: int = fields_of(SFTConfig)["max_length"].default
    return default if longest is None else min(default, longest)


def read_data(config: AnyConfig) -> tuple[Tokenised, Renderer]:
    """All rows of a run's data; says which format, columns and template were found."""
    folder = resolve_model(config.model)
    renderer = renderer_of(folder, config.template)
    found = tokenised_data(config, renderer)
    for note in (*found.counts.notes, renderer.description, *renderer.remarks()):
        say(note)
    return found, renderer


def show_rows(found: Tokenised, renderer: Renderer, count: int) -> None:
    """So many rows, evenly spread over the data, under a legend."""
    rows = len(found.rows)
    if not rows or not count:
        return
    legend = Text("\nthe model is given ")
    console.print(legend.append("the prompt", GIVEN).append(" and learns ").append_text(_learned("the response")))
    for place in sorted({number * rows // count for number in range(count)}):
        row = found.rows[place]
        prompt, response = len(row.prompt_ids), len(row.demo.ids)
        say(f"\ngood row {place + 1:,} of {rows:,}: {prompt} prompt + {response} response tokens", style="bold")
        console.print(_as_text(row, renderer), soft_wrap=True)


def _as_text(row: RenderedDemonstration, renderer: Renderer) -> Text:
    """The whole row with its control tokens; its middle is left out where it is long."""
    prompt, response = (_shortened(renderer.as_written(ids)) for ids in (row.prompt_ids, row.demo.ids))
    return Text().append(prompt, GIVEN).append_text(_learned(response))


def _learned(text: str) -> Text:
    return Text(text, LEARNED) if console.color_system else Text(f"{OPEN}{text}{CLOSE}")


def _shortened(text: str) -> str:
    if len(text) <= LONGEST_TEXT:
        return text
    half = LONGEST_TEXT // 2
    return f"{text[:half]} [... {len(text) - 2 * half:,} characters ...] {text[-half:]}"


def _show_lengths(rows: RenderedRows) -> None:
    """Quantiles of prompts, responses and both, and how many rows are how long."""
    if not rows:
        return
    prompts, responses = rows.prompt_lengths, rows.response_lengths
    sides = {"prompt": prompts, "response": responses, "both": prompts + responses}
    table = [
        (
            name,
            *(f"{np.percentile(counts, share):,.0f}" for share in QUANTILES.values()),
            f"{counts.mean():,.1f}",
            f"{counts.sum():,}",
        )
        for name, counts in sides.items()
    ]
    say()
    show_table(f"tokens of {len(rows):,} good rows", ("", *QUANTILES, "mean", "all"), table)
    shortest, width = int(sides["both"].min()), -(-int(np.ptp(sides["both"]) + 1) // BINS)
    counts = np.bincount((sides["both"] - shortest) // width)
    bars = [
        (_span(shortest + place * width, width), "▇" * -(-int(count) * BAR // int(counts.max())), f"{count:,}")
        for place, count in enumerate(counts)
    ]
    show_table("tokens of prompt and response", ("", "", "rows"), bars, texts=2)


def _span(first: int, width: int) -> str:
    return f"{first:,}" if width == 1 else f"{first:,} to {first + width - 1:,}"


def _show_refused(found: Tokenised) -> None:
    """How many rows are refused, by reason, with the first of each."""
    looked_at = found.counts.rows_read
    if not found.bad_rows:
        say(f"no row of {looked_at:,} is refused")
        return
    by_reason: dict[str, list[BadRow]] = {}
    for row in found.bad_rows:
        by_reason.setdefault(row.reason, []).append(row)
    say(f"{len(found.bad_rows):,} of {looked_at:,} rows are refused:", style="yellow")
    for reason, rows in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        say(f"  {reason}: {len(rows):,}")
        for row in rows[:EXAMPLES]:
            say(f"    {row.source}: {row.detail}", style="dim")
