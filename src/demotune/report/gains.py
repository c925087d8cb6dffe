"""What two policies give the same held-out demonstrations: differences paired by prompt, with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from demotune.common.statistics import Interval, mean_interval, ratio_interval
from demotune.runs.gate import Verdict, verdict_of
from demotune.runs.heldout import HeldoutRow, count_wins
from demotune.runs.run import Run


@dataclass(frozen=True, slots=True)
class Gain:
    """Log-probability of demonstrations, second policy minus first, in nats, with 95% intervals over prompts."""

    prompts: int
    per_response: Interval
    per_token: Interval
    wins: float
    """Share of demonstrations that became likelier, a tie half."""

    @property
    def verdict(self) -> Verdict:
        return verdict_of(self.per_response)


def gain_between(before: Sequence[HeldoutRow], after: Sequence[HeldoutRow]) -> Gain | None:
    """Compare the rows that both have, by key; None where they share no row."""
    first = {row.key: row for row in before}
    pairs = [(row, first[row.key]) for row in after if row.key in first]
    if not pairs:
        return None
    differences = tuple(new.demo_logp - old.demo_logp for new, old in pairs)
    response, token = _intervals(differences, tuple(new.demo_tokens for new, _ in pairs))
    wins = count_wins([(new.demo_logp, old.demo_logp) for new, old in pairs])
    return Gain(len(pairs), response, token, wins / len(pairs))


def gain_of(run: Run, stage: int | None = None) -> Gain | None:
    """A stage (by default the result) against the run's start model; None for a run that held no rows out."""
    chosen = run.result if stage is None else next(one for one in run.stages if one.number == stage)
    if not run.start or not chosen.heldout:
        return None
    return gain_between(run.start, chosen.heldout)


def baseline_of(runs: Sequence[Run]) -> Run | None:
    """What the other runs are compared with: the only SFT run, else the first; None for a single run."""
    if len(runs) < 2:
        return None
    plain = [run for run in runs if run.method == "sft"]
    return plain[0] if len(plain) == 1 else runs[0]


def against_baseline(runs: Sequence[Run]) -> list[tuple[Run, Run, Gain]]:
    """(run, baseline, gain of the run's result over the baseline's) where both judged the same held-out rows.

    A run that starts from the baseline's model is left out: its own gain says the same.
    """
    baseline = baseline_of(runs)
    if baseline is None or not baseline.result.heldout:
        return []
    return [
        (run, baseline, gain)
        for run in runs
        if run is not baseline
        and run.manifest.model != baseline.result.model_hash
        and run.result.heldout
        and (gain := gain_between(baseline.result.heldout, run.result.heldout))
    ]


@cache
def _intervals(differences: tuple[float, ...], tokens: tuple[int, ...]) -> tuple[Interval, Interval]:
    """Per response and per token; kept, because a page asks for the same gain in several places."""
    return mean_interval(differences), ratio_interval(differences, tokens)
