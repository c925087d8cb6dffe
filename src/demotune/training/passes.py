"""Micro-batches as forward and backward passes: one each, or several where it has more tokens than the budget."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from demotune.models.packing import Batch, cut_to_budget
from demotune.training.objectives import Objective


@dataclass(frozen=True, slots=True)
class Pass:
    """What one forward and backward pass takes; `tokens` as the budget counts them."""

    batch: Batch
    tokens: int
    records: int


def passes_over(records: Sequence[Any], objective: Objective[Any], budget: int | None) -> list[Pass]:
    """The passes of one micro-batch, each of at most `budget` tokens."""
    parts = cut_to_budget(records, objective.tokens, budget)
    return [Pass(objective.collate(part), sum(map(objective.tokens, part)), len(part)) for part in parts]


def training_nothing(shape: Pass) -> Pass:
    """A pass without items: all processes take equally many passes, as they exchange gradients and weights in each."""
    nothing = torch.tensor(0)
    return replace(shape, batch=shape.batch | {"items": nothing, "tokens": nothing})
