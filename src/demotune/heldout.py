"""What a stage did to demonstrations that it was not trained on, with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from demotune.records import RenderedDemonstration, ScoredPair


@dataclass(frozen=True, slots=True)
class RewardCheck:
    """The implicit reward beta * log pi/pi_ref on held-out pairs (demonstration, fresh sample of the reference).

    Margins are in nats times beta; the interval is Wilson's, 95%, over `pairs` prompts. A tie counts as half.
    """

    pairs: int
    margin: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    demo_logratio: float
    sample_logratio: float


def nll_per_token(demonstrations: Sequence[RenderedDemonstration], logps: Sequence[float]) -> float:
    """Negative log-likelihood per response token, nats, over all tokens of `demonstrations`."""
    tokens = sum(len(row.demo.ids) for row in demonstrations)
    return -sum(logps) / tokens


def check_reward(pairs: Sequence[ScoredPair], logps: Sequence[tuple[float, float]], beta: float) -> RewardCheck:
    """Judge the reward that a policy with log-probabilities `logps` (demonstration, sample) implies on `pairs`."""
    demo = np.array([now[0] - pair.demo_ref_logp for pair, now in zip(pairs, logps, strict=True)])
    sample = np.array([now[1] - pair.sample_ref_logp for pair, now in zip(pairs, logps, strict=True)])
    wins = float((demo > sample).sum() + 0.5 * (demo == sample).sum())
    low, high = wilson_interval(wins, len(pairs))
    return RewardCheck(
        pairs=len(pairs),
        margin=float(beta * (demo - sample).mean()),
        accuracy=wins / len(pairs),
        accuracy_low=low,
        accuracy_high=high,
        demo_logratio=float(demo.mean()),
        sample_logratio=float(sample.mean()),
    )


def wilson_interval(wins: float, count: int) -> tuple[float, float]:
    """95% interval of a share; `wins` is rounded down to whole pairs, which errs on the careful side."""
    interval = stats.binomtest(int(wins), count).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)
