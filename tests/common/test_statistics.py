"""Intervals, tests and ranks against values worked out by hand or computed by scipy in another way."""

import math
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import optimize, stats
from statsmodels.stats.power import TTestPower

from demotune.common.statistics import (
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
from demotune.common.statistics.comparisons import smallest_effect
from demotune.common.statistics.intervals import Ratio

SKEWED = np.random.default_rng(5).exponential(size=30)
GAINS = [20.611395835876465, 30.92187976837158, 40.821747660636902, 30.92189311981201, 30.91448116302490]
T1, T4, T5 = 12.7062047, 2.7764451, 2.5705818  # Student's t at 97.5% by degrees of freedom, as in printed tables


def test_interval_as_text() -> None:
    assert Interval(0.854, 0.7249, 0.92).text() == "0.85 [0.72, 0.92]"
    assert Interval(-1.5, -2, 3).text(0) == "-2 [-2, 3]"
    assert Interval(0.854, math.nan, math.nan).text() == "0.85 (too few rows to tell)"


def hall(score: float, values: NDArray[np.float64]) -> float:
    """Hall's cubic as the paper prints it, with g the skewness and n the number of values."""
    g, n = float(stats.skew(values)), len(values)
    return score + g * score**2 / (3 * n**0.5) + g**2 * score**3 / (27 * n) + g / (6 * n**0.5)


def test_mean_interval_is_the_wider_of_t_and_of_t_corrected_for_skewness() -> None:
    """The cubic is inverted by a search for its root."""
    mean, error = SKEWED.mean(), SKEWED.std(ddof=1) / math.sqrt(30)
    student = stats.ttest_1samp(SKEWED, 0).confidence_interval()
    t = float(stats.t.ppf(0.975, 29))
    least = optimize.brentq(lambda score: hall(score, SKEWED) + t, -50, 0)
    found = mean_interval(SKEWED.tolist())
    assert found.value == pytest.approx(mean, abs=1e-12)
    assert found.high == pytest.approx(mean - least * error, abs=1e-9)
    assert found.high > student.high + 0.2 * error  # a long right tail: the mean may well be higher
    assert found.low == pytest.approx(student.low, abs=1e-12)


def test_five_nearly_equal_gains_have_a_sane_interval() -> None:
    """Deviations about -10.2, 0, 10, 0, 0: no skewness to speak of, so Student's t of scipy."""
    found, student = mean_interval(GAINS), stats.ttest_1samp(GAINS, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((student.low, student.high), abs=0.3)
    assert 21 < found.low < 22 and 39 < found.high < 40


def test_the_correction_stays_within_the_values() -> None:
    """0, 0, 0, 0, 5: mean 1, error 1. Skewness 1.5: the cubic alone would end at 1 + 8.85; no value is above 5."""
    found = mean_interval([0, 0, 0, 0, 5])
    assert (found.low, found.high) == pytest.approx((1 - T4, 5), abs=1e-6)
    mirrored = mean_interval([0, 0, 0, 0, -5])
    assert (mirrored.low, mirrored.high) == pytest.approx((-5, T4 - 1), abs=1e-6)


@pytest.mark.parametrize("items", [5, 6, 8, 12, 30, 100])
def test_no_interval_is_far_wider_than_that_of_t_nor_beyond_the_values(items: int) -> None:
    """Few values, nearly equal ones with outliers, clusters, long tails, and unequal denominators."""
    rng = np.random.default_rng(items)
    t = float(stats.t.ppf(0.975, items - 1))
    for _ in range(100):
        for values in (
            30 + rng.choice([1e-7, 1e-3, 1]) * rng.normal(size=items) + 10 * (rng.random(items) < 0.2),
            rng.choice([0.0, 1.0, 2.0], size=items),
            rng.lognormal(sigma=2, size=items),
        ):
            half = t * values.std(ddof=1) / math.sqrt(items) + 1e-9
            found = mean_interval(values.tolist())
            assert found.low <= found.value <= found.high
            assert found.high - found.low <= 2.8 * 2 * half
            assert found.low >= min(values.min(), found.value - half)
            assert found.high <= max(values.max(), found.value + half)
            weights = rng.lognormal(size=items)
            ratio = ratio_interval((values * weights).tolist(), weights.tolist())
            plain = Ratio.of(values * weights, weights.tolist())
            assert ratio.high - ratio.low <= 2.8 * 2 * (t * plain.error + 1e-9)


def test_fewer_than_five_values_have_no_interval_and_equal_values_no_width() -> None:
    """0.3 five times has a mean of 0.3 only up to rounding."""
    for few in ([2.0], [2.0, 2.0], [1.0, 2.0, 3.0], [1.0, 3.0, 2.0, 2.0]):
        found = mean_interval(few)
        assert found.value == 2 and math.isnan(found.low) and math.isnan(found.high) and not found.known
    same = mean_interval([0.3] * 5)
    assert same == Interval(same.value, same.value, same.value)
    assert same.value == pytest.approx(0.3, abs=1e-12)


def test_ratio_is_sum_over_sum_with_what_leaving_a_prompt_out_changes() -> None:
    """Ratios of the other four prompts, by a loop, give the error; no prompt's ratio is 0, so p is that of t.

    The left tail is long (-1 beside -.25 to -.67): the cubic goes beyond -1, the lowest ratio, and is held there.
    """
    nats, tokens = np.array([-1.0, -0.5, -2.0, -2.5, -1.5]), np.array([1, 2, 3, 6, 4])
    without = np.array([np.delete(nats, row).sum() / np.delete(tokens, row).sum() for row in range(5)])
    error = math.sqrt(4 / 5 * ((without - nats.sum() / tokens.sum()) ** 2).sum())
    found = ratio_interval(nats.tolist(), tokens.tolist())
    assert found.value == pytest.approx(-7.5 / 16, abs=1e-12)
    assert found.low == -1
    assert found.high == pytest.approx(-7.5 / 16 + T4 * error, abs=1e-6)
    p = compare_ratio(nats.tolist(), [0.0] * 5, tokens.tolist()).p
    assert p == pytest.approx(2 * stats.t.sf(7.5 / 16 / error, 4), abs=1e-9)
    assert ratio_interval([2, 4, 6, 8, 10], [1, 2, 3, 4, 5]).text() == "2.00 [2.00, 2.00]"


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
    """1, 2, 3, 2, 2: mean 2, standard deviation sqrt(1/2), d_z = sqrt(8), and no skewness; t = 2 sqrt(10) = 6.325.

    P(|t4| > t) = 1 - 3/2 s + s^3 / 2 with s = t / sqrt(t^2 + 4) = sqrt(10/11): .00319.
    """
    found = compare_paired([3, 2, 4, 7, 5], [2, 0, 1, 5, 3])
    s = math.sqrt(10 / 11)
    assert found.difference.value == 2
    assert found.effect_size == pytest.approx(math.sqrt(8), abs=1e-12)
    assert found.items == 5
    assert found.p == pytest.approx(1 - 1.5 * s + s**3 / 2, abs=1e-9)
    assert found.difference.low == pytest.approx(2 - T4 / math.sqrt(10), abs=1e-6)


def test_symmetric_differences_give_nearly_the_t_test() -> None:
    """Normal quantiles, shifted: no skewness."""
    base = stats.norm.ppf((np.arange(200) + 0.5) / 200)
    found = compare_paired((base + 0.15).tolist(), [0.0] * 200)
    expected = stats.ttest_rel(base + 0.15, np.zeros(200))
    assert found.p == pytest.approx(expected.pvalue, abs=1e-9)
    interval = expected.confidence_interval()
    assert (found.difference.low, found.difference.high) == pytest.approx((interval.low, interval.high), abs=1e-9)


@pytest.mark.parametrize("shift", np.linspace(0.6, 1.6, 11))
def test_p_and_interval_agree(shift: float) -> None:
    """An interval that leaves 0 out comes with p <= 0.05, and the other way round."""
    found = compare_paired(SKEWED.tolist(), [float(shift)] * 30)
    outside = found.difference.low > 0 or found.difference.high < 0
    assert outside == (found.p <= 0.05)


def test_p_is_the_larger_one_of_t_and_of_t_corrected_for_skewness() -> None:
    """Below 1.5 the exponential values' long tail excuses their low mean; five that all rose are judged by t alone."""
    found = compare_paired(SKEWED.tolist(), [1.5] * 30)
    score = stats.ttest_1samp(SKEWED, 1.5).statistic
    assert found.p == pytest.approx(2 * stats.t.sf(-hall(score, SKEWED), 29), abs=1e-9)
    assert found.p > stats.ttest_1samp(SKEWED, 1.5).pvalue
    rose = [3.0, 3.1, 2.9, 3.0, 1.0]
    assert compare_paired(rose, [0.0] * 5).p == pytest.approx(stats.ttest_1samp(rose, 0).pvalue, abs=1e-12)


def test_a_minus_b_is_the_mirror_of_b_minus_a() -> None:
    zeros = [1.3] * 30
    there, back = compare_paired(SKEWED.tolist(), zeros), compare_paired(zeros, SKEWED.tolist())
    assert there.difference.low == pytest.approx(-back.difference.high, abs=1e-12)
    assert (there.p, there.effect_size) == pytest.approx((back.p, -back.effect_size), abs=1e-12)


def test_differences_without_spread() -> None:
    """Nothing changed; or five prompts moved by the same: p is two of 32 signs."""
    nothing = compare_paired([1, 2, 3, 4, 5], [1, 2, 3, 4, 5])
    assert (nothing.difference, nothing.p, nothing.effect_size) == (Interval(0, 0, 0), 1, 0)
    same = compare_paired([1.1, 2.1, 3.1, 4.1, 5.1], [1, 2, 3, 4, 5])
    assert same.p == pytest.approx(1 / 16, abs=1e-12)
    assert same.difference.low == same.difference.high
    assert math.isnan(same.effect_size) and math.isnan(same.smallest)


def test_four_prompts_are_too_few_to_compare() -> None:
    found = compare_paired([1, 2, 3, 5], [0, 0, 0, 1])
    assert found.difference.value == 2.5 and not found.difference.known
    assert math.isnan(found.p) and math.isnan(found.effect_size) and math.isnan(found.smallest)
    assert (found.items, found.test) == (4, "none: fewer than 5 prompts")


def test_difference_per_token() -> None:
    """(1 + 0 + 5 + 1 + 1) nats over 16 tokens is 0.5, while the mean of the prompts' own ratios is .525.

    Residuals d - t/2 are .5, -1.5, 1, 0, 0, over 1 - t/16: 8/15, -24/13, 2, 0, 0. The error is the root of 4/5 of their
    sum of squares, over 16.
    """
    found = compare_ratio([-1, -3, -5, -1, -1], [-2, -3, -10, -2, -2], [1, 3, 8, 2, 2])
    assert found.difference.value == pytest.approx(0.5, abs=1e-12)
    error = math.sqrt(4 / 5 * ((8 / 15) ** 2 + (24 / 13) ** 2 + 4)) / 16
    assert found.effect_size == pytest.approx(0.5 / (error * math.sqrt(5)), abs=1e-12)


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


def test_two_seeds_of_six_prompts_by_hand() -> None:
    """Seeds' means 2 and 4, prompts' 1.5 and 4.5, each three times; residuals are +-.5, their sum of squares 3.

    Noise of a number: 3 / 5. Seeds: variance of the mean 2 / 2 = 1. Prompts: 6 * 2.25 / 5 / 6 = .45, less the noise in
    it, 3 / 5 / 6 / 2 = .05, is .4. So sqrt(t1^2 + .4 t5^2).
    """
    found = over_seeds([[1, 3] * 3, [2, 6] * 3])
    half = math.sqrt(T1**2 + 0.4 * T5**2)
    assert found.value == 3
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half), abs=1e-5)


def test_two_seeds_against_a_setting_without_spread_by_hand() -> None:
    """As above against zeros: p is where t1(p)^2 + .4 t5(p)^2 = 9."""
    found = compare_over_seeds([[1, 3] * 3, [2, 6] * 3], [[0] * 6] * 2)
    assert found.difference.value == 3
    assert found.difference.high == pytest.approx(3 + math.sqrt(T1**2 + 0.4 * T5**2), abs=1e-5)
    at_p = stats.t.isf(found.p / 2, [1, 5])
    assert at_p[0] ** 2 + 0.4 * at_p[1] ** 2 == pytest.approx(9, abs=1e-9)
    at_fifth = stats.t.isf(0.2, [1, 5])  # much more than the half-width is shown four times in five
    shown = math.sqrt(T1**2 + 0.4 * T5**2) + math.sqrt(at_fifth[0] ** 2 + 0.4 * at_fifth[1] ** 2)
    assert found.smallest == pytest.approx(shown, abs=1e-4)
    assert found.items == 6


def test_four_prompts_are_too_few_whatever_the_seeds() -> None:
    assert not over_seeds([[1, 2, 3, 4]] * 3).known
    found = compare_over_seeds([[1, 2, 3, 4]] * 3, [[0, 0, 0, 1]] * 3)
    assert math.isnan(found.p) and found.test == "none: fewer than 5 prompts"


def test_seeds_alone_give_welch_and_a_single_run_gives_students_t() -> None:
    """Where prompts do not vary, scipy's Welch test over the seeds.

    One run of mean 1 against 0, 2, 4: variance 4 for both sides, so t = -1 / sqrt(4 + 4/3) with 2 degrees of freedom.
    """
    first, second = [1.0, 2.0, 4.0], [6.0, 9.0, 7.5, 3.0]
    found = compare_over_seeds([[x] * 5 for x in first], [[x] * 5 for x in second])
    assert found.p == pytest.approx(stats.ttest_ind(first, second, equal_var=False).pvalue, abs=1e-9)
    single = compare_over_seeds([[1] * 5], [[0] * 5, [2] * 5, [4] * 5])
    assert single.p == pytest.approx(2 * stats.t.sf(1 / math.sqrt(16 / 3), 2), abs=1e-9)
    assert "a single run" in single.test


def test_prompts_alone_give_the_paired_t() -> None:
    """Three seeds that agree: the t interval over prompts."""
    found = over_seeds([SKEWED.tolist()] * 3)
    expected = stats.ttest_1samp(SKEWED, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_single_runs_are_compared_as_such() -> None:
    values, zeros = SKEWED.tolist(), [0.8] * 30
    assert over_seeds([values]) == mean_interval(values)
    paired, single = compare_paired(values, zeros), compare_over_seeds([values], [zeros])
    assert (single.difference, single.p, single.smallest) == (paired.difference, paired.p, paired.smallest)
    assert single.test.endswith("single runs: seeds not covered")


def test_seeds_without_any_spread_are_not_proof() -> None:
    """Every prompt of every seed moved by 1: with five prompts p is 2/32, however equal they are."""
    assert compare_over_seeds([[2, 3, 4, 5, 6]] * 3, [[1, 2, 3, 4, 5]] * 2).p == pytest.approx(1 / 16, abs=1e-12)


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
        (lambda: compare_over_seeds([[1, 2]], [[1]]), "2 and 1"),
        (lambda: ranks({"a": [1, 2], "b": [1]}), r"\[2, 1\]"),
    ],
)
def test_numbers_that_cannot_be_used_are_named(call: Callable[[], object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        call()


def test_importing_does_not_wait_for_statsmodels() -> None:
    code = "import sys, demotune.common.statistics; print('statsmodels' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "False"


@pytest.mark.parametrize("items", [2, 25, 119, 120, 121, 400])
def test_the_smallest_effect_is_seen_in_four_of_five_studies(items: int) -> None:
    """Of statsmodels' own power function; for 120 items its solver answers with an array."""
    effect = smallest_effect(items)
    assert isinstance(effect, float)
    assert TTestPower().power(effect, items, 0.05) == pytest.approx(0.8, abs=1e-4)
