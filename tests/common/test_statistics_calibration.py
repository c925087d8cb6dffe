"""Simulated studies with a known answer: 95% intervals cover it in 93% to 97%, and tests keep their level.

With 1000 studies a coverage of 95% comes out between 93.6% and 96.4% in 95 of 100 tries; the seeds are fixed. A method
with 92% would fail in nine tries of ten. With fewer than 30 prompts less is promised, and held here as it was seen.
"""

import gc
import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from demotune.common.statistics import (
    Comparison,
    Interval,
    compare_over_seeds,
    compare_paired,
    compare_ratio,
    compare_wins,
    holm,
    mean_interval,
    over_seeds,
    ratio_interval,
)

STUDIES = 1000
Numbers = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Numbers]


def coverage(study: Callable[[np.random.Generator], Interval], truth: float) -> float:
    rng = np.random.default_rng(20)
    found = [study(rng) for _ in range(STUDIES)]
    return float(np.mean([one.low - 1e-12 <= truth <= one.high + 1e-12 for one in found]))


def rejections(study: Callable[[np.random.Generator], Comparison]) -> float:
    rng = np.random.default_rng(21)
    return float(np.mean([study(rng).p <= 0.05 for _ in range(STUDIES)]))


def normal(rng: np.random.Generator, n: int) -> Numbers:
    return rng.normal(size=n)


def skewed(rng: np.random.Generator, n: int) -> Numbers:
    """Exponential, mean 0."""
    return rng.exponential(size=n) - 1


def heavy_tailed(rng: np.random.Generator, n: int) -> Numbers:
    return rng.standard_t(3, size=n)


def often_equal(rng: np.random.Generator, n: int) -> Numbers:
    """Half of the prompts show no difference, the rest a skewed one; mean 0."""
    return np.where(rng.random(n) < 0.5, 0, rng.gamma(1.5, size=n) - 0.9) - 0.3


@pytest.mark.parametrize("draw", [normal, skewed, heavy_tailed, often_equal])
def test_mean_interval_covers(draw: Draw) -> None:
    assert 0.93 <= coverage(lambda rng: mean_interval((5 + draw(rng, 30)).tolist()), 5) <= 0.97


def tied(rng: np.random.Generator, n: int) -> Numbers:
    return rng.choice([0.0, 1.0, 2.0], p=[0.5, 0.3, 0.2], size=n) - 0.7


def clustered(rng: np.random.Generator, n: int) -> Numbers:
    return rng.choice([-1.0, 1.0], size=n) + 0.1 * rng.normal(size=n)


def log_normal(rng: np.random.Generator, n: int) -> Numbers:
    return rng.lognormal(size=n) - math.exp(0.5)


def with_outliers(rng: np.random.Generator, n: int) -> Numbers:
    """Nearly equal; one in five is far off."""
    return 0.01 * rng.normal(size=n) + (rng.random(n) < 0.2) - 0.2


@pytest.mark.parametrize(
    ("draw", "least"),
    [
        (normal, {5: 0.94, 6: 0.94, 8: 0.94, 12: 0.94}),
        (heavy_tailed, {5: 0.94, 6: 0.94, 8: 0.94, 12: 0.94}),
        (tied, {5: 0.93, 6: 0.95, 8: 0.95, 12: 0.95}),
        (clustered, {5: 0.92, 6: 0.95, 8: 0.95, 12: 0.95}),
        (skewed, {5: 0.88, 6: 0.91, 8: 0.92, 12: 0.93}),
        (log_normal, {5: 0.81, 6: 0.86, 8: 0.88, 12: 0.90}),
        (with_outliers, {5: 0.64, 6: 0.70, 8: 0.80, 12: 0.90}),
    ],
)
def test_few_prompts_are_covered_as_documented(draw: Draw, least: dict[int, float]) -> None:
    for items, share in least.items():
        assert coverage(lambda rng, n=items: mean_interval((5 + draw(rng, n)).tolist()), 5) >= share, items


def test_three_or_four_prompts_are_too_few_even_for_t() -> None:
    """Two clusters: in 1 of 4 or 8 studies all prompts come from one of them, and t is far off; with 5 in 1 of 16."""
    rng = np.random.default_rng(25)
    for items, expected in ((3, 0.75), (4, 0.875), (5, 0.94)):
        studies = np.stack([clustered(rng, items) for _ in range(4000)])
        found = stats.ttest_1samp(studies, 0, axis=1).confidence_interval()
        assert np.mean((found.low <= 0) & (found.high >= 0)) == pytest.approx(expected, abs=0.02)


def tokens_of(rng: np.random.Generator, n: int) -> Numbers:
    """Log-normal lengths around 55 tokens."""
    return np.ceil(rng.lognormal(4, 0.7, size=n))


def test_ratio_interval_covers() -> None:
    """-2 nats per token, with prompts that are harder than others all along their length."""

    def study(rng: np.random.Generator) -> Interval:
        tokens = tokens_of(rng, 60)
        return ratio_interval((tokens * rng.normal(-2, 0.4, size=60)).tolist(), tokens.tolist())

    assert 0.93 <= coverage(study, -2) <= 0.97


@pytest.mark.parametrize("items", [5, 12, 60])
def test_ratio_interval_covers_where_lengths_are_very_unequal(items: int) -> None:
    """One prompt may have half of all tokens; without what that costs the interval covers 83%, 85%, 91%."""

    def study(rng: np.random.Generator) -> Interval:
        tokens = np.ceil(rng.lognormal(4, 1.2, size=items))
        return ratio_interval((tokens * rng.normal(-2, 0.4, size=items)).tolist(), tokens.tolist())

    assert coverage(study, -2) >= 0.93


def per_token(rng: np.random.Generator, gain: float) -> Comparison:
    tokens = tokens_of(rng, 60)
    before = tokens * rng.normal(-2, 0.4, size=60)
    after = before + tokens * rng.normal(gain, 0.1, size=60)
    return compare_ratio(after.tolist(), before.tolist(), tokens.tolist())


def test_difference_per_token_covers_and_keeps_its_level() -> None:
    assert 0.93 <= coverage(lambda rng: per_token(rng, 0.05).difference, 0.05) <= 0.97
    assert rejections(lambda rng: per_token(rng, 0)) <= 0.06


def paired(rng: np.random.Generator, draw: Draw, n: int, difference: float) -> Comparison:
    baseline = rng.normal(size=n)
    return compare_paired((baseline + difference + draw(rng, n)).tolist(), baseline.tolist())


@pytest.mark.parametrize("draw", [normal, skewed, heavy_tailed, often_equal])
def test_paired_difference_covers_and_keeps_its_level(draw: Draw) -> None:
    """The interval covers where the test of the true difference does not reject: one study tells both."""
    rng = np.random.default_rng(22)
    found = [paired(rng, draw, 40, 0) for _ in range(STUDIES)]
    assert 0.93 <= np.mean([one.difference.low <= 0 <= one.difference.high for one in found]) <= 0.97
    assert np.mean([one.p <= 0.05 for one in found]) <= 0.06


def test_smallest_difference_is_shown_four_times_in_five() -> None:
    """At the true spread; the promised power is that of t, and the correction for skewness takes little of it."""
    assert rejections(lambda rng: paired(rng, normal, 40, 0.454)) == pytest.approx(0.8, abs=0.04)


def verdicts(rng: np.random.Generator, win: float, tie: float, n: int) -> list[float]:
    drawn: list[float] = rng.choice([1, 0.5, 0], p=[win, tie, 1 - win - tie], size=n).tolist()
    return drawn


@pytest.mark.parametrize(("win", "tie"), [(0.6, 0.0), (0.45, 0.2), (0.3, 0.4), (0.5, 0.4), (0.15, 0.75)])
def test_win_rate_covers_with_ties(win: float, tie: float) -> None:
    found = coverage(lambda rng: compare_wins(verdicts(rng, win, tie, 100)).difference, win + tie / 2)
    assert 0.93 <= found <= 0.97


def test_sign_test_keeps_its_level() -> None:
    assert rejections(lambda rng: compare_wins(verdicts(rng, 0.35, 0.3, 100))) <= 0.06


def runs(rng: np.random.Generator, seeds: int, prompts: Numbers, between: float, noise: float) -> list[list[float]]:
    """(seeds, prompts): what prompts share, what a seed adds to all of them, and what is left."""
    drawn = prompts + between * rng.normal(size=(seeds, 1)) + noise * rng.normal(size=(seeds, len(prompts)))
    table: list[list[float]] = drawn.tolist()
    return table


# Three seeds that hardly differ: the interval cannot know that, and errs on the careful side.
SEEDS = [(3, 0.0, 0.985), (3, 0.2, 0.985), (3, 0.5, 0.97), (3, 1.0, 0.97), (5, 0.1, 0.97), (5, 0.3, 0.97)]


@pytest.mark.parametrize(("seeds", "between", "most"), SEEDS)
def test_mean_over_seeds_covers(seeds: int, between: float, most: float) -> None:
    def study(rng: np.random.Generator) -> Interval:
        return over_seeds(runs(rng, seeds, rng.normal(size=60), between, 0.5))

    assert 0.93 <= coverage(study, 0) <= most


def settings(rng: np.random.Generator, seeds: int, between: float, difference: float) -> Comparison:
    prompts = rng.normal(size=60)
    changed = prompts + difference + 0.5 * rng.normal(size=60)
    first, second = runs(rng, seeds, changed, between, 0.5), runs(rng, seeds, prompts, between, 0.5)
    return compare_over_seeds(first, second)


@pytest.mark.parametrize(("seeds", "between", "most"), SEEDS)
def test_difference_over_seeds_covers_and_keeps_its_level(seeds: int, between: float, most: float) -> None:
    rng = np.random.default_rng(23)
    found = [settings(rng, seeds, between, 0.0) for _ in range(STUDIES)]
    assert 0.93 <= np.mean([one.difference.low <= 0 <= one.difference.high for one in found]) <= most
    assert np.mean([one.p <= 0.05 for one in found]) <= 0.06


def test_without_seeds_the_level_would_be_lost() -> None:
    """The same studies judged by one run each: seeds that vary look like differences, in a third of the studies."""

    def study(rng: np.random.Generator) -> Comparison:
        prompts = rng.normal(size=60)
        first, second = runs(rng, 1, prompts, 0.2, 0.5), runs(rng, 1, prompts, 0.2, 0.5)
        return compare_over_seeds(first, second)

    assert rejections(study) > 0.3


def test_six_corrected_comparisons_find_nothing_where_there_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """One baseline, six models that are no better; differences share the baseline, so they are not independent."""
    monkeypatch.setattr(gc, "collect", lambda: 0)  # statsmodels collects in each call, 40 ms
    rng = np.random.default_rng(24)
    wrong = 0
    for _ in range(STUDIES):
        baseline = skewed(rng, 40)
        models = [skewed(rng, 40) for _ in range(6)]
        ps = [compare_paired(model.tolist(), baseline.tolist()).p for model in models]
        wrong += min(holm(ps)) <= 0.05
    assert wrong / STUDIES <= 0.06


def test_six_corrected_comparisons_of_mostly_zeros_find_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """The far tail that Holm looks at: 80% zeros, the rest exponential, 40 prompts."""
    monkeypatch.setattr(gc, "collect", lambda: 0)
    rng = np.random.default_rng(26)
    tables = [
        [compare_paired(((rng.random(40) < 0.2) * rng.exponential(size=40)).tolist(), [0.2] * 40).p for _ in range(6)]
        for _ in range(STUDIES)
    ]
    assert np.mean([min(holm(table)) <= 0.05 for table in tables]) <= 0.06
