"""On-policy batches: drawn from the current policy, scored, and kept in files, so that a resumed batch is the same.

One batch is `prompts_per_batch` prompts with `num_generations` responses each. Before the first update each probability
ratio is 1: in float32 responses carry the policy's log-probabilities, exact to rounding; otherwise these are computed
in the very micro-batches that are trained.
"""

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from demotune.common.errors import DemotuneError
from demotune.common.files import publish_file, read_rows, seal
from demotune.common.processes import main_process, process_count, this_device, wait_for_everyone
from demotune.common.profiling import timed
from demotune.config.methods import RFTConfig
from demotune.models.batches import to_device
from demotune.models.logprobs import autocast, response_logps, response_states
from demotune.models.packing import cut_to_budget, pack
from demotune.models.policy import Policy
from demotune.models.sharding import copy_trained
from demotune.records import Completion, Rollout
from demotune.runs.file_names import ROLLOUTS
from demotune.runs.phase_journal import share_of_this_process
from demotune.training.advantages import returns_to_go
from demotune.training.co_training import CoTraining
from demotune.training.drawing import draw_with, keeps_logps
from demotune.training.microbatches import as_dealt, in_passes
from demotune.training.on_policy import Numbers, OnPolicyBatch
from demotune.training.rollout_files import SEAL, BatchFiles
from demotune.training.smaller_passes import one_pass
from demotune.training.stage import Stage, with_reward
from demotune.training.values import ValueSums, explained_variance, predict

ADAPTATION = 0.1
"""How fast beta follows the KL: at most this share of 0.2 in either direction per batch (arXiv 1909.08593, 2.2)."""


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """How responses of a batch become optimizer steps: mini-batches, each of equally many micro-batches."""

    responses: int
    generations: int
    """Of one prompt; their numbers follow one another."""
    mini_batches: int
    microbatches: int
    """Of one mini-batch, over all processes."""
    iterations: int
    batches: int

    @staticmethod
    def of(config: RFTConfig, prompts: int, processes: int) -> "RolloutPlan":
        """The plan of a stage with so many prompts, in a run that so many processes began."""
        responses = config.prompts_per_batch * config.num_generations
        per_step, together = responses // config.num_mini_batches, config.per_device_train_batch_size * processes
        if per_step < processes:
            raise DemotuneError(
                f"{per_step} responses of an optimizer step cannot be shared by {processes} processes; raise "
                "--prompts-per-batch or --num-generations, or lower --num-mini-batches"
            )
        return RolloutPlan(
            responses=responses,
            generations=config.num_generations,
            mini_batches=config.num_mini_batches,
            microbatches=min(-(-per_step // together), per_step // processes) * processes,
            iterations=config.num_iterations,
            batches=config.policy_batches or max(round(prompts * config.policy_epochs / config.prompts_per_batch), 1),
        )

    @property
    def microbatches_per_batch(self) -> int:
        return self.iterations * self.mini_batches * self.microbatches

    @property
    def steps(self) -> int:
        return self.batches * self.iterations * self.mini_batches

    def units(self, seed: int) -> list[list[list[int]]]:
        """Mini-batches of micro-batches of response numbers: prompts at random, the responses of one side by side.

        So that a prompt is computed once for as many of its responses as can be.
        """
        prompts = self.responses // self.generations
        shuffled = random.Random(seed).sample(range(prompts), prompts)
        rows = [prompt * self.generations + number for prompt in shuffled for number in range(self.generations)]
        return [_cut(mini, self.microbatches) for mini in _cut(rows, self.mini_batches)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """What takes part in policy steps."""

    policy: Policy
    """Drawn from. Where it is not the `trained` one itself, it becomes equal to it before each batch."""
    trained: Policy
    reference: Policy
    reward_of: Callable[[Sequence[Completion]], list[float]]
    """With `co_training` it learns between batches."""
    co_training: CoTraining | None


class Rollouts(Sequence[list[Rollout]]):
    """The micro-batches of a stage's policy steps, in order; a batch is drawn when its first one is asked for."""

    def __init__(
        self,
        stage: Stage,
        models: Models,
        *,
        prompts: Sequence[tuple[int, ...]],
        check: Callable[[dict[str, float]], None],
        budget: int | None,
    ) -> None:
        """`check` sees the facts of each batch before its first update, and may raise to end the policy steps.

        `budget` is the most tokens that are scored together.
        """
        self._stage, self._config = stage, with_reward(stage.setup)
        self._models, self._check, self._budget = models, check, budget
        self.plan = RolloutPlan.of(self._config, len(prompts), stage.setup.processes)
        count = self.plan.batches * self._config.prompts_per_batch
        self._prompts = in_passes(prompts, count, random.Random(stage.seed("policy-prompts")))
        self._folder = stage.folder / ROLLOUTS
        self._number = -1
        self._order: list[list[int]] = []
        self._rows: list[Rollout] = []
        self.facts: dict[str, float] = {}
        """Metrics of the batch at hand, under TRL's names."""

    def __len__(self) -> int:
        return self.plan.batches * self.plan.microbatches_per_batch

    def __getitem__(self, number: Any) -> Any:
        batch, place = divmod(number, self.plan.microbatches_per_batch)
        if batch != self._number:
            self._open(batch)
        return [self._rows[row] for row in self._order[place]]

    def _open(self, number: int) -> None:
        """Make batch `number` the one at hand: from its files, or drawn and scored by the current policy."""
        files = BatchFiles(self._folder, number)
        if not files.seal.exists():
            self._make(number, files)
        self._rows, self.facts = files.read()
        self._check(self.facts)
        minis = self._units(number)
        rng = random.Random(self._stage.seed(f"policy-order-{number}"))
        passes = [rng.sample(minis, len(minis)) for _ in range(self.plan.iterations)]
        self._order = [unit for minis in passes for mini in minis for unit in mini]
        self._number = number

    def _units(self, number: int) -> list[list[list[int]]]:
        return self.plan.units(self._stage.seed(f"policy-microbatches-{number}"))

    def _make(self, number: int, files: BatchFiles) -> None:
        config = self._config
        models, co_training = self._models, self._models.co_training
        copy_trained(cast(nn.Module, models.trained), cast(nn.Module, models.policy))
        if co_training is not None:
            co_training.begin(number)
        start = number * config.prompts_per_batch
        prompts = [
            prompt
            for prompt in self._prompts[start : start + config.prompts_per_batch]
            for _ in range(config.num_generations)
        ]
        responses = draw_with(
            self._stage,
            lambda: models.policy,
            prompts,
            purpose="policy",
            first_stream=number * self.plan.responses,
            with_logps=keeps_logps(self._stage.setup),
        )
        completions = [Completion(*both) for both in zip(prompts, responses, strict=True)]
        units = [unit for mini in self._units(number) for unit in mini]
        batch = OnPolicyBatch.together(self._scored(completions, units), completions)
        beta = self._beta(number)
        values, facts = self._values(batch, beta, number) if config.advantage == "gae" else (None, {})
        if co_training is not None:
            facts |= co_training.facts(completions, batch.rewards.tolist())
        rows = batch.rollouts(config, beta, values)
        if main_process():
            files.write(rows, batch.facts(beta) | facts, self._stage.setup.renderer.decode)
        wait_for_everyone()

    def _scored(self, completions: Sequence[Completion], units: Sequence[list[int]]) -> dict[int, Numbers]:
        """Numbers of each response, computed in its micro-batch; processes share the micro-batches."""
        numbers: list[tuple[int, Numbers]] = []
        with_states = self._config.advantage == "gae"
        for unit in share_of_this_process([*as_dealt(units, self.plan.microbatches)]):
            for part in cut_to_budget(unit, lambda row: completions[row].tokens, self._budget):
                members = [completions[row] for row in part]
                with one_pass(sum(member.tokens for member in members), len(members)):
                    numbers += zip(part, self._numbers(members, with_states), strict=True)
        return dict(gather_object(numbers)) if process_count() > 1 else dict(numbers)

    @timed("scoring")
    def _numbers(self, members: Sequence[Completion], with_states: bool) -> list[Numbers]:
        setup, models, device = self._stage.setup, self._models, this_device()
        batch = to_device(models.policy, pack([m.prompt_ids for m in members], [m.response.ids for m in members]))
        with torch.no_grad(), autocast(device, setup.bf16):
            ref_logps = response_logps(models.reference, batch).logps.cpu()
            logps = None if keeps_logps(setup) else response_logps(models.policy, batch).logps.cpu()
            states = response_states(models.policy, batch).cpu() if with_states else None
        rewards = models.reward_of(members)
        lengths = [len(member.response.ids) for member in members]
        return [
            Numbers(
                logps=torch.tensor(member.response.logps) if logps is None else logps[row, :length],
                ref_logps=ref_logps[row, :length],
                reward=rewards[row],
                states=None if states is None else states[row, :length],
            )
            for row, (member, length) in enumerate(zip(members, lengths, strict=True))
        ]

    def _beta(self, number: int) -> float:
        """The KL coefficient of a batch: fixed, or following the KL of the batches before it towards its target."""
        target = self._config.kl_target
        if target is None or number == 0:
            return self._config.beta
        before = BatchFiles(self._folder, number - 1).read_facts()
        error = min(max(before["objective/kl"] / target - 1, -0.2), 0.2)
        return before["beta"] * (1 + ADAPTATION * error)

    def _values(self, batch: OnPolicyBatch, beta: float, number: int) -> tuple[Tensor, dict[str, float]]:
        """The value head's predictions (B, T), and how good they are; it is fitted on the batches before this one.

        The first batch has none before it: there the head is fitted on the batch itself.
        """
        shaped = batch.token_rewards(self._config, beta)
        returns = returns_to_go(shaped)[batch.mask]
        sums = ValueSums.of(batch.states, returns)
        before = ValueSums.load(self._values_file(number - 1), batch.states.device) if number else sums
        predicted = predict(batch.states, before.head())
        if main_process():
            with publish_file(self._values_file(number)) as unfinished:
                (before.faded(sums) if number else sums).save(unfinished)
            seal(self._values_file(number).with_suffix(SEAL), [self._values_file(number)])
            for suffix in (SEAL, ".safetensors"):
                self._values_file(number - 2).with_suffix(suffix).unlink(missing_ok=True)
        values = torch.zeros(batch.mask.shape, dtype=torch.float64).masked_scatter(batch.mask, predicted)
        return values, {
            "loss/value_avg": float(0.5 * (predicted - returns).square().mean()),
            "val/explained_variance": explained_variance(predicted, returns.double()),
        }

    def _values_file(self, number: int) -> Path:
        return self._folder / f"values-{number:04d}.safetensors"


def forward_tokens(stage: Stage) -> int:
    """Tokens of a stage's batches times the passes over them before the update.

    Drawing, log-probabilities of the start model, the reward; those of the policy where responses come without them;
    and with gae the value head's hidden states.
    """
    passes = 3 + (not keeps_logps(stage.setup)) + (with_reward(stage.setup).advantage == "gae")
    files = sorted((stage.folder / ROLLOUTS).glob("*.jsonl.gz"))
    rows = (row for file in files for row in read_rows(file))
    return passes * sum(len(row["prompt_ids"]) + len(row["response"]["ids"]) for row in rows)


def _cut(rows: Sequence[int], parts: int) -> list[list[int]]:
    """Consecutive parts of sizes as equal as can be."""
    borders = [round(part * len(rows) / parts) for part in range(parts + 1)]
    return [list(rows[start:end]) for start, end in itertools.pairwise(borders)]
