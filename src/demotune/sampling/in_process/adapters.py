"""Prepare a policy for fast sampling, and restore it bit for bit afterwards."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from accelerate.utils import extract_model_from_parallel
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from demotune.sampling.in_process.weights import reordered_weights


@contextmanager
def prepared_for_sampling(model: nn.Module, *, bf16: bool) -> Iterator[None]:
    """The model without dropout, with adapters merged, with weights cast or reordered once and not at each token."""
    was_training = model.training
    model.eval()
    try:
        with ExitStack() as stack:
            if not bf16:
                stack.enter_context(merged_adapters(model))
            stack.enter_context(_casts_kept(model))
            stack.enter_context(reordered_weights(model, bf16=bf16))
            yield
    finally:
        model.train(was_training)


@contextmanager
def merged_adapters(model: nn.Module) -> Iterator[None]:
    """Adapter weights temporarily added into the base weights: one matrix product per layer instead of three.

    Subtracting them again would round, so the base weights themselves are set aside and restored. Nothing is merged
    where that would compute something else (quantised or shared base weights, adapters that are switched off; half
    precision, which rounds a young adapter away when it is added to a large weight), where peft cannot do it, and where
    memory lacks for a second copy of the weights.
    """
    policy = extract_model_from_parallel(model)
    layers = [module for module in policy.modules() if isinstance(module, BaseTunerLayer)]
    if not isinstance(policy, PeftModel) or not _can_merge(policy, layers):
        yield
        return
    originals = [(weight, weight.data) for layer in layers for weight in layer.get_base_layer().parameters()]

    def restore() -> None:
        for layer in layers:
            if layer.merged:
                layer.unmerge()  # for what peft keeps of it; its numbers are thrown away
        for weight, data in originals:
            weight.data = data

    try:
        try:
            for weight, data in originals:
                weight.data = data.clone()
            policy.merge_adapter()
        except (RuntimeError, NotImplementedError, ValueError):
            restore()
        yield
    finally:
        restore()


def _can_merge(policy: PeftModel, layers: list[BaseTunerLayer]) -> bool:
    owners = Counter(id(weight) for module in policy.modules() for weight in module._parameters.values())
    weights: list[Tensor] = [weight for layer in layers for weight in layer.get_base_layer().parameters()]
    return (
        bool(layers)
        and all(hasattr(layer, "merge") and not layer.merged and not layer.disable_adapters for layer in layers)
        and all(weight.dtype in {torch.float32, torch.float64} and owners[id(weight)] == 1 for weight in weights)
    )


@contextmanager
def _casts_kept(model: nn.Module) -> Iterator[None]:
    """Autocast keeps its casts of weights from one region to the next, of frozen weights too.

    It would forget them at the end of each region, and a region around a generator would reach into its caller.
    """
    frozen = [weight for weight in model.parameters() if weight.is_floating_point() and not weight.requires_grad]
    torch.autocast_increment_nesting()
    try:
        for weight in frozen:
            weight.requires_grad_(True)  # autocast keeps no others
        yield
    finally:
        for weight in frozen:
            weight.requires_grad_(False)
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
