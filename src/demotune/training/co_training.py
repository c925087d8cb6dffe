"""Co-training: the reward learns from the policy's own batches while the policy is trained on it.

After every `reward_every` on-policy batches it learns to separate their responses from the demonstrations of the same
prompts, beside a share of earlier pairs (a discriminator that follows its generator: GAD, arXiv 2511.10643). Prompts
without a demonstration teach it nothing.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean
from typing import Protocol

from demotune.common.sequences import Joined
from demotune.records import Completion, Pair, Response
from demotune.rewards.answer_only import answers_of, pairs_of_answers
from demotune.rewards.pair_selection import distinct_sides, select_pairs
from demotune.runs.file_names import CO_TRAINED_REWARD, ROLLOUTS
from demotune.runs.heldout import count_wins
from demotune.training.contrast import contrast_pairs, learned_pairs, usable
from demotune.training.linear_reward import question_tokens
from demotune.training.rollout_files import BatchFiles, read_batches
from demotune.training.stage import Stage, pair_tokens, tokens_of, with_reward
from demotune.training.work import Tokens, Training
from demotune.training.work_plan import StagePlan, tokens_of_pair, tokens_of_responses


class CoTrainedReward(Protocol):
    """A reward that is updated between batches. An update leaves files, so that a resumed one is the same."""

    def bring_to(self, update: int) -> None:
        """Make it the reward after so many updates: from its files, or by learning from the batches before."""

    def __call__(self, completions: Sequence[Completion]) -> list[float]:
        """The reward of each completion, as it is now."""

    def finish(self, update: int) -> None:
        """After the stage's last batch: leave the reward after this update to the next stage."""


class TaughtPairs:
    """The pairs that a stage's co-trained reward learns from: those of the reward phase, and those of each batch."""

    def __init__(self, stage: Stage) -> None:
        self._stage, self._config = stage, with_reward(stage.setup)
        self._of_batch: dict[int, list[Pair]] = {}

    @cached_property
    def of_stage(self) -> Sequence[Pair]:
        """As the reward phase used them; pairs with equal sides left out."""
        return learned_pairs(self._stage.setup, self._every).pairs

    def of_batch(self, number: int) -> list[Pair]:
        """Each response of a batch beside what is preferred for its prompt; equal sides left out."""
        if number not in self._of_batch:
            rows, _ = BatchFiles(self._stage.folder / ROLLOUTS, number).read()
            pairs = self.with_preferred([Completion(row.prompt_ids, row.response) for row in rows])
            allowed = [pair for pair in pairs if usable(pair, self._config)]
            self._of_batch[number] = list(select_pairs(allowed).pairs)
        return self._of_batch[number]

    def of_update(self, update: int) -> list[Pair]:
        """What update `update`, from 1, takes gradient steps on: fresh pairs, then a share of earlier ones, drawn anew.

        Fresh are those of the batches since the update before. Empty without any.
        """
        every, share = self._config.reward_every or 1, self._config.reward_replay
        first = (update - 1) * every
        fresh = [pair for number in range(first, first + every) for pair in self.of_batch(number)]
        earlier = Joined(self.of_stage, *map(self.of_batch, range(first)))
        count = min(round(share / (1 - share) * len(fresh)), len(earlier))
        return [*fresh, *random.Random(self._stage.seed(f"reward-replay-{update}")).sample(earlier, count)]

    def answers(self, completions: Sequence[Completion]) -> list[Completion]:
        """Drawn responses as the reward reads them: with `answer_after` the answers in them."""
        return answers_of(completions, self._stage.setup.answer_marker)

    def with_preferred(self, completions: Sequence[Completion]) -> list[Pair]:
        """Each completion with each response that is preferred for its prompt: none, where there is none."""
        return [
            Pair(key, row.prompt_ids, preferred, row.response)
            for row in self.answers(completions)
            for key, preferred in self._preferred.get(row.prompt_ids, {}).items()
        ]

    @cached_property
    def _every(self) -> Sequence[Pair]:
        return contrast_pairs(self._stage, heldout=False)

    @cached_property
    def _preferred(self) -> dict[tuple[int, ...], dict[str, Response]]:
        """Prompt -> the preferred response of each of its rows, by the row's key."""
        found: dict[tuple[int, ...], dict[str, Response]] = {}
        for pair in pairs_of_answers(self._every, self._stage.setup.answer_marker):
            found.setdefault(pair.prompt_ids, {})[pair.key] = pair.demo
        return found


@dataclass(frozen=True, slots=True)
class CoTraining:
    """A reward that learns from every `every` batches before the next one is drawn."""

    reward: CoTrainedReward
    taught: TaughtPairs
    every: int

    def begin(self, batch: int) -> None:
        """Make the reward what it is for this batch."""
        self.reward.bring_to(batch // self.every)

    def finish(self, stage: Stage) -> None:
        """After the stage's last batch."""
        self.reward.finish(len(read_batches(stage)) // self.every)

    def facts(self, completions: Sequence[Completion], earned: Sequence[float]) -> dict[str, float]:
        """How well the reward separates a fresh batch, which it has not learned from, from demonstrations.

        `reward_model/chosen` is the mean reward of demonstrations to the batch's prompts, `reward_model/accuracies` the
        share of pairs of a demonstration and a response to its prompt in which the demonstration earns more. Empty
        where no prompt of the batch has one.
        """
        reward_of = dict(zip(self.taught.answers(completions), earned, strict=True))
        pairs = self.taught.with_preferred(completions)
        if not pairs:
            return {}
        demos = list(dict.fromkeys(Completion(pair.prompt_ids, pair.demo) for pair in pairs))
        of_demo = dict(zip(demos, self.reward(demos), strict=True))
        both = [
            (of_demo[Completion(pair.prompt_ids, pair.demo)], reward_of[Completion(pair.prompt_ids, pair.sample)])
            for pair in pairs
        ]
        return {
            "reward_model/chosen": fmean(of_demo.values()),
            "reward_model/accuracies": count_wins(both) / len(both),
        }


def outputs(stage: Stage) -> tuple[str, ...]:
    """What the policy phase writes besides, in the stage's folder."""
    config = with_reward(stage.setup)
    return (CO_TRAINED_REWARD,) if config.reward_every is not None and config.reward_kind == "full" else ()


def forward_tokens(stage: Stage, batches: int) -> int:
    """Tokens that co-training computes beside the batches' own scores; 0 without it.

    Demonstrations to each batch's prompts; of a linear reward also the states of the stage's pairs and of the batches'.
    """
    config = with_reward(stage.setup)
    if config.reward_every is None:
        return 0
    taught = TaughtPairs(stage)
    sides: list[Completion] = []
    for number in range(batches):
        rows, _ = BatchFiles(stage.folder / ROLLOUTS, number).read()
        pairs = taught.with_preferred([Completion(row.prompt_ids, row.response) for row in rows])
        sides += dict.fromkeys(Completion(pair.prompt_ids, pair.demo) for pair in pairs)
    if config.reward_kind == "linear":
        learned = (batches - 1) // config.reward_every * config.reward_every
        for learned_from in (taught.of_stage, *map(taught.of_batch, range(learned))):
            sides += distinct_sides(learned_from)
    return tokens_of((side.prompt_ids, side.response) for side in sides) + question_tokens(stage.setup) * len(sides)


def trained_tokens(stage: Stage, batches: int) -> int:
    """Tokens of the gradient steps of a co-trained reward model; 0 for a linear one, and without co-training."""
    config = with_reward(stage.setup)
    if config.reward_every is None or config.reward_kind == "linear":
        return 0
    taught = TaughtPairs(stage)
    return sum(pair_tokens(taught.of_update(number)) for number in range(1, batches // config.reward_every + 1))


def expected_tokens(plan: StagePlan, group: Tokens) -> Tokens:
    """The same for the responses to one prompt of a batch, whose tokens are `group`."""
    config = with_reward(plan.setup)
    if config.reward_every is None:
        return Tokens()
    known = len(plan.own) / (len(plan.own) + len(plan.setup.prompts))
    demos = (tokens_of_responses(row.prompt, [row.demo], head=False) for row in plan.own)
    demo = sum(demos, Tokens()).times(known / len(plan.own))
    return demo + (demo + replace(group, positions=0.0).times(known) if config.reward_kind == "linear" else Tokens())


def expected_training(plan: StagePlan, training: Training, responses: float) -> Training:
    """Policy steps with those of a co-trained reward model, which takes one pass over pairs for so many responses."""
    config = with_reward(plan.setup)
    if config.reward_every is None or config.reward_kind == "linear":
        return training
    known = len(plan.own) / (len(plan.own) + len(plan.setup.prompts))
    pairs = known * responses / (1 - config.reward_replay)
    each = (tokens_of_pair(row, head=False) for row in plan.own)
    microbatches = pairs / config.per_device_train_batch_size
    return replace(
        training,
        tokens=training.tokens + sum(each, Tokens()).times(pairs / len(plan.own)),
        steps=training.steps + microbatches / config.gradient_accumulation_steps,
        microbatches=training.microbatches + microbatches,
    )
