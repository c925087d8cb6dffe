"""Weights laid out for products with few rows, which is what decoding asks of a CPU.

torch's own float32 product goes to a library that is slow at them: on two cores of an AMD EPYC without bfloat16
instructions, a step of 16 rows takes twice the time that it takes by oneDNN with weights in oneDNN's own order. torch
reaches that order through the operators which torch.compile uses; where they are not, nothing is changed.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from demotune.common.memory import SHARE, free_bytes, is_lack_of_memory


@contextmanager
def reordered_weights(model: nn.Module, *, bf16: bool) -> Iterator[None]:
    """Linear layers compute with copies of their weights in oneDNN's order: float32 on CPU, without gradients.

    Nothing changes under bf16 autocast, on other devices, and where memory lacks for the copies. The weights
    themselves are left as they are; a change of them in the meantime would not be seen.
    """
    layers = [] if bf16 else [m for m in model.modules() if isinstance(m, nn.Linear) and _can_reorder(m)]
    needed = sum(layer.weight.nbytes for layer in layers)
    if layers and needed > SHARE * free_bytes(layers[0].weight.device) / 2:
        layers = []
    try:
        _reorder(layers)
        yield
    finally:
        _give_back(layers)


def _reorder(layers: Sequence[nn.Linear]) -> None:
    """All layers, or none where memory turns out to lack."""
    try:
        for layer in layers:
            reordered = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach())
            layer.forward = partial(_product, layer, reordered)  # type: ignore[method-assign]
    except RuntimeError as error:
        if not is_lack_of_memory(error):
            raise
        _give_back(layers)


def _give_back(layers: Sequence[nn.Linear]) -> None:
    for layer in layers:
        layer.__dict__.pop("forward", None)


def _can_reorder(layer: nn.Linear) -> bool:
    return (
        type(layer) is nn.Linear
        and "forward" not in layer.__dict__  # someone else's hook
        and layer.weight.device.type == "cpu"
        and layer.weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


def _product(layer: nn.Linear, reordered: Tensor, states: Tensor) -> Tensor:
    if torch.is_grad_enabled() or states.dtype != torch.float32:
        return nn.functional.linear(states, layer.weight, layer.bias)
    found: Tensor = torch.ops.mkldnn._linear_pointwise(states, reordered, layer.bias, "none", [], "")
    return found
