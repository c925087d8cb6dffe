"""Intervals, tests and ranks against values worked out by hand or computed by scipy in another way."""

import math
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from demotune.statistics import (
    Interval,
    compare_over_seeds,
    compare_paired,
    compare_ratio,
    compare_wins,
    holm,
    mean_interval,
    over_seeds,
    ranks,
    ratio_interval,
    share_interval,
)
from demotune.statistics.comparisons import smallest_effect

SKEWED = np.random.default_rng(5).exponential(size=30)
T1, T3 = 12.7062047, 3.1824463  # Student's t at 97.5% with 1 and 3 degrees of freedom, as in printed tables


def test_interval_as_text() -> None:
    assert Interval(0.854, 0.7249, 0.92).text() == "0.85 [0.72, 0.92]"
    assert Interval(-1.5, -2, 3).text(0) == "-2 [-2, 3]"


def test_mean_interval_is_the_wider_of_t_and_a_studentised_bootstrap() -> None:
    """The bootstrap once more, by a loop of its own draws; with 40,000 of them its bounds move by less than 2%."""
    mean, error = SKEWED.mean(), SKEWED.std(ddof=1) / math.sqrt(30)
    draws = np.random.default_rng(99).choice(SKEWED, size=(40_000, 30))
    below, above = np.quantile((draws.mean(1) - mean) / (draws.std(1, ddof=1) / math.sqrt(30)), (0.025, 0.975))
    student = stats.ttest_1samp(SKEWED, 0).confidence_interval()
    found = mean_interval(SKEWED.tolist())
    assert found.value == pytest.approx(mean, abs=1e-12)
    assert found.low == pytest.approx(min(mean - above * error, student.low), abs=0.05 * error)
    assert found.high == pytest.approx(max(mean - below * error, student.high), abs=0.05 * error)
    assert found.high > student.high + 0.2 * error  # a long right tail: the mean may well be higher
    assert found.low == pytest.approx(student.low, abs=1e-12)


def test_intervals_repeat_with_the_seed_alone() -> None:
    assert mean_interval(SKEWED.tolist(), 3) == mean_interval(SKEWED.tolist(), 3)
    assert mean_interval(SKEWED.tolist(), 3) != mean_interval(SKEWED.tolist(), 4)


def test_one_value_has_no_interval_and_equal_values_have_no_width() -> None:
    """0.3 three times has a mean of 0.3 only up to rounding."""
    one = mean_interval([2.0])
    assert one.value == 2 and math.isnan(one.low) and math.isnan(one.high)
    same = mean_interval([0.3, 0.3, 0.3])
    assert same == Interval(same.value, same.value, same.value)
    assert same.value == pytest.approx(0.3, abs=1e-12)


def test_ratio_is_sum_over_sum_with_prompts_resampled() -> None:
    """-6 nats over 12 tokens. Residuals n + t/2 are -.5, .5, -.5, .5; their standard error is sqrt(1/3/4) = .288675,
    over 3 tokens a prompt .0962250. With four prompts t is the wider one at both ends or the bootstrap is: never less.
    """
    nats, tokens = [-1.0, -0.5, -2.0, -2.5], [1, 2, 3, 6]
    found = ratio_interval(nats, tokens)
    assert found.value == pytest.approx(-0.5, abs=1e-12)
    residuals = np.array([-0.5, 0.5, -0.5, 0.5])
    error = residuals.std(ddof=1) / 2 / 3
    assert found.low <= -0.5 - T3 * error + 1e-7
    assert found.high >= -0.5 + T3 * error - 1e-7
    assert ratio_interval([2, 4, 6], [1, 2, 3]).text() == "2.00 [2.00, 2.00]"


def test_a_mean_is_a_ratio_over_ones() -> None:
    found, mean = ratio_interval((2 * SKEWED).tolist(), [2] * 30), mean_interval(SKEWED.tolist())
    assert (found.value, found.low, found.high) == pytest.approx((mean.value, mean.low, mean.high), abs=1e-9)


@pytest.mark.parametrize(
    ("wins", "count", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_share_interval_as_published(wins: int, count: int, low: float, high: float) -> None:
    found = share_interval(wins, count)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert found.value == wins / count


def test_half_a_win_moves_the_share_but_not_its_bounds() -> None:
    assert share_interval(8.5, 10) == Interval(0.85, share_interval(8, 10).low, share_interval(8, 10).high)


def test_paired_differences_by_hand() -> None:
    """1, 2, 3, 2: mean 2, standard deviation sqrt(2/3), d_z = sqrt(6); t = 2 sqrt(6) = 4.899 with p = .0163."""
    found = compare_paired([3, 2, 4, 7], [2, 0, 1, 5])
    assert found.difference.value == 2
    assert found.effect_size == pytest.approx(math.sqrt(6), abs=1e-12)
    assert found.items == 4
    assert found.p >= 0.0162
    assert found.difference.low <= 2 - T3 / math.sqrt(6) + 1e-7


def test_symmetric_differences_give_nearly_the_t_test() -> None:
    """Normal quantiles, shifted: the bootstrap adds little. p agrees with scipy's to its own noise."""
    base = stats.norm.ppf((np.arange(200) + 0.5) / 200)
    found = compare_paired((base + 0.15).tolist(), [0.0] * 200)
    expected = stats.ttest_rel(base + 0.15, np.zeros(200))
    assert found.p == pytest.approx(expected.pvalue, abs=0.01)
    assert found.p >= expected.pvalue - 1e-12
    interval = expected.confidence_interval()
    assert (found.difference.low, found.difference.high) == pytest.approx((interval.low, interval.high), abs=0.01)


@pytest.mark.parametrize("shift", np.linspace(0.6, 1.6, 11))
def test_p_and_interval_agree(shift: float) -> None:
    """An interval that leaves 0 out comes with p <= 0.05, and the other way round (up to one draw of 9999)."""
    found = compare_paired(SKEWED.tolist(), [float(shift)] * 30)
    outside = found.difference.low > 0 or found.difference.high < 0
    assert outside == (found.p <= 0.05) or found.p == pytest.approx(0.05, abs=0.001)


def test_a_minus_b_is_the_mirror_of_b_minus_a() -> None:
    zeros = [1.3] * 30
    there, back = compare_paired(SKEWED.tolist(), zeros), compare_paired(zeros, SKEWED.tolist())
    assert there.difference.low == pytest.approx(-back.difference.high, abs=1e-12)
    assert (there.p, there.effect_size) == pytest.approx((back.p, -back.effect_size), abs=1e-12)


def test_differences_without_spread() -> None:
    """Nothing changed; or three prompts moved by the same: p is two of eight signs."""
    nothing = compare_paired([1, 2, 3], [1, 2, 3])
    assert (nothing.difference, nothing.p, nothing.effect_size) == (Interval(0, 0, 0), 1, 0)
    same = compare_paired([1.1, 2.1, 3.1], [1, 2, 3])
    assert same.p == pytest.approx(0.25, abs=1e-12)
    assert same.difference.low == same.difference.high
    assert math.isnan(same.effect_size) and math.isnan(same.smallest)
    assert math.isnan(compare_paired([1], [0]).p)


def test_difference_per_token() -> None:
    """(1 + 0 + 5) nats over 12 tokens is 0.5, while the mean of the prompts' own 1, 0 and .625 is .5417.

    Residuals d - t/2 are .5, -1.5, 1: sd 1.3229 over 4 tokens a prompt, so d_z = .5 / .33072 = 1.5119.
    """
    found = compare_ratio([-1, -3, -5], [-2, -3, -10], [1, 3, 8])
    assert found.difference.value == pytest.approx(0.5, abs=1e-12)
    assert found.effect_size == pytest.approx(0.5 / (math.sqrt(1.75) / 4), abs=1e-12)


def test_smallest_difference_is_one_that_is_shown_four_times_in_five() -> None:
    """30 normal differences of unit spread: tables give .53 (Cohen 1988); 20,000 simulated t tests agree."""
    values = stats.zscore(np.random.default_rng(0).normal(size=30), ddof=1)
    smallest = compare_paired(values.tolist(), [0.0] * 30).smallest
    assert smallest == pytest.approx(0.53, abs=0.005)
    studies = np.random.default_rng(1).normal(smallest, 1, size=(20_000, 30))
    assert np.mean(stats.ttest_1samp(studies, 0, axis=1).pvalue <= 0.05) == pytest.approx(0.8, abs=0.01)


def test_sign_test_of_eight_wins_in_ten() -> None:
    """2 (45 + 10 + 1) / 1024 = .109375; without ties the interval is Wilson's; h = 2 asin sqrt .8 - pi / 2."""
    found = compare_wins([1] * 8 + [0] * 2)
    wilson = share_interval(8, 10)
    assert found.p == pytest.approx(0.109375, abs=1e-12)
    assert found.difference.value == 0.8
    assert (found.difference.low, found.difference.high) == pytest.approx((wilson.low, wilson.high), abs=1e-9)
    assert found.effect_size == pytest.approx(2 * math.asin(math.sqrt(0.8)) - math.pi / 2, abs=1e-12)


def test_ties_count_half_in_the_rate_and_not_in_the_test() -> None:
    """With 8 wins, 2 losses, 10 ties: rate 13/20, p as without the ties.

    With one more win and loss, 22 verdicts have mean 14/22 and mean square 11.5/22, so their variance is
    .522727 - .404959 = .117769; .231405 / .117769 * 20 = 39.298 prompts without ties would vary as much.
    """
    found = compare_wins([1] * 8 + [0] * 2 + [0.5] * 10)
    z, rate, n = 1.959964, 0.65, 39.29825
    middle, half = rate + z * z / (2 * n), z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    assert found.p == pytest.approx(0.109375, abs=1e-12)
    assert found.difference.value == 0.65
    assert found.difference.low == pytest.approx((middle - half) / (1 + z * z / n), abs=1e-5)
    assert found.difference.high == pytest.approx((middle + half) / (1 + z * z / n), abs=1e-5)


def test_all_ties_and_all_wins() -> None:
    ties = compare_wins([0.5] * 8)
    assert (ties.difference.value, ties.p, ties.effect_size) == (0.5, 1, 0)
    assert ties.difference.low < 0.4 and math.isnan(ties.smallest)
    wins = compare_wins([1] * 30)
    assert wins.p == pytest.approx(2 / 2**30, abs=1e-15)
    assert wins.difference.low == pytest.approx(share_interval(30, 30).low, abs=1e-9)


def test_smallest_win_rate_is_one_that_is_shown_four_times_in_five() -> None:
    """60 decided prompts and 40 ties; scipy's exact test on every possible count of wins, weighted by its chance."""
    smallest = compare_wins([1] * 33 + [0] * 27 + [0.5] * 40).smallest
    decided_rate = 0.5 + (smallest - 0.5) * 100 / 60
    shown = [stats.binomtest(wins, 60).pvalue <= 0.05 and wins > 30 for wins in range(61)]
    assert stats.binom.pmf(np.arange(61), 60, decided_rate) @ shown == pytest.approx(0.8, abs=1e-9)


def test_holm_by_hand() -> None:
    """.01 * 3, then .03 * 2, then .04 * 1, which may not fall below the one before; nan is no comparison."""
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06], abs=1e-12)
    with_nan = holm([0.04, math.nan, 0.01, 0.03])
    assert math.isnan(with_nan[1])
    assert [with_nan[place] for place in (0, 2, 3)] == pytest.approx([0.06, 0.03, 0.06], abs=1e-12)
    assert holm([]) == []
    assert holm([0.6, 0.7]) == [1, 1]


def test_two_seeds_of_two_prompts_by_hand() -> None:
    """Seeds' means 2 and 4, prompts' 1.5 and 4.5; residuals are +-.5, a noise of 1 per number.

    Seeds: variance of the mean 2 / 2 = 1. Prompts: 4.5 / 2, less the noise 1 / 4 in it, is 2. So t1 sqrt(1 + 2).
    """
    found = over_seeds([[1, 3], [2, 6]])
    assert found.value == 3
    assert (found.low, found.high) == pytest.approx((3 - T1 * math.sqrt(3), 3 + T1 * math.sqrt(3)), abs=1e-5)


def test_two_seeds_against_a_setting_without_spread_by_hand() -> None:
    """As above against zeros: p is where t1(p) sqrt(3) = 3, and P(|t1| > sqrt 3) = 1 - 2 atan(sqrt 3) / pi = 1/3.

    P(t1 > tan(.3 pi)) = .2, so that much more than the half-width is shown four times in five.
    """
    found = compare_over_seeds([[1, 3], [2, 6]], [[0, 0], [0, 0]])
    assert found.difference.value == 3
    assert found.difference.high == pytest.approx(3 + T1 * math.sqrt(3), abs=1e-5)
    assert found.p == pytest.approx(1 / 3, abs=1e-9)
    assert found.smallest == pytest.approx((T1 + math.tan(0.3 * math.pi)) * math.sqrt(3), abs=1e-4)
    assert found.items == 2


def test_seeds_alone_give_welch_and_a_single_run_gives_students_t() -> None:
    """Where prompts do not vary, scipy's Welch test over the seeds.

    One run of mean 1 against 0, 2, 4: variance 4 for both sides, so t = -1 / sqrt(4 + 4/3) with 2 degrees of freedom.
    """
    first, second = [1.0, 2.0, 4.0], [6.0, 9.0, 7.5, 3.0]
    found = compare_over_seeds([[x, x] for x in first], [[x, x] for x in second])
    assert found.p == pytest.approx(stats.ttest_ind(first, second, equal_var=False).pvalue, abs=1e-9)
    single = compare_over_seeds([[1, 1]], [[0, 0], [2, 2], [4, 4]])
    assert single.p == pytest.approx(2 * stats.t.sf(1 / math.sqrt(16 / 3), 2), abs=1e-9)
    assert "a single run" in single.test


def test_prompts_alone_give_the_paired_t() -> None:
    """Three seeds that agree: the t interval over prompts."""
    found = over_seeds([SKEWED.tolist()] * 3)
    expected = stats.ttest_1samp(SKEWED, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_single_runs_are_compared_as_such() -> None:
    values, zeros = SKEWED.tolist(), [0.8] * 30
    assert over_seeds([values], 2) == mean_interval(values, 2)
    paired, single = compare_paired(values, zeros, 2), compare_over_seeds([values], [zeros], 2)
    assert (single.difference, single.p, single.smallest) == (paired.difference, paired.p, paired.smallest)
    assert single.test.endswith("single runs: seeds not covered")


def test_seeds_without_any_spread_are_not_proof() -> None:
    """Every prompt of every seed moved by 1: with three prompts p is 2/8, however equal they are."""
    assert compare_over_seeds([[2, 3, 4]] * 3, [[1, 2, 3]] * 2).p == pytest.approx(0.25, abs=1e-12)


def test_ranks_by_hand() -> None:
    """a: 1, 1.5 (tie), 3; b: 2, 1.5, 1; c: 3, 3, 2. A shared first place counts half."""
    found = ranks({"a": [9, 5, 1], "b": [8, 5, 7], "c": [7, 4, 2]})
    assert found.mean == pytest.approx({"a": 5.5 / 3, "b": 4.5 / 3, "c": 8 / 3})
    assert found.best_share == pytest.approx({"a": 0.5, "b": 0.5, "c": 0})
    assert found.seeds == 3


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: mean_interval([]), r"\[\]"),
        (lambda: mean_interval([1, math.nan]), "nan"),
        (lambda: mean_interval([1, math.inf]), "inf"),
        (lambda: ratio_interval([1, 2], [1, 0]), "0"),
        (lambda: ratio_interval([1, 2], [1]), "2 and 1"),
        (lambda: compare_paired([1, 2], [1]), "2 and 1"),
        (lambda: compare_ratio([1, 2], [1, 2], [1]), "2 and 1"),
        (lambda: compare_wins([1, 0.7]), "0.7"),
        (lambda: share_interval(3, 2), "wins=3, count=2"),
        (lambda: share_interval(0, 0), "count=0"),
        (lambda: holm([0.5, 1.5]), "1.5"),
        (lambda: over_seeds([[1, 2], [1]]), r"\[2, 1\]"),
        (lambda: over_seeds([]), r"\[\]"),
        (lambda: over_seeds([[1], [2]]), "1 prompt"),
        (lambda: compare_over_seeds([[1, 2]], [[1]]), "2 and 1"),
        (lambda: ranks({"a": [1, 2], "b": [1]}), r"\[2, 1\]"),
    ],
)
def test_numbers_that_cannot_be_used_are_named(call: Callable[[], object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        call()


def test_importing_does_not_wait_for_statsmodels() -> None:
    code = "import sys, demotune.statistics; print('statsmodels' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "False"


@pytest.mark.parametrize("items", [2, 25, 119, 120, 121, 400])
def test_the_smallest_effect_is_seen_in_four_of_five_studies(items: int) -> None:
    """Of statsmodels' own power function; for 120 items its solver answers with an array."""
    effect = smallest_effect(items)
    assert isinstance(effect, float)
    assert TTestPower().power(effect, items, 0.05) == pytest.approx(0.8, abs=1e-4)
