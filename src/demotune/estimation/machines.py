"""What a machine can do at most: matrix products, memory traffic, memory. Measured here, or from a datasheet."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch

from demotune.common.errors import DemotuneError
from demotune.common.memory import GIB, total_memory_gib
from demotune.common.processes import this_device
from demotune.config.methods import AnyConfig

MachineKind = Literal["cpu", "cuda"]
Precision = Literal["bfloat16", "float32"]


@dataclass(frozen=True, slots=True)
class Machine:
    """Ceilings of one device: dense matrix products in FLOP/s, memory traffic and memory in bytes (/s)."""

    name: str
    kind: MachineKind
    precision: Precision
    """In which the matrix products are."""
    products: float
    bandwidth: float
    memory: float
    measured: bool
    """False: numbers of a datasheet, which no program reaches."""


DATASHEETS: dict[str, tuple[str, float, float, float, float]] = {
    # Name, TFLOP/s in bf16 and in fp32, GB/s, GB. Dense rates, half of those that are printed "with sparsity"; bf16
    # with float32 accumulation; fp32 without TF32.
    "b200": ("NVIDIA B200", 2250, 75, 8000, 180),  # NVIDIA DGX B200 datasheet, an eighth of the system
    "h200": ("NVIDIA H200 SXM", 989, 67, 4800, 141),  # NVIDIA H200 Tensor Core GPU datasheet
    "h100": ("NVIDIA H100 SXM", 989, 67, 3350, 80),  # NVIDIA H100 Tensor Core GPU datasheet
    "a100": ("NVIDIA A100 SXM 80GB", 312, 19.5, 2039, 80),  # NVIDIA A100 datasheet, June 2021
    "l40s": ("NVIDIA L40S", 362, 91.6, 864, 48),  # NVIDIA L40S datasheet
    "l4": ("NVIDIA L4", 121, 30.3, 300, 24),  # NVIDIA L4 datasheet
    "rtx4090": ("NVIDIA RTX 4090", 165.2, 82.6, 1008, 24),  # NVIDIA Ada architecture whitepaper, appendix A
    "rtx3090": ("NVIDIA RTX 3090", 71, 35.6, 936, 24),  # NVIDIA Ampere GA102 whitepaper, appendix A
}


def precision_of(config: AnyConfig) -> Precision:
    """In which precision a run's matrix products are; its automatic values must be filled in."""
    return "bfloat16" if config.bf16 or config.dtype == "bfloat16" else "float32"


def check_name(name: str) -> None:
    """Raise DemotuneError for a device that is not in the table."""
    if name.lower() not in DATASHEETS:
        raise DemotuneError(
            f"device {name!r} is not in the table; choose one of {', '.join(DATASHEETS)}, or leave --device out to "
            "measure this machine"
        )


def unknown_machine(config: AnyConfig) -> Machine:
    """For what does not depend on a machine's speed: operations, and memory on this kind of device."""
    return Machine("", "cpu" if this_device().type == "cpu" else "cuda", precision_of(config), 1.0, 1.0, 1.0, False)


def machine_named(name: str, precision: Precision) -> Machine:
    """A device of the table. Raises DemotuneError for one that is not in it."""
    check_name(name)
    title, bf16, fp32, bandwidth, memory = DATASHEETS[name.lower()]
    rate = bf16 if precision == "bfloat16" else fp32
    return Machine(title, "cuda", precision, rate * 1e12, bandwidth * 1e9, memory * 1e9, measured=False)


def measure_machine(precision: Precision) -> Machine:
    """This machine's ceilings, measured within a second. Random numbers of the run are left alone."""
    device = this_device()
    on_gpu = device.type == "cuda"
    return Machine(
        name=torch.cuda.get_device_name(device) if on_gpu else f"this CPU, {torch.get_num_threads()} threads",
        kind="cuda" if on_gpu else "cpu",
        precision=precision,
        products=_product_rate(getattr(torch, precision), device),
        bandwidth=_reading_rate(2**30 if on_gpu else 2**28, device),
        memory=total_memory_gib() * GIB,
        measured=True,
    )


def _product_rate(dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of square matrix products: as large as a few hundredths of a second allow, the best rate of all sizes.

    Small ones come first because bfloat16 may be emulated, hundreds of times slower than it looks.
    """
    best = 0.0
    for size in (256, 512, 1024, 2048, 4096, 8192):
        generator = torch.Generator(device).manual_seed(0)
        left, right = (torch.rand(size, size, device=device, generator=generator).to(dtype) for _ in range(2))
        out = torch.empty_like(left)
        seconds = _quickest(partial(torch.mm, left, right, out=out))
        best = max(best, 2 * size**3 / seconds)
        if seconds > 0.02:
            break
    return best


def _reading_rate(size: int, device: torch.device) -> float:
    """Bytes read per second, of an array too large for any cache."""
    numbers = torch.ones(size // 4, device=device)
    return size / _quickest(numbers.sum)


def _quickest(call: Callable[[], object]) -> float:
    """Seconds of the quickest of five calls: the others were disturbed."""
    call()  # the first one also allocates and compiles
    times = []
    for _ in range(5):
        _wait()
        started = time.perf_counter()
        call()
        _wait()
        times.append(time.perf_counter() - started)
    return min(times)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
