"""The quickly fitted linear reward: what it is worth on held-out prompts, and what answers earn by it."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from demotune.advice.measurements import FEWEST_TO_FIT, Headroom, RewardFound, ShortcutFound
from demotune.common.statistics import Interval, accuracy_by_prompt, mean_interval, quotient_interval
from demotune.records import Completion, Pair, RenderedDemonstration, Response
from demotune.rewards.linear import Columns, Floats, LinearReward, PairColumns, fit_linear_reward
from demotune.rewards.pair_selection import select_pairs
from demotune.rewards.shortcuts import audit_shortcuts
from demotune.training.reward_gate import lead_over_shortcuts


@dataclass(frozen=True, slots=True)
class Answers:
    """A demonstration, the model's samples for its prompt, and, where it is held out, its greedy answer."""

    row: RenderedDemonstration
    samples: tuple[Response, ...]
    greedy: Response | None = None

    @property
    def pairs(self) -> list[Pair]:
        """One for each sample, with keys of their own."""
        row = self.row
        return [
            Pair(f"{row.key}/{number}", row.prompt_ids, row.demo, sample) for number, sample in enumerate(self.samples)
        ]

    @property
    def completions(self) -> list[Completion]:
        """All responses to the prompt, the demonstration first."""
        responses = [self.row.demo, *self.samples, *([] if self.greedy is None else [self.greedy])]
        return [Completion(self.row.prompt_ids, response) for response in responses]


@dataclass(frozen=True, slots=True, eq=False)
class States:
    """Columns of completions, each computed once."""

    table: Mapping[Completion, Floats]

    def of(self, prompt_ids: tuple[int, ...], responses: Iterable[Response]) -> Floats:
        """(N, D) of the responses to a prompt."""
        return np.stack([self.table[Completion(prompt_ids, response)] for response in responses])

    def of_pairs(self, pairs: Sequence[Pair]) -> PairColumns:
        """Of those whose sides differ."""
        chosen = select_pairs(pairs)
        return PairColumns(
            demo=np.stack([self.table[Completion(pair.prompt_ids, pair.demo)] for pair in chosen.pairs]),
            sample=np.stack([self.table[Completion(pair.prompt_ids, pair.sample)] for pair in chosen.pairs]),
            prompts=tuple(pair.prompt_ids for pair in chosen.pairs),
            equal=chosen.equal,
        )


def equal_share(answers: Sequence[Answers]) -> Interval:
    """Share of samples that are the demonstration, each prompt counting once."""
    pairs = [pair for one in answers for pair in one.pairs]
    equal = np.array([1.0 if pair.demo.ids == pair.sample.ids else -1.0 for pair in pairs])
    return accuracy_by_prompt(equal, [pair.prompt_ids for pair in pairs])


def fit_reward(
    train: Sequence[Answers], heldout: Sequence[Answers], states: States
) -> tuple[LinearReward, RewardFound] | None:
    """The reward of all training prompts, and what it is worth; None where too few of them can teach one."""
    pairs = [pair for one in train for pair in one.pairs]
    judged = [pair for one in heldout for pair in one.pairs]
    differing = list(dict.fromkeys(pair.prompt_ids for pair in select_pairs(pairs).pairs))
    if len(differing) < FEWEST_TO_FIT or not select_pairs(judged).pairs:
        return None
    reward = fit_linear_reward(states.of_pairs(pairs), states.of_pairs(judged), Columns())
    halves = []
    for prompts in (set(differing[::2]), set(differing[1::2])):
        own = [pair for pair in pairs if pair.prompt_ids in prompts]
        halves.append(fit_linear_reward(states.of_pairs(own), None, Columns()))
    found = RewardFound(
        train_prompts=len(differing),
        accuracy=reward.accuracy,
        shortcut=_best_shortcut(reward, pairs, judged, states),
        greedy_accuracy=_greedy_accuracy(reward, heldout, states),
        headroom=headroom([scores_of(halves, one, states) for one in heldout], [one.row.prompt_ids for one in heldout]),
    )
    return reward, found


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What responses to one prompt earn by two rewards, the columns: (2,), (samples, 2), (2,)."""

    demonstration: Floats
    samples: Floats
    greedy: Floats


def scores_of(judges: Sequence[LinearReward], answers: Answers, states: States) -> Scores:
    """By two rewards."""
    assert answers.greedy is not None
    responses = [answers.row.demo, *answers.samples, answers.greedy]
    columns = states.of(answers.row.prompt_ids, responses)
    table = np.stack([judge.score(columns) for judge in judges], axis=1)
    return Scores(table[0], table[1:-1], table[-1])


def headroom(scores: Sequence[Scores], prompts: Sequence[Hashable]) -> Headroom:
    """What demonstrations, greedy answers and the best of n earn more than samples; rows of one prompt are averaged."""
    gains: list[list[float]] = []
    for one in scores:
        chosen = one.samples[one.samples.argmax(axis=0)[::-1], [0, 1]]  # by one reward, judged by the other
        sides = np.stack([one.demonstration, one.greedy, chosen]) - one.samples.mean(axis=0)
        gains.append(sides.mean(axis=1).tolist())
    demonstrations, greedy, best = (by_prompt([gain[side] for gain in gains], prompts) for side in range(3))
    return Headroom(
        prompts=len(demonstrations),
        demonstrations=mean_interval(demonstrations),
        greedy=mean_interval(greedy),
        best=mean_interval(best),
        best_over_greedy=mean_interval([high - low for high, low in zip(best, greedy, strict=True)]),
        greedy_share=quotient_interval(greedy, demonstrations),
        best_share=quotient_interval(best, demonstrations),
    )


def by_prompt(values: Sequence[float], prompts: Sequence[Hashable]) -> list[float]:
    """The mean of each prompt's values, prompts in their first order."""
    groups: defaultdict[Hashable, list[float]] = defaultdict(list)
    for value, prompt in zip(values, prompts, strict=True):
        groups[prompt].append(value)
    return [fmean(group) for group in groups.values()]


def _greedy_accuracy(reward: LinearReward, heldout: Sequence[Answers], states: States) -> Interval:
    margins = []
    for one in heldout:
        assert one.greedy is not None
        demo, greedy = reward.score(states.of(one.row.prompt_ids, [one.row.demo, one.greedy]))
        margins.append(demo - greedy)
    return accuracy_by_prompt(np.array(margins), [one.row.prompt_ids for one in heldout])


def _best_shortcut(
    reward: LinearReward, pairs: Sequence[Pair], judged: Sequence[Pair], states: States
) -> ShortcutFound | None:
    heldout = select_pairs(judged).pairs
    audited = [*heldout, *select_pairs(pairs).pairs]
    audit = audit_shortcuts(audited)
    if audit is None:
        return None
    columns = states.of_pairs(heldout)
    scores = zip(reward.score(columns.demo).tolist(), reward.score(columns.sample).tolist(), strict=True)
    lead = lead_over_shortcuts(audit, audited, dict(enumerate(scores)))
    return ShortcutFound(lead.shortcut, lead.shortcut_accuracy, lead.lead, lead.clear)
