"""What `demotune advise` measures, and advice.json, which keeps it with what it led to."""

from dataclasses import dataclass
from typing import Literal

from demotune.common.statistics import FEWEST, Interval

FEWEST_TO_FIT = 2 * FEWEST
"""Training prompts with a sample that differs: of each half a reward is fitted."""

Action = Literal["sft", "best-of-n", "irft", "rft", "lower temperature", "nothing"]


@dataclass(frozen=True, slots=True)
class ShortcutFound:
    """The best shortcut on the held-out pairs that the reward was judged on."""

    name: str
    accuracy: float
    lead: Interval
    """How much more often the reward is right, per prompt."""
    beaten: bool
    """Whether the lead is clear of 0, by the rule by which RFT begins its policy steps."""


@dataclass(frozen=True, slots=True)
class Headroom:
    """What responses to held-out prompts earn more than samples at temperature 1, in nats; intervals over prompts.

    Two rewards, each fitted on one half of the training prompts, judge; their mean counts. The best of n is chosen by
    one and judged by the other, so that a reward's own noise lets it choose, but does not count.
    """

    prompts: int
    demonstrations: Interval
    """The gap between demonstrations and samples: how much there is to win by this reward."""
    greedy: Interval
    best: Interval
    best_over_greedy: Interval
    greedy_share: Interval
    """Share of the gap that greedy answers close; bounds are nan where the gap is not clear of 0."""
    best_share: Interval


@dataclass(frozen=True, slots=True)
class RewardFound:
    """The linear reward, fitted on samples of the model to training prompts, on held-out prompts."""

    train_prompts: int
    """Training prompts with a sample that differs from its demonstration."""
    accuracy: Interval
    """Share of held-out pairs whose demonstration earns more than the sample; every prompt counts once."""
    shortcut: ShortcutFound | None
    """None where there are too few prompts to judge shortcuts."""
    greedy_accuracy: Interval
    """The same with the greedy answer in place of samples; a greedy answer that is the demonstration is half."""
    headroom: Headroom


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Negative log-likelihood of demonstrations, in nats per token."""

    train: Interval
    heldout: Interval
    gap: Interval
    """heldout - train, by Welch's interval: what the model knows of its training rows only."""
    fall: Interval
    """By how much a short SFT lowers `heldout`, on the same rows: near 0 where the likelihood is flat."""
    probe_rows: int
    """Training rows of the short SFT."""


@dataclass(frozen=True, slots=True)
class Prompts:
    """Prompts without demonstrations."""

    count: int
    difference: Interval | None
    """Reward of greedy answers to them, less that to held-out prompts, in nats. None without a reward."""


@dataclass(frozen=True, slots=True)
class Measurements:
    """All that the rules look at."""

    demonstrations: int
    """Rows that a run would train on."""
    train_rows: int
    """Of these, as many as were measured."""
    heldout_rows: int
    heldout_prompts: int
    """Different ones."""
    samples_per_prompt: int
    equal: Interval
    """Share of samples to held-out prompts that are the demonstration, token by token."""
    equal_in_training: Interval
    reward: RewardFound | None
    """None where too few training prompts have a sample that differs from its demonstration, or no held-out one has."""
    likelihood: Likelihood
    prompts: Prompts | None
    """None where none were given."""
    rows_for_accuracy: int | None
    """Held-out prompts that would tell the reward's accuracy from chance; None where it is one half or less."""
    rows_for_win_rate: int | None
    """Prompts that would show a win rate 5 points above one half; None where all samples are alike."""


@dataclass(frozen=True, slots=True)
class Advice:
    """A recommendation, its reason in words, and what to run."""

    action: Action
    rule: str
    """Which rule led to it."""
    reason: str
    command: str
    """What to run next, to be copied."""
    otherwise: str | None
    """Best of n: the command where each answer must cost one response."""
    basis: str
    """What it rests on, and that it is no promise."""


@dataclass(frozen=True, slots=True)
class AdviceRecord:
    """advice.json."""

    model: str
    model_hash: str
    data: tuple[str, ...]
    data_hashes: dict[str, str]
    seed: int
    measurements: Measurements
    advice: Advice
