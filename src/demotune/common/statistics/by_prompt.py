"""Several pairs to a prompt: each prompt counts once, and intervals are over prompts."""

import math
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from demotune.common.statistics.intervals import Interval, share_interval

Floats = NDArray[np.float64]


def accuracy_by_prompt(margins: Sequence[float] | Floats, prompts: Sequence[Hashable]) -> Interval:
    """Share of positive margins, a zero is half, each prompt counting once; Wilson's interval over prompts.

    A prompt that is partly right widens it: the lower bound takes the sum of wins rounded down, the upper one up.
    """
    found = np.asarray(margins)
    right = (found > 0) + 0.5 * (found == 0)
    count, wins = len(set(prompts)), round(float(prompt_weights(prompts) @ right), 9)
    low, high = share_interval(math.floor(wins), count), share_interval(math.ceil(wins), count)
    return Interval(wins / count, low.low, high.high)


def mean_by_prompt(values: Sequence[float], prompts: Sequence[Hashable]) -> float:
    """The mean of the prompts' own means."""
    return float(np.average(values, weights=prompt_weights(prompts)))


def prompt_weights(prompts: Sequence[Hashable]) -> Floats:
    """(P,) one over the pairs of each pair's prompt: they add up to the number of prompts."""
    _, places, counts = np.unique(numbered(prompts), return_inverse=True, return_counts=True)
    share: Floats = 1.0 / counts[places]
    return share


def numbered(prompts: Sequence[Hashable]) -> list[int]:
    """A number for each different prompt, in the order in which they come."""
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(prompt, len(numbers)) for prompt in prompts]
