"""What a reward looks at: its named weights, the responses at both ends, its correlation with length and more."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from demotune.records import Completion
from demotune.rewards.features import FEATURES, WITHOUT_LENGTH

SHOWN = 5


@dataclass(frozen=True, slots=True)
class JudgedRow:
    """A response, what it earned, and the text that shows it."""

    prompt: str
    response: str
    completion: Completion
    reward: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """Of one reward on some rows."""

    feature_weights: Mapping[str, float]
    """The reward's own, of the named features it reads; empty where it reads none."""
    correlations: Mapping[str, float]
    """Of each named feature but length with the reward (Pearson); nan where one of the two is constant."""
    length_correlation: float
    """Of the response's tokens with the reward; nan where one of the two is constant."""
    highest: tuple[JudgedRow, ...]
    """Best first; of equal rewards the earlier row."""
    lowest: tuple[JudgedRow, ...]
    """Worst first."""


def explain(rows: Sequence[JudgedRow], feature_weights: Mapping[str, float], shown: int = SHOWN) -> Explanation:
    """Explain the rewards of `rows`; `shown` is how many rows stand at either end."""
    rewards = [row.reward for row in rows]
    return Explanation(
        feature_weights=dict(feature_weights),
        correlations={
            name: _correlation([FEATURES[name](row.completion) for row in rows], rewards) for name in WITHOUT_LENGTH
        },
        length_correlation=_correlation([float(len(row.completion.response.ids)) for row in rows], rewards),
        highest=tuple(sorted(rows, key=lambda row: -row.reward)[:shown]),
        lowest=tuple(sorted(rows, key=lambda row: row.reward)[:shown]),
    )


def _correlation(values: Sequence[float], rewards: Sequence[float]) -> float:
    if len(rewards) < 2 or min(np.ptp(values), np.ptp(rewards)) == 0:
        return math.nan
    return float(np.corrcoef(values, rewards)[0, 1])
