"""What is reported of a model: one number per prompt for each quantity, from raw measurements."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from demotune.common.diversity import distinct, repetition
from demotune.common.statistics import (
    Comparison,
    Interval,
    compare_paired,
    compare_ratio,
    mean_interval,
    ratio_interval,
    share_interval,
)
from demotune.evaluation.measuring import Answered, Earned, Logps, Measured
from demotune.runs.heldout import win

Kind = Literal["likelihood", "preference", "reward", "confidence", "length", "variety"]

LIKE_LENGTH = 0.75
"""Two responses are of like length when the shorter has at least this share of the longer one's tokens."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """One number per prompt, None where a prompt has none; with `weights` the quantity is sum(values) / sum(weights).

    `values` that are 0, 0.5 or 1 throughout and have the unit "share" are wins.
    """

    kind: Kind
    name: str
    unit: str
    higher_is_better: bool | None
    values: tuple[float | None, ...]
    weights: tuple[float, ...] | None = None
    judge: str | None = None

    @property
    def items(self) -> int:
        """Prompts that have a number."""
        return sum(value is not None for value in self.values)

    def interval(self) -> Interval:
        """Over prompts, 95%."""
        numbers = [value for value in self.values if value is not None]
        if self.unit == "share":
            return share_interval(sum(numbers), len(numbers))
        if self.weights is None:
            return mean_interval(numbers)
        return ratio_interval(numbers, self._kept_weights())

    def minus(self, other: "Quantity") -> Comparison | None:
        """The difference on the prompts that have both numbers; None where there is none."""
        rows = [row for row, both in enumerate(zip(self.values, other.values, strict=True)) if None not in both]
        if not rows:
            return None
        ours, theirs = ([float(side.values[row] or 0.0) for row in rows] for side in (self, other))
        if self.weights is None or other.weights is None:
            return compare_paired(ours, theirs)
        our_weights, their_weights = ([side[row] for row in rows] for side in (self.weights, other.weights))
        if our_weights == their_weights:
            return compare_ratio(ours, theirs, our_weights)
        return compare_paired(_shares(ours, our_weights), _shares(theirs, their_weights))

    def _kept_weights(self) -> list[float]:
        weights = self.weights or ()
        return [weight for weight, value in zip(weights, self.values, strict=True) if value is not None]


def quantities(measured: Measured) -> list[Quantity]:
    """Everything that a model's own log-probabilities and answers show."""
    found = _likelihood(measured.logps)
    if measured.logps[0].rejected is not None:
        found += _preference(measured.logps)
    if measured.answers:
        found += _answers(measured.answers)
    return found


def reward_quantities(judge: str, earned: Earned, tokens: Sequence[tuple[int, int]]) -> list[Quantity]:
    """How a reward judges preference rows, as `quantities` does a policy; `tokens` of (chosen, rejected)."""
    margins = [
        None if chosen is None or rejected is None else chosen - rejected
        for chosen, rejected in zip(earned.demo, earned.rejected, strict=True)
    ]
    wins = _wins(margins)
    return [
        Quantity("reward", "reward margin, chosen - rejected", "reward", True, tuple(margins), judge=judge),
        Quantity("preference", "preference accuracy", "share", True, wins, judge=judge),
        Quantity(
            "preference", "preference accuracy, like length", "share", True, _like_length(wins, tokens), judge=judge
        ),
    ]


def answer_rewards(judge: str, rewards: Sequence[float | None]) -> Quantity:
    """What a judge gives a model's answers."""
    return Quantity("reward", "reward of answers", "reward", True, tuple(rewards), judge=judge)


def _likelihood(logps: Sequence[Logps]) -> list[Quantity]:
    demos = tuple(row.demo for row in logps)
    tokens = tuple(float(row.demo_tokens) for row in logps)
    return [
        Quantity("likelihood", "log-likelihood of demonstrations", "nats/token", True, demos, tokens),
        Quantity("likelihood", "log-likelihood of demonstrations, whole", "nats/response", True, demos),
    ]


def _preference(logps: Sequence[Logps]) -> list[Quantity]:
    """Figure 1 of arXiv 2405.17888, per response, per token, and where length says little."""
    whole = [row.demo - (row.rejected or 0.0) for row in logps]
    per_token = [row.demo / row.demo_tokens - (row.rejected or 0.0) / (row.rejected_tokens or 1) for row in logps]
    tokens = [(row.demo_tokens, row.rejected_tokens or 0) for row in logps]
    wins = _wins(whole)
    return [
        Quantity("preference", "gap: log pi(chosen) - log pi(rejected)", "nats", True, tuple(whole)),
        Quantity("preference", "gap per token", "nats/token", True, tuple(per_token)),
        Quantity("preference", "gap, like length", "nats", True, _like_length(whole, tokens)),
        Quantity("preference", "preference accuracy", "share", True, wins),
        Quantity("preference", "preference accuracy per token", "share", True, _wins(per_token)),
        Quantity("preference", "preference accuracy, like length", "share", True, _like_length(wins, tokens)),
    ]


def _answers(answers: Sequence[Answered]) -> list[Quantity]:
    ids = [answer.response.ids for answer in answers]
    lengths = tuple(float(len(response)) for response in ids)
    return [
        Quantity(
            "confidence", "log-likelihood of own answers", "nats/token", None, tuple(a.logp for a in answers), lengths
        ),
        Quantity(
            "confidence", "log-likelihood of own answers, whole", "nats/response", None, tuple(a.logp for a in answers)
        ),
        Quantity("length", "length of answers", "tokens", None, lengths),
        Quantity(
            "length", "finished answers", "share", None, tuple(float(answer.response.finished) for answer in answers)
        ),
        Quantity(
            "variety", "distinct bigrams in an answer", "ratio", True, tuple(distinct([response]) for response in ids)
        ),
        Quantity(
            "variety", "repeated 4-grams in an answer", "ratio", False, tuple(repetition(response) for response in ids)
        ),
    ]


def _wins(margins: Sequence[float | None]) -> tuple[float | None, ...]:
    """1, 0.5 or 0 for a positive, no, or negative margin."""
    return tuple(None if margin is None else win(margin, 0.0) for margin in margins)


def _like_length(values: Sequence[float | None], tokens: Sequence[tuple[int, int]]) -> tuple[float | None, ...]:
    return tuple(
        value if min(both) >= LIKE_LENGTH * max(both) else None for value, both in zip(values, tokens, strict=True)
    )


def _shares(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    return [value / weight for value, weight in zip(values, weights, strict=True)]
