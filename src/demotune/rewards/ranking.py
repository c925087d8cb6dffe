"""Rows and a reward: `demotune score` says what each row earns, `demotune select` keeps the best demonstrations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich import box
from rich.table import Table

from demotune.common.errors import DemotuneError
from demotune.common.files import write_rows
from demotune.common.progress import console, say, track
from demotune.data import BadRow, are_preferences, load_demonstrations, load_preferences
from demotune.data.intake import reasons, write_quarantine
from demotune.data.rendering import RenderError
from demotune.records import Completion, Context, Demonstration, Message, Preference
from demotune.rewards.reward import Reward, as_completion
from demotune.runs.heldout import PairCheck, check_pairs

SHOWN_REFUSALS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How rows are read and scored; the defaults read everything that the reward can."""

    columns: str | None = None
    """As in training, with rejected=COLUMN for preference rows; detected when not given."""
    max_length: int | None = None
    """Refuse rows with more tokens of prompt and response."""
    max_rows: int | None = None
    """Score only the first N good rows."""
    batch_size: int = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which rows to keep: the `top` best, or all that score `threshold` or more. Exactly one of the two is given."""

    top: int | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        if (self.top is None) == (self.threshold is None):
            given = "neither" if self.top is None else "both"
            raise DemotuneError(f"{given} of --top and --threshold given; say --top N or --threshold SCORE")
        if self.top is not None and self.top < 1:
            raise DemotuneError(f"top must be at least 1, got {self.top}; say how many rows to keep")


@dataclass(frozen=True, slots=True)
class ScoredRow:
    """A demonstration and what it earns."""

    demonstration: Demonstration
    score: float
    tokens: int
    """Of the response, end-of-turn token included, as the reward reads it."""


@dataclass(frozen=True, slots=True)
class ScoredPreference:
    """A preference and what its two sides earn, each (chosen, rejected)."""

    preference: Preference
    scores: tuple[float, float]
    tokens: tuple[int, int]


@dataclass(frozen=True, slots=True)
class ScoredRows:
    """Demonstrations in the order of the data, and the rows that have no score, with their reasons."""

    rows: tuple[ScoredRow, ...]
    refused: tuple[BadRow, ...]


@dataclass(frozen=True, slots=True)
class ScoredPreferences:
    """Preferences in the order of the data, how often the reward agrees with them, and the rows without a score."""

    rows: tuple[ScoredPreference, ...]
    refused: tuple[BadRow, ...]
    check: PairCheck


def score_rows(reward: Reward, sources: Sequence[str], reading: Reading | None = None) -> ScoredRows:
    """Score every demonstration; of preference rows, the chosen side. Raises DemotuneError where no row has a score."""
    reading = reading or Reading()
    loaded = load_demonstrations(sources, columns=reading.columns)
    _say_each(loaded.notes)
    refused = list(loaded.bad_rows)
    rows: list[tuple[Demonstration, Completion]] = []
    for row in loaded.rows:
        if len(rows) == reading.max_rows:
            break
        try:
            rows.append((row, _completion(reward, row, reading)))
        except RenderError as refusal:
            refused.append(BadRow(row.source, refusal.reason, refusal.detail))
    scores = _score(reward, [completion for _, completion in rows], reading, refused, sources)
    scored = (
        ScoredRow(row, score, len(completion.response.ids))
        for (row, completion), score in zip(rows, scores, strict=True)
    )
    return ScoredRows(tuple(scored), tuple(refused))


def score_preferences(reward: Reward, sources: Sequence[str], reading: Reading | None = None) -> ScoredPreferences:
    """Score both sides of every preference row. Raises DemotuneError where no row has two scores."""
    reading = reading or Reading()
    loaded = load_preferences(sources, columns=reading.columns)
    _say_each(loaded.notes)
    refused = list(loaded.bad_rows)
    rows: list[tuple[Preference, Completion, Completion]] = []
    for row in loaded.rows:
        if len(rows) == reading.max_rows:
            break
        try:
            chosen, rejected = (_completion(reward, side, reading) for side in _sides(row))
        except RenderError as refusal:
            refused.append(BadRow(row.source, refusal.reason, refusal.detail))
        else:
            rows.append((row, chosen, rejected))
    sides = [side for _, *both in rows for side in both]
    scores = _score(reward, sides, reading, refused, sources)
    scored = tuple(
        ScoredPreference(row, (chosen_score, rejected_score), (len(chosen.response.ids), len(rejected.response.ids)))
        for (row, chosen, rejected), chosen_score, rejected_score in zip(rows, scores[::2], scores[1::2], strict=True)
    )
    check = check_pairs([row.scores for row in scored], [row.tokens for row in scored])
    return ScoredPreferences(scored, tuple(refused), check)


def select_rows(rows: Sequence[ScoredRow], choice: Choice) -> list[ScoredRow]:
    """The rows to keep, in the order of the data; of equal scores at the border of `top` the earlier ones stay.

    Raises DemotuneError where no row reaches the threshold.
    """
    if choice.threshold is None:
        best = sorted(range(len(rows)), key=lambda number: (-rows[number].score, number))[: choice.top]
        return [rows[number] for number in sorted(best)]
    kept = [row for row in rows if row.score >= choice.threshold]
    if not kept:
        highest = max(row.score for row in rows)
        raise DemotuneError(
            f"no row scores {choice.threshold:g} or more, the best has {highest:.6g}; lower --threshold"
        )
    return kept


def score(reward: Reward, sources: Sequence[str], reading: Reading, output: Path | None) -> None:
    """`demotune score`: a summary on the screen, and each row with its score in `output`."""
    _check_output(output, sources)
    say(reward.name)
    found: ScoredRows | ScoredPreferences
    if are_preferences(sources, columns=reading.columns):
        found = score_preferences(reward, sources, reading)
        rows = [_preference_row(row) for row in found.rows]
        _show_scores(
            {
                "chosen": [(row.scores[0], row.tokens[0]) for row in found.rows],
                "rejected": [(row.scores[1], row.tokens[1]) for row in found.rows],
            }
        )
        _say_accuracy(found.check)
    else:
        found = score_rows(reward, sources, reading)
        rows = [_row(row) for row in found.rows]
        _show_scores({"responses": [(row.score, row.tokens) for row in found.rows]})
    if output is not None:
        write_rows(output, rows)
        say(f"{len(rows)} rows written to {output}")
    _report_refused(found.refused, output)
    for remark in reward.renderer.remarks():
        say(remark)


def select(reward: Reward, sources: Sequence[str], reading: Reading, choice: Choice, output: Path) -> None:
    """`demotune select`: the best demonstrations as JSONL that trains again, and what was kept on the screen."""
    _check_output(output, sources)
    say(reward.name)
    found = score_rows(reward, sources, reading)
    kept = select_rows(found.rows, choice)
    by = {"reward": {"name": reward.name, "hash": reward.hash}}  # so that it is known if this reward judges later
    write_rows(output, (_row(row) | by for row in kept))
    _show_scores(
        {
            "all": [(row.score, row.tokens) for row in found.rows],
            "kept": [(row.score, row.tokens) for row in kept],
        }
    )
    if choice.top is not None and choice.top > len(kept):
        say(f"only {len(kept)} rows have a score, fewer than --top {choice.top}: all are kept")
    say(f"{len(kept)} of {len(found.rows)} rows kept, in the order of the data, in {output}")
    _report_refused(found.refused, output)
    for remark in reward.renderer.remarks():
        say(remark)


def _completion(reward: Reward, row: Demonstration, reading: Reading) -> Completion:
    return as_completion(
        reward,
        row.prompt,
        row.response,
        reasoning=row.reasoning,
        context=row.context,
        max_length=reading.max_length,
    )


def _sides(row: Preference) -> tuple[Demonstration, Demonstration]:
    return (
        Demonstration(row.prompt, row.chosen, row.source, row.chosen_reasoning, row.context),
        Demonstration(row.prompt, row.rejected, row.source, row.rejected_reasoning, row.context),
    )


def _score(
    reward: Reward,
    completions: Sequence[Completion],
    reading: Reading,
    refused: Sequence[BadRow],
    sources: Sequence[str],
) -> list[float]:
    if not completions:
        first = f"; the first is {refused[0].source}: {refused[0].detail}" if refused else ""
        raise DemotuneError(f"no row of {', '.join(sources)} can be scored ({reasons(refused)}){first}")
    with track("score", reward.passes * len(completions), "passes") as tracker:
        return reward.score(completions, batch_size=reading.batch_size, advance=tracker.advance)


def _row(row: ScoredRow) -> dict[str, object]:
    """In TRL's prompt-completion form."""
    return {
        "source": row.demonstration.source,
        "prompt": list(row.demonstration.prompt),
        "completion": _reply(row.demonstration.response, row.demonstration.reasoning),
        **_columns(row.demonstration.context),
        "score": row.score,
        "tokens": row.tokens,
    }


def _preference_row(row: ScoredPreference) -> dict[str, object]:
    """In TRL's preference form, with explicit prompt."""
    return {
        "source": row.preference.source,
        "prompt": list(row.preference.prompt),
        "chosen": _reply(row.preference.chosen, row.preference.chosen_reasoning),
        "rejected": _reply(row.preference.rejected, row.preference.rejected_reasoning),
        **_columns(row.preference.context),
        "score_chosen": row.scores[0],
        "score_rejected": row.scores[1],
        "tokens_chosen": row.tokens[0],
        "tokens_rejected": row.tokens[1],
    }


def _reply(text: str, reasoning: str) -> list[Message]:
    turn = {"role": "assistant", "content": text}
    return [turn | {"reasoning_content": reasoning} if reasoning else turn]


def _columns(context: Context) -> dict[str, object]:
    """What a row had beside its conversation, under the names by which it is read again."""
    columns = {"tools": context.tools, "documents": context.documents}
    return {name: [dict(entry) for entry in entries] for name, entries in columns.items() if entries}


def _show_scores(groups: Mapping[str, Sequence[tuple[float, int]]]) -> None:
    """Distribution of (score, response tokens), a column for each group, and how far length tells the score."""
    table = Table(box=box.SIMPLE)
    for heading in ("score", *groups):
        table.add_column(heading, justify="right" if heading in groups else "left", no_wrap=True)
    columns = [_distribution(pairs) for pairs in groups.values()]
    for name in columns[0]:
        table.add_row(name, *(column[name] for column in columns))
    console.print(table)


def _distribution(pairs: Sequence[tuple[float, int]]) -> dict[str, str]:
    scores, tokens = np.array(pairs, dtype=float).T
    quantiles = np.quantile(scores, [0, 0.25, 0.5, 0.75, 1])
    named = {"mean": scores.mean(), "standard deviation": scores.std()}
    named |= dict(zip(("lowest", "25%", "median", "75%", "highest"), quantiles, strict=True))
    varied = min(scores.std(), tokens.std()) > 0
    return {
        "rows": str(len(pairs)),
        **{name: f"{value:.4g}" for name, value in named.items()},
        "response tokens, mean": f"{tokens.mean():.1f}",
        "correlation with length": f"{np.corrcoef(scores, tokens)[0, 1]:+.2f}" if varied else "-",
    }


def _say_accuracy(check: PairCheck) -> None:
    say(
        f"accuracy: chosen earns more in {check.accuracy.text()} of "
        f"{check.pairs} pairs (95% interval; a tie counts as half), by {check.margin:+.3g} on average"
    )
    if check.matched_accuracy is None:
        say("no pair has responses of like length (within a quarter): the accuracy may be one of length")
        return
    matched = check.matched_accuracy.text()
    say(f"accuracy on the {check.matched_pairs} pairs of like length (within a quarter): {matched}")


def _check_output(output: Path | None, sources: Sequence[str]) -> None:
    if output is None:
        return
    if not output.name.endswith((".jsonl", ".jsonl.gz")):
        raise DemotuneError(f"output {output} must end in .jsonl or .jsonl.gz: rows are written as JSON Lines")
    if output.resolve() in {Path(source).resolve() for source in sources}:
        raise DemotuneError(f"output {output} is also the data; give another file with --output")


def _report_refused(refused: Sequence[BadRow], output: Path | None) -> None:
    """Every row without a score: counted, and named in a file beside the output, else the first ones on the screen."""
    beside = output and output.with_name(f"{output.name.removesuffix('.gz').removesuffix('.jsonl')}.refused.jsonl")
    if beside is not None:
        beside.unlink(missing_ok=True)  # of an earlier command
    if not refused:
        return
    if beside is not None:
        write_quarantine(refused, beside)
        say(f"{len(refused)} rows have no score ({reasons(refused)}); each is named in {beside}", style="yellow")
        return
    say(f"{len(refused)} rows have no score ({reasons(refused)}); with --output each is named", style="yellow")
    for row in refused[:SHOWN_REFUSALS]:
        say(f"  {row.source}: {row.reason}: {row.detail}")


def _say_each(notes: Sequence[str]) -> None:
    for note in notes:
        say(note)
