"""Numbers that a run is judged by, against values worked out by hand or printed elsewhere."""

import math

import pytest

from demotune.common.statistics import Interval, share_interval
from demotune.records import Pair, RenderedDemonstration, Response, ScoredPair
from demotune.runs.heldout import RewardCheck, check_pairs, check_reward, implicit_rewards, nll_per_token


@pytest.mark.parametrize(
    ("wins", "count", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
        # All wins mirror none.
        (20, 20, 0.8389, 1.0000),
    ],
)
def test_wilson_interval_as_published(wins: int, count: int, low: float, high: float) -> None:
    """To the four digits that are printed."""
    interval = share_interval(wins, count)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)


def test_wilson_interval_by_its_formula() -> None:
    """8 of 10: (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), z = 1.959964; 1e-6."""
    z, p, n = 1.959964, 0.8, 10
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    expected = ((middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n))
    found, with_a_tie = share_interval(8, 10), share_interval(8.5, 10)
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-6)
    assert (with_a_tie.low, with_a_tie.high) == (found.low, found.high)  # half a win does not make it better


def demonstration(tokens: int) -> RenderedDemonstration:
    return RenderedDemonstration((5,), Response((6,) * tokens, True), "key")


def test_nll_is_per_token_over_all_tokens() -> None:
    """(4 + 3) nats over 1 + 6 tokens is 1, while the mean of the rows' own 4 and 0.5 would be 2.25."""
    assert nll_per_token([demonstration(1), demonstration(6)], [-4.0, -3.0]) == pytest.approx(1.0, abs=1e-12)


def pair_scored(demo_ref_logp: float, sample_ref_logp: float) -> ScoredPair:
    return ScoredPair(Pair("k", (5,), Response((6,), True), Response((7,), True)), demo_ref_logp, sample_ref_logp)


def judged(pairs: list[ScoredPair], logps: list[tuple[float, float]], beta: float) -> RewardCheck:
    """Each pair has a prompt of its own."""
    return check_reward(implicit_rewards(pairs, logps, beta), range(len(pairs)), beta)


def test_reward_of_four_pairs_with_a_tie() -> None:
    """Log-ratios (demonstration, sample): (2, 1), (1, 1), (0, 3), (1, -1). Two wins, a tie, a loss: 2.5 of 4.

    Margins 1, 0, -3, 2 have mean 0; demonstrations mean 1, samples mean 1.
    """
    pairs = [pair_scored(-10, -20), pair_scored(-11, -21), pair_scored(-12, -22), pair_scored(-13, -23)]
    found = judged(pairs, [(-8, -19), (-10, -20), (-12, -19), (-12, -24)], beta=0.1)
    assert found.pairs == 4
    assert (found.prompts, found.equal) == (4, 0)
    assert found.accuracy == Interval(2.5 / 4, share_interval(2, 4).low, share_interval(3, 4).high)
    assert (found.demo_logratio, found.sample_logratio) == pytest.approx((1.0, 1.0), abs=1e-12)
    assert found.margin == pytest.approx(0.0, abs=1e-12)


def test_a_policy_that_has_not_moved_is_right_half_of_the_time() -> None:
    pairs = [pair_scored(-10, -20), pair_scored(-1, -2)]
    found = judged(pairs, [(-10, -20), (-1, -2)], beta=0.1)
    assert (found.accuracy.value, found.margin) == (0.5, 0.0)


def test_margin_is_in_units_of_beta() -> None:
    found = judged([pair_scored(-10, -20)], [(-7, -21)], beta=0.25)
    assert found.margin == pytest.approx(0.25 * 4, abs=1e-12)


def test_numbers_that_do_not_match_the_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="argument 2"):
        judged([pair_scored(-1, -1)], [], beta=0.1)


def test_each_prompt_counts_once_however_many_pairs_it_has() -> None:
    """Prompt a has margins 1, 1, 1, -1 and prompt b -3: 0.75 of 2 prompts, where 3 of 5 pairs are won.

    The margin is the mean of 0.5 and -3; the interval reaches from no prompt to one.
    """
    rewards = [(2.0, 1.0), (2.0, 1.0), (2.0, 1.0), (2.0, 3.0), (0.0, 3.0)]
    found = check_reward(rewards, ["a"] * 4 + ["b"], beta=0.5, equal=3)
    assert (found.prompts, found.pairs, found.equal) == (2, 5, 3)
    assert found.accuracy == Interval(0.375, share_interval(0, 2).low, share_interval(1, 2).high)
    assert found.margin == pytest.approx((0.5 - 3) / 2, abs=1e-12)
    assert (found.demo_logratio, found.sample_logratio) == pytest.approx((1 / 0.5, (1.5 + 3) / 2 / 0.5), abs=1e-12)


def test_pairs_of_like_length_are_judged_by_prompt_too() -> None:
    """Of prompt a one pair is of like length and won; of b both are, and one is won: 1.5 of 2."""
    rewards, lengths = [(1.0, 0.0), (0.0, 1.0), (1.0, 0.0), (0.0, 1.0)], [(4, 4), (4, 9), (4, 5), (4, 3)]
    found = check_pairs(rewards, lengths, ["a", "a", "b", "b"])
    assert (found.prompts, found.pairs, found.matched_pairs) == (2, 4, 3)
    assert found.accuracy.value == 0.5
    assert found.matched_accuracy.value == 0.75
