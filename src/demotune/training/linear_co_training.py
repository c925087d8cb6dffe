"""Co-training of a linear reward: its regression is solved anew, from where it stood, on a frozen model's states."""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import nn

from demotune.common.processes import main_process, wait_for_everyone
from demotune.common.profiling import timed
from demotune.models.reward import RewardModel
from demotune.models.reward_facts import read_facts
from demotune.records import Completion, Pair
from demotune.rewards.linear import Columns, Floats, PairColumns, column_scale, pair_columns, refit
from demotune.runs.file_names import REWARD, ROLLOUTS
from demotune.training.co_training import TaughtPairs
from demotune.training.learned_reward import load_reward, reward_padding, scorer
from demotune.training.rollout_files import RewardFile
from demotune.training.stage import Stage, with_reward


class CoTrainedLine:
    """The stage's linear reward; its weights after each update are in the files of the batches, a number a column.

    Scale of the columns and penalty stay those of the reward phase. Each update weighs fresh pairs and all earlier ones
    by `reward_replay`, each prompt alike among its own.
    """

    def __init__(self, stage: Stage, taught: TaughtPairs) -> None:
        self._stage, self._taught, self._update = stage, taught, 0
        self._model: RewardModel = load_reward(stage, stage.number)
        self._facts = read_facts(stage.folder / REWARD)
        self._columns = Columns(with_reward(stage.setup).reward_features, self._facts.question)
        self._own = self._columns_of(taught.of_stage)
        self._scale = column_scale(self._own)
        self._of_batch: dict[int, PairColumns] = {}
        head = self._head.weight.detach()[0].double().cpu().numpy()
        self._weights: Floats = np.concatenate([head, [*self._facts.features.values()]]) * self._scale

    def bring_to(self, update: int) -> None:
        """From the newest file at or before this update on."""
        files = [RewardFile(self._stage.folder / ROLLOUTS, number) for number in range(update + 1)]
        newest = max((number for number in range(self._update, update + 1) if files[number].seal.exists()), default=0)
        for number in range(max(newest, self._update + 1), update + 1):
            if main_process() and not files[number].seal.exists():
                files[number].write(torch.from_numpy(self._refitted(number)))
            wait_for_everyone()
            self._use(files[number].read().numpy())
            self._update = number

    def __call__(self, completions: Sequence[Completion]) -> list[float]:
        return scorer(self._stage, self._model, self._facts)(completions)

    def finish(self, update: int) -> None:
        """Nothing is left to do: the next stage fits its reward anew."""

    def _refitted(self, update: int) -> Floats:
        config = with_reward(self._stage.setup)
        assert config.reward_every is not None
        first = (update - 1) * config.reward_every
        fresh = [self._batch(number) for number in range(first, first + config.reward_every)]
        earlier = [self._own, *(self._batch(number) for number in range(first))]
        return refit(
            self._weights,
            fresh,
            earlier,
            scale=self._scale,
            l2=self._stage.state["reward"]["l2"],
            replay=config.reward_replay,
        )

    def _batch(self, number: int) -> PairColumns:
        if number not in self._of_batch:
            self._of_batch[number] = self._columns_of(self._taught.of_batch(number))
        return self._of_batch[number]

    @timed("scoring")
    def _columns_of(self, pairs: Sequence[Pair]) -> PairColumns:
        return pair_columns(
            self._model, pairs, self._columns, pad_id=reward_padding(self._stage.setup), bf16=self._stage.setup.bf16
        )

    def _use(self, weights: Floats) -> None:
        """Put weights into the head and the features' numbers."""
        self._weights = weights
        by_unit = weights / self._scale
        width = len(weights) - len(self._columns.features)
        with torch.no_grad():
            self._head.weight.copy_(torch.from_numpy(by_unit[:width]).unsqueeze(0))
        features = dict(zip(self._columns.features, by_unit[width:].tolist(), strict=True))
        self._facts = replace(self._facts, features=features)

    @property
    def _head(self) -> nn.Linear:
        return cast(nn.Linear, self._model.score)
