"""From measurements to one recommendation: a table of rules, of which the first that holds decides."""

from collections.abc import Callable
from dataclasses import dataclass

from demotune.advice.measurements import FEWEST_TO_FIT, Action, Likelihood, Measurements, RewardFound
from demotune.common.statistics import FEWEST

MOSTLY_EQUAL = 0.8
"""From this share on of samples that are the demonstration, the policy already writes what it should."""
SMALL_GAP = 0.1
"""Nats per token between held-out and training rows. Up to it, a held-out token is at most 10% less likely than one
that was trained on, and more SFT still moves both."""
FALLS = 0.01
"""Nats per token by which a short SFT must lower the held-out rows: with less, the likelihood is flat."""
GREEDY_CLOSES = 0.8
"""From this share on of the gap between samples and demonstrations, greedy answers close it. Less than the whole: the
reward also sees differences that nobody would pay a training for."""
AT_LEAST_HALF = 0.5
"""The lower bound of that share must not lie below: otherwise nobody knows that most of the gap is closed."""
WORTHWHILE = 0.2
"""Best of n must close this share of the gap: it costs n responses for each answer. Where it does not close that much
more than greedy answers, these are named, too."""
GOOD_ACCURACY = 0.65
"""From here on a reward is good. Below it about every third pair that trains the policy would point the wrong way."""
FEW_DEMONSTRATIONS = 500
"""Below this number of rows, pairs with the policy's own samples add what more demonstrations would give otherwise."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What to do where a condition holds, and why."""

    name: str
    holds: Callable[[Measurements], bool]
    action: Action
    reason: Callable[[Measurements], str]


def decide(measured: Measurements) -> Rule:
    """The first rule that holds; the last one always does."""
    return next(rule for rule in RULES if rule.holds(measured))


def is_real(reward: RewardFound | None) -> bool:
    """Whether it beats chance and the best shortcut on held-out pairs."""
    return reward is not None and reward.accuracy.low > 0.5 and (reward.shortcut is None or reward.shortcut.beaten)


def sft_goes_on(likelihood: Likelihood) -> bool:
    """Whether more SFT would still teach: training rows are not known by heart, and a short SFT helps held-out ones."""
    return likelihood.gap.value <= SMALL_GAP and likelihood.fall.low > 0 and likelihood.fall.value >= FALLS


def sft_exhausted(likelihood: Likelihood) -> bool:
    """Whether the model knows its training rows clearly better than others, or its likelihood is flat."""
    return (likelihood.gap.value > SMALL_GAP and likelihood.gap.low > 0) or likelihood.fall.high < FALLS


def greedy_closes(reward: RewardFound) -> bool:
    """Whether greedy answers are as good as demonstrations, or nearly."""
    share = reward.headroom.greedy_share
    no_longer_told_apart = reward.greedy_accuracy.low <= 0.5
    return share.low >= AT_LEAST_HALF and (share.value >= GREEDY_CLOSES or no_longer_told_apart)


def greedy_is_better(reward: RewardFound) -> bool:
    """Whether greedy answers are clearly better than samples, and than the best of n."""
    return reward.headroom.greedy.low > 0 and reward.headroom.best_over_greedy.high < 0


def best_closes(reward: RewardFound) -> bool:
    """Whether best of n clearly closes some of the gap, and enough."""
    return reward.headroom.best.low > 0 and reward.headroom.best_share.value >= WORTHWHILE


def greedy_may_do(reward: RewardFound) -> bool:
    """Whether it is not known that best of n is better than greedy answers, or it is little better."""
    headroom = reward.headroom
    more = headroom.best_share.value - max(headroom.greedy_share.value, 0.0)
    return not (headroom.best_over_greedy.low > 0 and more >= WORTHWHILE)


def _real(measured: Measurements) -> RewardFound | None:
    return measured.reward if is_real(measured.reward) else None


def _best_is_worth_it(measured: Measurements) -> bool:
    reward = _real(measured)
    return reward is not None and best_closes(reward)


def _why_not_real(measured: Measurements) -> str:
    reward = measured.reward
    if reward is None:
        return (
            f"No reward can be learned: fewer than {FEWEST_TO_FIT} training prompts have a sample that differs from "
            f"its demonstration, or no held-out one has ({measured.train_rows} training rows were measured; share of "
            f"samples that are the demonstration: {measured.equal_in_training.text()})."
        )
    found = f"held-out accuracy {reward.accuracy.text()}"
    if reward.accuracy.low <= 0.5:
        needed = measured.rows_for_accuracy
        rows = f"; {needed} held-out prompts would tell such an accuracy from chance" if needed else ""
        return f"No reward can be learned from these rows: {found}, which chance reaches too{rows}."
    assert reward.shortcut is not None
    return (
        f"The reward knows no more than a shortcut: {found}; the shortcut {reward.shortcut.name!r} reaches "
        f"{reward.shortcut.accuracy:.2f}, and the reward's lead over it, {reward.shortcut.lead.text()}, is not clear "
        "of 0. Training on it would teach the shortcut."
    )


def _likelihood(likelihood: Likelihood) -> str:
    return (
        f"a held-out token costs {likelihood.gap.text()} nats more than one that was trained on, and a short SFT on "
        f"{likelihood.probe_rows} rows lowers held-out rows by {likelihood.fall.text(3)} nats a token"
    )


def _few(measured: Measurements) -> str:
    return (
        f"{measured.heldout_prompts} held-out prompts are too few for any interval; {FEWEST} are the least, and "
        "100 or more decide something."
    )


def _equal(measured: Measurements) -> str:
    return (
        f"The policy already writes the demonstrations: {measured.equal.text()} of its samples to held-out prompts are "
        "the demonstration, token by token. There is nothing left to learn from them."
    )


def _only_sft(measured: Measurements) -> str:
    return f"{_why_not_real(measured)} SFT still learns: {_likelihood(measured.likelihood)}."


def _no_reward(measured: Measurements) -> str:
    return (
        f"{_why_not_real(measured)} Nor is it seen that more SFT would help: {_likelihood(measured.likelihood)}. "
        "Get more rows."
    )


def _reward(measured: Measurements) -> RewardFound:
    """Of a rule that holds only where there is a reward."""
    assert measured.reward is not None
    return measured.reward


def _temperature(measured: Measurements) -> str:
    reward = _reward(measured)
    return (
        f"Greedy answers close {reward.headroom.greedy_share.text()} of the gap between samples at temperature 1 and "
        f"demonstrations, by the reward (it prefers the demonstration to the greedy answer in "
        f"{reward.greedy_accuracy.text()}). A lower temperature costs nothing; no training is needed."
    )


def _sft_first(measured: Measurements) -> str:
    return (
        f"SFT still learns: {_likelihood(measured.likelihood)}. It is cheaper than any other method, so it goes first."
    )


def _closes(measured: Measurements) -> str:
    reward = _reward(measured)
    found = (
        f"A learned reward is real (held-out accuracy {reward.accuracy.text()}), and the best of "
        f"{measured.samples_per_prompt} closes {reward.headroom.best_share.text()} of the gap between samples and "
        f"demonstrations, greedy answers {reward.headroom.greedy_share.text()}."
    )
    if greedy_may_do(reward):
        found += " Where answers need not vary, a lower temperature may do as much and costs nothing: compare it first."
    return found


def _rft(measured: Measurements) -> str:
    assert measured.prompts is not None
    difference = measured.prompts.difference
    where = f"There are {measured.prompts.count} prompts without demonstrations, which policy steps can use"
    if difference is not None and difference.high < 0:
        where += f"; greedy answers earn less there ({difference.text()} nats)"
    return f"{_closes(measured)} {where}. Answers then cost one response each."


def _best(measured: Measurements) -> str:
    return (
        f"{_closes(measured)} It needs no training, and {measured.samples_per_prompt} responses for each answer. The "
        "log-ratio of an SFT run (--reward RUN) chooses, too, and needs no fit; which of the two chooses better is not "
        "known before somebody reads what they choose. With prompts without demonstrations (--prompts), RFT is another "
        "way to answers of one response."
    )


def _irft(measured: Measurements) -> str:
    reward = _reward(measured)
    return (
        f"SFT is exhausted: {_likelihood(measured.likelihood)}. The reward is good (held-out accuracy "
        f"{reward.accuracy.text()}) and {measured.demonstrations} demonstrations are few, so pairs with the policy's "
        "own samples may add something. That is a guess: IRFT has beaten tuned SFT in none of demotune's own studies."
    )


def _nothing(measured: Measurements) -> str:
    reward = _reward(measured)
    return (
        f"A reward can be learned (held-out accuracy {reward.accuracy.text()}), but nothing cheap follows it: greedy "
        f"answers close {reward.headroom.greedy_share.text()} of the gap, the best of {measured.samples_per_prompt} "
        f"{reward.headroom.best_share.text()}; {_likelihood(measured.likelihood)}. More rows would say more."
    )


RULES: tuple[Rule, ...] = (
    Rule("too few held-out rows", lambda m: m.heldout_prompts < FEWEST, "nothing", _few),
    Rule("samples are the demonstrations", lambda m: m.equal.value >= MOSTLY_EQUAL, "nothing", _equal),
    Rule("no reward, SFT goes on", lambda m: _real(m) is None and sft_goes_on(m.likelihood), "sft", _only_sft),
    Rule("no reward", lambda m: _real(m) is None, "nothing", _no_reward),
    Rule("greedy closes the gap", lambda m: m.reward is not None and greedy_closes(m.reward), "lower temperature",
         _temperature),
    Rule("SFT goes on", lambda m: sft_goes_on(m.likelihood), "sft", _sft_first),
    Rule("greedy is better than best of n", lambda m: m.reward is not None and greedy_is_better(m.reward),
         "lower temperature", _temperature),
    Rule("best of n, with prompts", lambda m: m.prompts is not None and _best_is_worth_it(m), "rft", _rft),
    Rule("best of n", _best_is_worth_it, "best-of-n", _best),
    Rule("SFT exhausted, few demonstrations", lambda m: (
        m.reward is not None
        and m.reward.accuracy.value >= GOOD_ACCURACY
        and m.demonstrations < FEW_DEMONSTRATIONS
        and sft_exhausted(m.likelihood)
    ), "irft", _irft),
    Rule("nothing clear", lambda _: True, "nothing", _nothing),
)  # fmt: skip
