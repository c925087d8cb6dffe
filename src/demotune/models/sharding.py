"""Weights that are spread over the processes (FSDP2): gathered for a file, or copied into a plain model.

All processes call these functions together.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

_ON_MAIN = StateDictOptions(full_state_dict=True, cpu_offload=True)
_FROM_MAIN = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)


def full_weights(model: nn.Module) -> dict[str, Tensor] | None:
    """Name -> each weight of a sharded model, whole, in the main process's memory. None where nothing is sharded.

    A weight with two names has the one under which transformers saves it.
    """
    if not isinstance(model, FSDPModule):
        return None
    tied = getattr(model, "all_tied_weights_keys", {})
    weights = cast(dict[str, Tensor], get_model_state_dict(model, options=_ON_MAIN))
    return {name: weight for name, weight in weights.items() if name not in tied}


@torch.no_grad()
def copy_trained(model: nn.Module, plain: nn.Module) -> None:
    """Give a plain model of the same kind the trained weights of a sharded one, in every process.

    Nothing is to be done where both are one model.
    """
    if model is plain:
        return
    weights = model.state_dict()  # as shards, also where a forward pass has left weights whole
    for name, weight in plain.named_parameters():
        if weight.requires_grad:
            found = weights[name]
            weight.copy_(found.full_tensor() if isinstance(found, DTensor) else found)


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's state, whole, in the main process: by names of weights where these are sharded."""
    if isinstance(model, FSDPModule):
        return get_optimizer_state_dict(model, optimizer, options=_ON_MAIN)
    return optimizer.state_dict()


def load_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Give an optimizer the state that `optimizer_state` found; of a sharded model the main process's is taken."""
    if isinstance(model, FSDPModule):
        set_optimizer_state_dict(model, optimizer, state, options=_FROM_MAIN)
    else:
        optimizer.load_state_dict(state)
