"""Co-training of a reward model: a pass of gradient steps over fresh and earlier pairs between on-policy batches."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from torch import nn
from transformers import Trainer

from demotune.common.errors import DemotuneError
from demotune.common.files import publish_file, seal
from demotune.common.processes import main_process, this_device, wait_for_everyone
from demotune.common.profiling import span, timed
from demotune.models.batches import to_device
from demotune.models.logprobs import autocast
from demotune.models.packing import cut_to_budget
from demotune.models.reward import RewardModel, freeze_lower_layers, save_reward_model
from demotune.models.reward_facts import read_facts
from demotune.records import Completion, Pair
from demotune.rewards.card import reward_card
from demotune.runs.file_names import CO_TRAINED_REWARD, REWARD, ROLLOUTS
from demotune.training.arguments import training_arguments
from demotune.training.co_training import TaughtPairs
from demotune.training.learned_reward import load_reward, reward_padding, scorer
from demotune.training.microbatches import Microbatches, plan_microbatches
from demotune.training.objectives import RewardObjective
from demotune.training.pairs import pair_lengths
from demotune.training.rollout_files import SEAL
from demotune.training.smaller_passes import one_pass
from demotune.training.stage import Stage, with_reward


class CoTrainedModel:
    """The stage's reward model with an optimizer of its own, at `reward_learning_rate` without a schedule.

    Weights and optimizer are kept in the folder of the batches as often as the policy's checkpoints are; updates after
    the newest file are taken again from the batches that are kept, with the same numbers. Several processes each take
    the same steps.
    """

    def __init__(self, stage: Stage, taught: TaughtPairs, *, steps_per_batch: int, budget: int | None) -> None:
        """`budget` is the most tokens of one forward pass."""
        setup, config = stage.setup, with_reward(stage.setup)
        self._stage, self._config, self._taught, self._budget, self._update = stage, config, taught, budget, 0
        self._steps_per_batch = steps_per_batch
        self._model: RewardModel = load_reward(stage, stage.number)
        freeze_lower_layers(self._model, config.reward_frozen_layers)
        self._objective = RewardObjective(
            config.reward_link, config.reward_bound, config.center_rewards_coefficient, reward_padding(setup)
        )
        rate = replace(config, learning_rate=config.reward_learning_rate)
        kind, settings = Trainer.get_optimizer_cls_and_kwargs(training_arguments(rate, stage.folder, 1, 0))
        self._optimizer: torch.optim.Optimizer = kind(
            [*self._trained.values()], **{"weight_decay": config.weight_decay, **settings}
        )
        self._reward_of = scorer(stage, self._model, read_facts(stage.folder / REWARD))

    def __call__(self, completions: Sequence[Completion]) -> list[float]:
        return self._reward_of(completions)

    def bring_to(self, update: int) -> None:
        """From the newest kept state at or before this update on, by the updates after it."""
        kept = [number for number in range(self._update + 1, update + 1) if self._seal(number).exists()]
        if kept:
            self._load(kept[-1])
        for number in range(self._update + 1, update + 1):
            self._learn(self._taught.of_update(number), number)
            self._update = number
            if self._is_kept(number):
                self._keep(number)

    def finish(self, update: int) -> None:
        """Publish what the next stage's reward starts from: the reward after this update."""
        self.bring_to(update)
        if main_process():
            batches = range(update * (self._config.reward_every or 1))
            pairs = len(self._taught.of_stage) + sum(len(self._taught.of_batch(number)) for number in batches)
            card = reward_card(self._config, self._stage.number, pairs, adapter=isinstance(self._model, PeftModel))
            facts = read_facts(self._stage.folder / REWARD)
            save_reward_model(
                self._model, self._stage.setup.tokenizer, facts, self._stage.folder / CO_TRAINED_REWARD, card
            )
        wait_for_everyone()

    def _learn(self, pairs: Sequence[Pair], update: int) -> None:
        """One pass over the pairs, in the batch sizes of the reward phase."""
        if not pairs:
            return
        plan = plan_microbatches(
            pair_lengths(pairs),
            batch_size=self._config.per_device_train_batch_size,
            accumulation=self._config.gradient_accumulation_steps,
            epochs=1.0,
            steps=None,
            seed=self._stage.seed(f"reward-update-{update}"),
        )
        microbatches, together = Microbatches(plan, pairs), self._config.gradient_accumulation_steps
        for start in range(0, len(microbatches), together):
            self._step(microbatches[start : start + together])

    def _step(self, units: Sequence[Sequence[Pair]]) -> None:
        """One optimizer step: the mean loss over all pairs of these micro-batches."""
        count = sum(map(len, units))
        for unit in units:
            for part in cut_to_budget(unit, self._objective.tokens, self._budget):
                with one_pass(sum(map(self._objective.tokens, part)), len(part)):
                    batch = to_device(cast(nn.Module, self._model), self._objective.collate(part))
                    with span("forward"), autocast(this_device(), self._stage.setup.bf16):
                        loss = self._objective(cast(nn.Module, self._model), batch).total / count
                    if not torch.isfinite(loss):
                        raise DemotuneError(
                            f"the reward's loss became {float(loss)} in co-training; lower --reward-learning-rate"
                        )
                    with span("backward"):
                        loss.backward()  # type: ignore[no-untyped-call]
        with span("optimizer"):
            if self._config.max_grad_norm:
                nn.utils.clip_grad_norm_([*self._trained.values()], self._config.max_grad_norm)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)

    def _is_kept(self, update: int) -> bool:
        """Whether a checkpoint of the policy falls between the update before and this one."""
        steps = self._steps_per_batch * (self._config.reward_every or 1)
        return update * steps // self._config.save_steps > (update - 1) * steps // self._config.save_steps

    @timed("files")
    def _keep(self, update: int) -> None:
        if main_process():
            state = {"weights": self._trained, "optimizer": self._optimizer.state_dict()}
            with publish_file(self._file(update)) as unfinished:
                torch.save(state, unfinished)
            seal(self._seal(update), [self._file(update)])
            for older in range(1, update):
                self._seal(older).unlink(missing_ok=True)
                self._file(older).unlink(missing_ok=True)
        wait_for_everyone()

    def _load(self, update: int) -> None:
        state: dict[str, Any] = torch.load(self._file(update), map_location=this_device(), weights_only=True)
        with torch.no_grad():
            for name, weight in self._trained.items():
                weight.copy_(state["weights"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        self._update = update

    @property
    def _trained(self) -> dict[str, nn.Parameter]:
        parameters = cast(nn.Module, self._model).named_parameters()
        return {name: weight for name, weight in parameters if weight.requires_grad}

    def _file(self, update: int) -> Path:
        return self._stage.folder / ROLLOUTS / f"reward-{update:04d}.pt"

    def _seal(self, update: int) -> Path:
        return self._file(update).with_suffix(SEAL)
