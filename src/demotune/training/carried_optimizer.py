"""An optimizer and a schedule that go on across stages. All processes call these functions together."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from demotune.common.files import publish_file
from demotune.common.processes import main_process
from demotune.models.sharding import optimizer_state
from demotune.runs.file_names import CARRIED


@dataclass(frozen=True, slots=True)
class Carry:
    """What was left by the last stage, and the steps of all stages."""

    previous: Path | None
    total_steps: int

    def load(self) -> dict[str, Any] | None:
        """The states of `optimizer` and `scheduler`; None in the first stage."""
        return None if self.previous is None else cast(dict[str, Any], torch.load(self.previous, weights_only=True))


def leave_carried(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: LRScheduler) -> None:
    """Write CARRIED for the next stage."""
    of_weights = optimizer_state(model, optimizer)
    if main_process():
        with publish_file(folder / CARRIED) as unfinished:
            torch.save({"optimizer": of_weights, "scheduler": scheduler.state_dict()}, unfinished)
