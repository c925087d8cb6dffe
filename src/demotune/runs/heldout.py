"""What a stage did to demonstrations that it was not trained on, with intervals."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from demotune.common.statistics import Interval, accuracy_by_prompt, mean_by_prompt, share_interval
from demotune.records import RenderedDemonstration, Response, ScoredPair


@dataclass(frozen=True, slots=True)
class HeldoutRow:
    """start.jsonl.gz, heldout.jsonl.gz: a held-out demonstration under one policy, with that policy's own answer."""

    key: str
    prompt: str
    demonstration: str
    demo_logp: float
    """Summed over the response's tokens, nats."""
    demo_tokens: int
    sample: str
    sample_ids: tuple[int, ...]
    finished: bool
    """Whether the sample ended by itself."""

    @property
    def response(self) -> Response:
        """The sample as token ids."""
        return Response(self.sample_ids, self.finished)


@dataclass(frozen=True, slots=True)
class RewardCheck:
    """The implicit reward beta * log pi/pi_ref on held-out pairs (demonstration, sample of the reference).

    Means are over prompts, each prompt counting once however many pairs it has, and so is Wilson's interval of
    `accuracy`. The margin is in nats times beta. A tie counts as half; pairs whose sides are equal are left out.
    """

    prompts: int
    pairs: int
    equal: int
    """Samples that are their demonstration, token by token: left out."""
    margin: float
    accuracy: Interval
    demo_logratio: float
    sample_logratio: float


@dataclass(frozen=True, slots=True)
class PairCheck:
    """How often a reward prefers the better of two responses to one prompt.

    Each prompt counts once, however many pairs it has; Wilson intervals over prompts. `matched` are the pairs whose
    responses differ in length by at most a quarter of the longer one: what is left of the accuracy when length says
    little; its numbers are nan where there is no such pair.
    """

    prompts: int
    pairs: int
    equal: int
    """Pairs whose sides are equal: left out."""
    margin: float
    accuracy: Interval
    matched_pairs: int
    matched_accuracy: Interval


@dataclass(frozen=True, slots=True)
class PolicyCheck:
    """What one sample per held-out prompt earns before and after a stage's policy steps, by the stage's own reward.

    `better` is the share of prompts whose sample after earns more, with Wilson's interval; a tie counts as half.
    The reward was not trained on these prompts, but the policy was trained on this reward.
    """

    prompts: int
    demo_reward: float
    reward_before: float
    reward_after: float
    better: Interval
    finished_share: float
    mean_length: float


def check_pairs(
    rewards: Sequence[tuple[float, float]],
    lengths: Sequence[tuple[int, int]],
    prompts: Sequence[Hashable] | None = None,
    *,
    equal: int = 0,
) -> PairCheck:
    """Judge rewards (of the better response, of the other); lengths are in tokens. A tie counts as half.

    `prompts` says which pairs have the same prompt; without it each pair has its own. `equal` pairs were left out.
    """
    of = range(len(rewards)) if prompts is None else prompts
    margins = [better - other for better, other in rewards]
    alike = [
        (margin, prompt)
        for margin, prompt, both in zip(margins, of, lengths, strict=True)
        if min(both) >= 0.75 * max(both)
    ]
    return PairCheck(
        prompts=len(set(of)),
        pairs=len(rewards),
        equal=equal,
        margin=mean_by_prompt(margins, of),
        accuracy=accuracy_by_prompt(margins, of),
        matched_pairs=len(alike),
        matched_accuracy=accuracy_by_prompt(*zip(*alike, strict=True))
        if alike
        else Interval(math.nan, math.nan, math.nan),
    )


def check_policy(
    *, demos: Sequence[float], before: Sequence[float], after: Sequence[float], answers: Sequence[Response]
) -> PolicyCheck:
    """Compare rewards of demonstrations and of samples before and after, all (prompts,)."""
    return PolicyCheck(
        prompts=len(answers),
        demo_reward=float(np.mean(demos)),
        reward_before=float(np.mean(before)),
        reward_after=float(np.mean(after)),
        better=share_of_wins(list(zip(after, before, strict=True))),
        finished_share=float(np.mean([answer.finished for answer in answers])),
        mean_length=float(np.mean([len(answer.ids) for answer in answers])),
    )


def check_reward(
    rewards: Sequence[tuple[float, float]], prompts: Sequence[Hashable], beta: float, *, equal: int = 0
) -> RewardCheck:
    """Judge implicit rewards of (demonstration, sample), at least one; `equal` pairs were left out."""
    demo, sample = zip(*rewards, strict=True)
    margins = [better - other for better, other in rewards]
    return RewardCheck(
        prompts=len(set(prompts)),
        pairs=len(rewards),
        equal=equal,
        margin=mean_by_prompt(margins, prompts),
        accuracy=accuracy_by_prompt(margins, prompts),
        demo_logratio=mean_by_prompt(demo, prompts) / beta,
        sample_logratio=mean_by_prompt(sample, prompts) / beta,
    )


def count_wins(rewards: Sequence[tuple[float, float]]) -> float:
    """How often the first of two rewards is the higher one; a tie counts as half."""
    return sum(win(*both) for both in rewards)


def win(one: float, other: float) -> float:
    """1 where the first is higher, 0.5 for a tie, else 0."""
    return (one > other) + 0.5 * (one == other)


def share_of_wins(rewards: Sequence[tuple[float, float]]) -> Interval:
    """`count_wins` of all pairs, with Wilson's interval."""
    return share_interval(count_wins(rewards), len(rewards))


def nll_per_token(demonstrations: Sequence[RenderedDemonstration], logps: Sequence[float]) -> float:
    """Negative log-likelihood per response token, nats, over all tokens of `demonstrations`."""
    tokens = sum(len(row.demo.ids) for row in demonstrations)
    return -sum(logps) / tokens


def implicit_rewards(
    pairs: Sequence[ScoredPair], logps: Sequence[tuple[float, float]], beta: float
) -> list[tuple[float, float]]:
    """beta * log pi/pi_ref of (demonstration, sample), for a policy with these log-probabilities of the two."""
    return [
        (beta * (demo - pair.demo_ref_logp), beta * (sample - pair.sample_ref_logp))
        for pair, (demo, sample) in zip(pairs, logps, strict=True)
    ]
