"""What two policies give the same held-out demonstrations: differences paired by prompt, with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from demotune.common.statistics import Interval, mean_interval, ratio_interval
from demotune.report.collect import Run
from demotune.runs.gate import Verdict, verdict_of
from demotune.runs.heldout import HeldoutRow


@dataclass(frozen=True, slots=True)
class Gain:
    """Log-probability of demonstrations, second policy minus first, in nats; 95% intervals over prompts.

    Too few prompts have no interval: its ends are nan. `wins` is the share that became likelier, a tie half.
    """

    prompts: int
    per_response: float
    low: float
    high: float
    per_token: float
    per_token_low: float
    per_token_high: float
    wins: float

    @property
    def interval(self) -> Interval:
        return Interval(self.per_response, self.low, self.high)

    @property
    def verdict(self) -> Verdict:
        return verdict_of(self.interval)


def gain_between(before: Sequence[HeldoutRow], after: Sequence[HeldoutRow]) -> Gain | None:
    """Compare the rows that both have, by key; None where they share no row."""
    first = {row.key: row for row in before}
    pairs = [(first[row.key], row) for row in after if row.key in first]
    if not pairs:
        return None
    differences = tuple(new.demo_logp - old.demo_logp for old, new in pairs)
    response, token = _intervals(differences, tuple(new.demo_tokens for _, new in pairs))
    return Gain(
        prompts=len(pairs),
        per_response=response.value,
        low=response.low,
        high=response.high,
        per_token=token.value,
        per_token_low=token.low,
        per_token_high=token.high,
        wins=sum((gain > 0) + 0.5 * (gain == 0) for gain in differences) / len(pairs),
    )


def gain_of(run: Run, stage: int | None = None) -> Gain | None:
    """A stage (by default the result) against the run's start model; None where the run kept no held-out rows."""
    chosen = run.result if stage is None else next(one for one in run.stages if one.number == stage)
    if run.start is None or chosen.heldout is None:
        return None
    return gain_between(run.start, chosen.heldout)


@cache
def _intervals(differences: tuple[float, ...], tokens: tuple[int, ...]) -> tuple[Interval, Interval]:
    """Per response and per token; kept, because a page asks for the same gain in several places."""
    return mean_interval(differences), ratio_interval(differences, tokens)
