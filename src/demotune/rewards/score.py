"""What each row earns by a reward: `demotune score`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from demotune.common.errors import DemotuneError
from demotune.common.files import write_rows
from demotune.common.processes import main_process
from demotune.common.progress import say, track
from demotune.config.commands import RowReading
from demotune.data import BadRow, Loaded, are_preferences, load_demonstrations, load_preferences
from demotune.data.intake import reasons
from demotune.data.rendering import RenderError
from demotune.records import Completion, Demonstration, Preference
from demotune.rewards.output import (
    check_output,
    demonstration_columns,
    preference_columns,
    say_each,
    say_refused,
    scored_together,
    show_rewards,
)
from demotune.rewards.reward import Reward, as_completion
from demotune.runs.heldout import PairCheck, check_pairs

Row = TypeVar("Row", Demonstration, Preference)


@dataclass(frozen=True, slots=True)
class ScoredRow:
    """A demonstration and what it earns."""

    demonstration: Demonstration
    reward: float
    tokens: int
    """Of the response, end-of-turn token included, as the reward reads it."""


@dataclass(frozen=True, slots=True)
class ScoredPreference:
    """A preference and what its two sides earn, each (chosen, rejected)."""

    preference: Preference
    rewards: tuple[float, float]
    tokens: tuple[int, int]


@dataclass(frozen=True, slots=True)
class JudgedResponse:
    """A response with its prompt, as text and as the reward reads it, and what it earns."""

    demonstration: Demonstration
    completion: Completion
    """With `answer_after` without the thought."""
    reward: float


@dataclass(frozen=True, slots=True)
class ScoredRows:
    """Demonstrations in the order of the data, and the rows that have no reward, with their reasons."""

    rows: tuple[ScoredRow, ...]
    refused: tuple[BadRow, ...]


@dataclass(frozen=True, slots=True)
class ScoredPreferences:
    """Preferences in the order of the data, how often the reward agrees with them, and the rows without a reward."""

    rows: tuple[ScoredPreference, ...]
    refused: tuple[BadRow, ...]
    check: PairCheck


def score_rows(reward: Reward, sources: Sequence[str], reading: RowReading | None = None) -> ScoredRows:
    """The reward of every demonstration; of preference rows, of the chosen side.

    Raises DemotuneError where no row has a reward.
    """
    reading = reading or RowReading()
    loaded = load_demonstrations(sources, columns=reading.columns)
    rows, refused = _read_rows(reward, loaded, ((row, (row,)) for row in loaded.rows), reading)
    rewards = _rewards(reward, [completion for _, (completion,) in rows], reading, refused, sources)
    scored = (
        ScoredRow(row, earned, len(completion.response.ids))
        for (row, (completion,)), earned in zip(rows, rewards, strict=True)
    )
    return ScoredRows(tuple(scored), tuple(refused))


def score_preferences(reward: Reward, sources: Sequence[str], reading: RowReading | None = None) -> ScoredPreferences:
    """The rewards of both sides of every preference row. Raises DemotuneError where no row has two rewards."""
    reading = reading or RowReading()
    loaded = load_preferences(sources, columns=reading.columns)
    rows, refused = _read_rows(reward, loaded, ((row, row.sides) for row in loaded.rows), reading)
    rewards = _rewards(reward, [side for _, sides in rows for side in sides], reading, refused, sources)
    scored = tuple(
        ScoredPreference(row, earned, (len(chosen.response.ids), len(rejected.response.ids)))
        for (row, (chosen, rejected)), earned in zip(rows, zip(rewards[::2], rewards[1::2], strict=True), strict=True)
    )
    check = check_pairs([row.rewards for row in scored], [row.tokens for row in scored])
    return ScoredPreferences(scored, tuple(refused), check)


def judge_responses(
    reward: Reward, sources: Sequence[str], reading: RowReading
) -> tuple[list[JudgedResponse], list[BadRow]]:
    """Every response of the data, of preference rows both, and the rows that the reward cannot read."""
    rows: list[tuple[Any, list[Completion]]]
    if are_preferences(sources, columns=reading.columns):
        preferences = load_preferences(sources, columns=reading.columns)
        rows, refused = _read_rows(reward, preferences, ((row, row.sides) for row in preferences.rows), reading)
        responses = [response for row, _ in rows for response in row.sides]
    else:
        loaded = load_demonstrations(sources, columns=reading.columns)
        rows, refused = _read_rows(reward, loaded, ((row, (row,)) for row in loaded.rows), reading)
        responses = [row for row, _ in rows]
    completions = [completion for _, each in rows for completion in each]
    rewards = _rewards(reward, completions, reading, refused, sources)
    read = map(reward.without_thought, completions)
    return [JudgedResponse(*row) for row in zip(responses, read, rewards, strict=True)], refused


def score(reward: Reward, sources: Sequence[str], reading: RowReading, output: Path | None) -> None:
    """`demotune score`: a summary on the screen, and each row with its reward, as `score`, in `output`."""
    check_output(output, sources)
    say(reward.name)
    with scored_together(reward, reading, output):
        _score(reward, sources, reading, output)


def _score(reward: Reward, sources: Sequence[str], reading: RowReading, output: Path | None) -> None:
    found: ScoredRows | ScoredPreferences
    if are_preferences(sources, columns=reading.columns):
        found = score_preferences(reward, sources, reading)
        rows = [
            preference_columns(row.preference)
            | {"score_chosen": row.rewards[0], "score_rejected": row.rewards[1]}
            | {"tokens_chosen": row.tokens[0], "tokens_rejected": row.tokens[1]}
            for row in found.rows
        ]
        sides = {"chosen": 0, "rejected": 1}
        show_rewards(
            {name: [(row.rewards[side], row.tokens[side]) for row in found.rows] for name, side in sides.items()}
        )
        _say_accuracy(found.check)
    else:
        found = score_rows(reward, sources, reading)
        rows = [scored_columns(row) for row in found.rows]
        show_rewards({"responses": [(row.reward, row.tokens) for row in found.rows]})
    if output is not None:
        if main_process():
            write_rows(output, rows)
        say(f"{len(rows)} rows written to {output}")
    say_refused(found.refused, output)
    say_each(reward.renderer.remarks())


def scored_columns(row: ScoredRow) -> dict[str, object]:
    """The row in TRL's prompt-completion form, with `score` and `tokens`."""
    return demonstration_columns(row.demonstration) | {"score": row.reward, "tokens": row.tokens}


def _read_rows(
    reward: Reward,
    loaded: Loaded[Row],
    rows: Iterable[tuple[Row, tuple[Demonstration, ...]]],
    reading: RowReading,
) -> tuple[list[tuple[Row, list[Completion]]], list[BadRow]]:
    """Each row with its responses as the reward reads them, and the rows that it cannot read."""
    say_each(loaded.notes)
    refused = list(loaded.bad_rows)
    read: list[tuple[Row, list[Completion]]] = []
    for row, responses in rows:
        if len(read) == reading.max_rows:
            break
        try:
            read.append((row, [as_completion(reward, side, max_length=reading.max_length) for side in responses]))
        except RenderError as refusal:
            refused.append(BadRow(responses[0].source, refusal.reason, refusal.detail))
    return read, refused


def _rewards(
    reward: Reward,
    completions: Sequence[Completion],
    reading: RowReading,
    refused: Sequence[BadRow],
    sources: Sequence[str],
) -> list[float]:
    if not completions:
        first = f"; the first is {refused[0].source}: {refused[0].detail}" if refused else ""
        raise DemotuneError(f"no row of {', '.join(sources)} can be scored ({reasons(refused)}){first}")
    with track("score", reward.passes * len(completions), "passes") as tracker:
        return reward.rewards_of(completions, batch_size=reading.batch_size, advance=tracker.advance)


def _say_accuracy(check: PairCheck) -> None:
    say(
        f"accuracy: chosen earns more in {check.accuracy.text()} of "
        f"{check.pairs} pairs (95% interval; a tie counts as half), by {check.margin:+.3g} on average"
    )
    if not check.matched_pairs:
        say("no pair has responses of like length (within a quarter): the accuracy may be one of length")
        return
    matched = check.matched_accuracy.text()
    say(f"accuracy on the {check.matched_pairs} pairs of like length (within a quarter): {matched}")
