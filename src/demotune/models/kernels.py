"""Formats and kernels of other packages, by flag: refused where they cannot run. They need CUDA."""

from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig
from transformers.integrations.liger import apply_liger_kernel

from demotune.common.errors import DemotuneError
from demotune.common.processes import process_count

PACKAGES = {
    "load_in_4bit": ("bitsandbytes", "pip install bitsandbytes"),
    "use_liger_kernel": ("liger_kernel", "pip install liger-kernel"),
    "flash_attention_2": ("flash_attn", "pip install flash-attn --no-build-isolation"),
}
"""What is asked for -> the module that it needs, and how that is installed."""


def refuse_missing_kernels(asked: list[str], device: torch.device) -> None:
    """Raise DemotuneError for one of PACKAGES that is asked for and cannot run here."""
    for name in asked:
        module, fix = PACKAGES[name]
        if find_spec(module) is None:
            raise DemotuneError(f"{name} needs {module}, which is not installed; {fix}, or leave {name} out")
        if device.type != "cuda":
            raise DemotuneError(f"{name} needs a CUDA GPU, and this run computes on {device}; leave {name} out")


def four_bit() -> BitsAndBytesConfig:
    """How QLoRA (arXiv 2305.14314) holds frozen weights: 4-bit normal floats, computed with in bfloat16."""
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def placement(device: torch.device, *, load_in_4bit: bool = False) -> dict[str, Any]:
    """Arguments of loading: where weights go, and in which format.

    Straight to the GPU where several processes load: in main memory they would hold a copy each.
    """
    direct = device.type == "cuda" and (load_in_4bit or process_count() > 1)
    placed: dict[str, Any] = {"device_map": {"": device}} if direct else {}
    return placed | ({"quantization_config": four_bit()} if load_in_4bit else {})


def use_liger_layers(model: nn.Module) -> None:
    """Liger's kernels of layers (norms, rotation, feed-forward); its fused losses stay off: demotune has its own."""
    off: dict[str, Any] = {"fused_linear_cross_entropy": False, "cross_entropy": False}
    apply_liger_kernel(model, off)  # type: ignore[no-untyped-call]
