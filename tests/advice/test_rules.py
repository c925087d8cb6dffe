"""Each rule by hand: measurements that it is made for, and a neighbour that it is not made for."""

import dataclasses
import math
from typing import Any

import pytest

from demotune.advice.measurements import Headroom, Likelihood, Measurements, Prompts, RewardFound, ShortcutFound
from demotune.advice.rules import RULES, decide
from demotune.common.statistics import Interval


def about(value: float, half: float = 0.05) -> Interval:
    return Interval(value, value - half, value + half)


EXHAUSTED = Likelihood(train=about(1.0), heldout=about(1.5), gap=about(0.5), fall=about(-0.02, 0.01), probe_rows=128)
LEARNING = Likelihood(train=about(2.0), heldout=about(2.0), gap=about(0.02), fall=about(0.15), probe_rows=128)
FLAT = Likelihood(train=about(2.0), heldout=about(2.0), gap=about(0.02), fall=about(0.0, 0.005), probe_rows=128)


def headroom(greedy: float, best: float, half: float = 0.1) -> Headroom:
    """Of a gap of 1 nat, so that gains are shares."""
    return Headroom(
        prompts=100,
        demonstrations=about(1.0, half),
        greedy=about(greedy, half),
        best=about(best, half),
        best_over_greedy=about(best - greedy, half),
        greedy_share=about(greedy, half),
        best_share=about(best, half),
    )


def reward(
    accuracy: float = 0.75, greedy: float = 0.1, best: float = 0.6, *, beaten: bool = True, greedy_accuracy: float = 0.7
) -> RewardFound:
    return RewardFound(
        train_prompts=200,
        accuracy=about(accuracy, 0.1),
        shortcut=ShortcutFound("length", 0.6, about(0.15 if beaten else 0.0), beaten),
        greedy_accuracy=about(greedy_accuracy, 0.1),
        headroom=headroom(greedy, best),
    )


def measured(**changes: Any) -> Measurements:
    """A real reward that best of n follows, SFT exhausted, few demonstrations, no further prompts."""
    base = Measurements(
        demonstrations=200,
        train_rows=200,
        heldout_rows=100,
        heldout_prompts=100,
        samples_per_prompt=4,
        equal=about(0.02, 0.02),
        equal_in_training=about(0.02, 0.02),
        reward=reward(),
        likelihood=EXHAUSTED,
        prompts=None,
        rows_for_accuracy=194,
        rows_for_win_rate=787,
    )
    return dataclasses.replace(base, **changes)


@pytest.mark.parametrize(
    ("changes", "rule", "action"),
    [
        ({"heldout_prompts": 4}, "too few held-out rows", "nothing"),
        ({"equal": about(0.9)}, "samples are the demonstrations", "nothing"),
        ({"reward": reward(0.55), "likelihood": LEARNING}, "no reward, SFT goes on", "sft"),
        ({"reward": reward(0.55)}, "no reward", "nothing"),
        ({"reward": reward(0.55), "likelihood": FLAT}, "no reward", "nothing"),
        ({"reward": None, "likelihood": LEARNING}, "no reward, SFT goes on", "sft"),
        ({"reward": None}, "no reward", "nothing"),
        ({"reward": reward(0.9, beaten=False)}, "no reward", "nothing"),
        ({"reward": reward(greedy=0.85)}, "greedy closes the gap", "lower temperature"),
        ({"reward": reward(greedy=0.85), "likelihood": LEARNING}, "greedy closes the gap", "lower temperature"),
        ({"reward": reward(greedy=0.7, greedy_accuracy=0.5)}, "greedy closes the gap", "lower temperature"),
        ({"likelihood": LEARNING}, "SFT goes on", "sft"),
        ({}, "best of n", "best-of-n"),
        ({"prompts": Prompts(128, about(-0.5, 0.2))}, "best of n, with prompts", "rft"),
        ({"prompts": Prompts(128, about(0.0, 0.2))}, "best of n, with prompts", "rft"),
        ({"reward": reward(greedy=0.5, best=0.35)}, "greedy is better than best of n", "lower temperature"),
        ({"reward": reward(greedy=0.5, best=0.35), "likelihood": LEARNING}, "SFT goes on", "sft"),
        ({"reward": reward(greedy=0.4, best=0.4)}, "best of n", "best-of-n"),
        ({"reward": reward(greedy=0.1, best=0.15)}, "SFT exhausted, few demonstrations", "irft"),
        ({"reward": reward(greedy=0.1, best=0.15), "likelihood": FLAT}, "SFT exhausted, few demonstrations", "irft"),
        ({"reward": reward(greedy=0.1, best=0.15), "demonstrations": 5000}, "nothing clear", "nothing"),
        ({"reward": reward(0.61, greedy=0.1, best=0.15)}, "nothing clear", "nothing"),
    ],
)
def test_the_rule_that_decides(changes: dict[str, Any], rule: str, action: str) -> None:
    found = decide(measured(**changes))
    assert (found.name, found.action) == (rule, action)


def test_each_rule_gives_its_reason_in_words_with_numbers() -> None:
    """Each rule's own words, for measurements for which it decides."""
    few = measured(heldout_prompts=4)
    assert "4 held-out prompts are too few" in decide(few).reason(few)
    equal = measured(equal=about(0.9))
    assert "already writes the demonstrations: 0.90 [0.85, 0.95]" in decide(equal).reason(equal)
    chance = measured(reward=reward(0.55))
    assert "chance reaches too; 194 held-out prompts would tell" in decide(chance).reason(chance)
    shortcut = measured(reward=reward(0.9, beaten=False))
    assert (
        "the shortcut 'length' reaches 0.60, and the reward's lead over it, 0.00 [-0.05, 0.05], is not clear of 0"
        in (decide(shortcut).reason(shortcut))
    )
    none = measured(reward=None)
    assert "fewer than 10 training prompts have a sample that differs" in decide(none).reason(none)
    worse = measured(prompts=Prompts(128, about(-0.5, 0.2)))
    assert "earn less there (-0.50 [-0.70, -0.30] nats)" in decide(worse).reason(worse)
    alike = measured(prompts=Prompts(128, about(0.0, 0.2)))
    assert "earn less there" not in decide(alike).reason(alike)


def test_unknown_bounds_decide_nothing() -> None:
    """A gap that is not clear of 0 has shares without bounds: no advice may rest on them."""
    unknown = Interval(0.9, math.nan, math.nan)
    changed = dataclasses.replace(headroom(0.9, 2.0), greedy_share=unknown, best=unknown, best_over_greedy=unknown)
    of = dataclasses.replace(reward(), headroom=changed)
    assert decide(measured(reward=of, demonstrations=5000)).name == "nothing clear"


@pytest.mark.parametrize(
    ("greedy", "best", "over", "named"),
    [(0.3, 0.6, about(0.3, 0.4), True), (0.4, 0.55, about(0.15), True), (0.3, 0.6, about(0.3, 0.1), False)],
)
def test_where_greedy_answers_may_do_as_much_they_are_named(
    greedy: float, best: float, over: Interval, named: bool
) -> None:
    changed = dataclasses.replace(headroom(greedy, best), best_over_greedy=over)
    of = measured(reward=dataclasses.replace(reward(), headroom=changed))
    assert decide(of).name == "best of n"
    assert ("a lower temperature may do as much" in decide(of).reason(of)) == named


def test_the_last_rule_always_holds() -> None:
    assert RULES[-1].holds(measured())
    assert len({rule.name for rule in RULES}) == len(RULES)
