"""Differences of independent means, quotients, and rows needed, against scipy, brute force and printed tables."""

import math

import numpy as np
import pytest
from scipy import stats

from demotune.common.statistics import (
    independent_difference,
    prompts_for_share,
    prompts_for_win_rate,
    quotient_interval,
)
from demotune.common.statistics.intervals import Ratio


def of(values: list[float]) -> Ratio:
    return Ratio.of(values, [1.0] * len(values))


def test_a_difference_of_means_is_welchs() -> None:
    first, second = [1.0, 2.0, 4.0, 4.5, 7.0, 9.0], [0.0, 0.5, 1.5, 1.0, 2.0]
    found = independent_difference(of(first), of(second))
    expected = stats.ttest_ind(first, second, equal_var=False).confidence_interval()
    assert found.value == pytest.approx(np.mean(first) - np.mean(second))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_a_difference_with_too_few_prompts_has_no_bounds() -> None:
    found = independent_difference(of([1.0, 2.0, 3.0, 4.0]), of([0.0] * 5))
    assert found.value == 2.5
    assert not found.known


def test_equal_values_on_both_sides_have_no_width() -> None:
    found = independent_difference(of([2.0] * 6), of([1.0] * 6))
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)


def test_a_quotient_holds_what_a_t_interval_does_not_refute() -> None:
    draw = np.random.default_rng(1)
    bottom = draw.normal(2, 1, 30)
    top = 0.6 * bottom + draw.normal(0, 0.7, 30)
    found = quotient_interval(top.tolist(), bottom.tolist())
    assert found.value == pytest.approx(top.mean() / bottom.mean())
    kept = [
        r
        for r in np.linspace(0, 1.5, 3001)
        if abs(np.mean(top - r * bottom)) <= stats.t.isf(0.025, 29) * stats.sem(top - r * bottom)
    ]
    assert (found.low, found.high) == pytest.approx((min(kept), max(kept)), abs=1e-3)


def test_a_quotient_has_no_ends_where_the_denominator_may_be_zero() -> None:
    found = quotient_interval([1.0, 2.0, 1.0, 2.0, 1.0, 2.0], [3.0, -2.0, 2.0, -3.0, 1.0, 0.5])
    assert found.value == pytest.approx(6.0)
    assert not found.known
    assert math.isnan(quotient_interval([1.0] * 6, [1.0, -1.0] * 3).value)


def test_rows_for_a_win_rate() -> None:
    """Verdicts without ties vary by 1/4: (1.96 + 0.84)^2 / (0.05 / 0.5)^2 = 785, and two more for t."""
    assert prompts_for_win_rate(0.05, 0.0) == 787
    assert prompts_for_win_rate(0.05, 0.75) == 199  # 785 / 4, and two more or three
    assert prompts_for_win_rate(0.05, 1.0) is None


def test_rows_for_a_share() -> None:
    """Cohen's h of 0.6 against one half is 2 asin(sqrt 0.6) - pi / 2 = 0.2014: 7.849 / 0.2014^2 = 193.6."""
    assert prompts_for_share(0.6) == 194
    assert prompts_for_share(0.5) is None
