"""Checkpoints that another kind of launch wrote: shards read by processes with whole models, and the other way round.

How many processes wrote them does not matter: whole files are those of one, and shards are read by their names.
"""

from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from transformers import Trainer

from demotune.models.sharding import (
    load_optimizer_state,
    load_sharded_weights,
    load_whole_weights,
    sharded_optimizer_state,
)

MODEL, OPTIMIZER = "pytorch_model_fsdp_0", "optimizer_0"
"""Folders of shards, as accelerate names them."""


def in_shards(checkpoint: str) -> bool:
    """Whether processes that shared weights (FSDP2) wrote it."""
    return (Path(checkpoint) / MODEL).is_dir()


class CheckpointTrainer(Trainer):
    """transformers.Trainer, which goes on from whole checkpoints without FSDP2, and from shards with it; from both."""

    def train(self, resume_from_checkpoint: Any = None, *further: Any, **named: Any) -> Any:
        if resume_from_checkpoint and self.is_fsdp_enabled and not in_shards(resume_from_checkpoint):
            load_whole_weights(cast(nn.Module, self.model), Path(resume_from_checkpoint))  # before they are shared
        return super().train(resume_from_checkpoint, *further, **named)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if in_shards(resume_from_checkpoint) == self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        elif not self.is_fsdp_enabled:
            load_sharded_weights(cast(nn.Module, self.model), Path(resume_from_checkpoint) / MODEL)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or in_shards(checkpoint) == self.is_fsdp_enabled:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        folder, model = Path(checkpoint), cast(nn.Module, self.model)
        optimizer = cast(torch.optim.Optimizer, self.optimizer)
        if in_shards(checkpoint):
            state = sharded_optimizer_state(model, optimizer, folder / OPTIMIZER)
        else:
            state = torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True)
        load_optimizer_state(model, optimizer, state)
        scheduler = cast(LRScheduler, self.lr_scheduler)
        scheduler.load_state_dict(torch.load(folder / "scheduler.pt", weights_only=True))
