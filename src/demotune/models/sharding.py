"""Weights that are spread over the processes (FSDP2): gathered, copied into a plain model, read from any checkpoint.

All processes call these functions together.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
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
    """Give an optimizer the state that `optimizer_state` found; of a sharded model the main process's is taken.

    Whether the weights were sharded when it was found does not matter.
    """
    if isinstance(model, FSDPModule) != _by_names(state):
        groups: Any = get_optimizer_state_dict(model, optimizer)["param_groups"]
        names = [name for group in groups for name in group["params"]]
        numbers = {name: number for number, name in enumerate(names)}
        state = _renamed(state, numbers if _by_names(state) else dict(enumerate(names)))
    if isinstance(model, FSDPModule):
        set_optimizer_state_dict(model, optimizer, state, options=_FROM_MAIN)
    else:
        optimizer.load_state_dict(state)


def _by_names(state: Mapping[str, Any]) -> bool:
    return all(isinstance(weight, str) for group in state["param_groups"] for weight in group["params"])


def _renamed(state: Mapping[str, Any], names: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        "state": {names[weight]: numbers for weight, numbers in state["state"].items()},
        "param_groups": [
            {**group, "params": [names[weight] for weight in group["params"]]} for group in state["param_groups"]
        ],
    }


def load_whole_weights(model: nn.Module, checkpoint: Path) -> None:
    """Give a plain model the weights of a checkpoint that holds them whole; an adapter those of the adapter alone."""
    weights = {name: weight for file in checkpoint.glob("*.safetensors") for name, weight in load_file(file).items()}
    if isinstance(model, PeftModel):
        set_peft_model_state_dict(model, weights, adapter_name=model.active_adapter)
    else:
        model.load_state_dict(weights, strict=False)  # of tied weights one is kept


def load_sharded_weights(model: nn.Module, folder: Path) -> None:
    """Give a plain model the weights that processes wrote in shards; an adapter those of the adapter alone."""
    if isinstance(model, PeftModel):
        weights = get_peft_model_state_dict(model, adapter_name=model.active_adapter)
        _fill({"model": weights}, folder)
        set_peft_model_state_dict(model, weights, adapter_name=model.active_adapter)
    else:
        weights = model.state_dict()
        _fill({"model": weights}, folder)
        model.load_state_dict(weights)


def sharded_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> dict[str, Any]:
    """The whole state, by names of weights, of an optimizer whose state processes wrote in shards."""
    state = get_optimizer_state_dict(model, optimizer)
    _fill({"optimizer": state}, folder)
    return cast(dict[str, Any], state)


def _fill(state: dict[str, Any], folder: Path) -> None:
    """Read what has these names into a state, in place; each process for itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        load(state, checkpoint_id=folder, no_dist=True)
