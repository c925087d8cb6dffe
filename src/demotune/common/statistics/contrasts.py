"""Differences between other prompts, and quotients of two means over the same prompts."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from demotune.common.statistics.intervals import FEWEST, LEVEL, Interval, Ratio, as_numbers, same_length


def independent_difference(a: Ratio, b: Ratio) -> Interval:
    """a - b, each over prompts of its own: Welch's interval; nan bounds where either has fewer than FEWEST prompts."""
    value = a.value - b.value
    if min(a.items, b.items) < FEWEST:
        return Interval(value, math.nan, math.nan)
    variances = a.error**2, b.error**2
    total = sum(variances)
    if total == 0:
        return Interval(value, value, value)
    spent = sum(variance**2 / (ratio.items - 1) for variance, ratio in zip(variances, (a, b), strict=True))
    half = float(stats.t.isf(LEVEL / 2, total**2 / spent)) * math.sqrt(total)
    return Interval(value, value - half, value + half)


def quotient_interval(numerators: Sequence[float], denominators: Sequence[float]) -> Interval:
    """Mean of one over mean of the other, both (prompts,) of any sign; Fieller's interval.

    It holds each r for which a t interval of mean(numerator - r * denominator) holds 0. Where the denominators' own
    interval holds 0 it has no ends: the bounds are nan, as for fewer than FEWEST prompts. A mean of 0 gives nan.
    """
    top, bottom = as_numbers(numerators), as_numbers(denominators)
    same_length(top, bottom)
    above, below = float(top.mean()), float(bottom.mean())
    if below == 0:
        return Interval(math.nan, math.nan, math.nan)
    if len(top) < FEWEST:
        return Interval(above / below, math.nan, math.nan)
    covariance = np.cov(top, bottom) * float(stats.t.isf(LEVEL / 2, len(top) - 1)) ** 2 / len(top)
    square, product, constant = (  # of the quadratic in r: square * r^2 - 2 * product * r + constant <= 0
        below**2 - covariance[1, 1],
        above * below - covariance[0, 1],
        above**2 - covariance[0, 0],
    )
    if square <= 0:
        return Interval(above / below, math.nan, math.nan)
    root = math.sqrt(max(product**2 - square * constant, 0.0))
    return Interval(above / below, float((product - root) / square), float((product + root) / square))
