"""What this machine and its installed packages are: for defaults, the manifest and `demotune doctor`."""

import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from demotune.common.memory import GIB
from demotune.common.processes import process_count, this_device

if TYPE_CHECKING:
    import torch

PACKAGES = ("demotune", "torch", "transformers", "accelerate", "peft", "datasets", "gguf", "safetensors", "trl")


def package_versions() -> dict[str, str]:
    """Installed versions; "not installed" where a package is absent."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def hardware() -> dict[str, str]:
    """Processor, memory and accelerators, in words: for the screen and the manifest."""
    import torch  # noqa: PLC0415 (seconds to import, and only needed here)

    described = {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": f"{psutil.cpu_count() or 1} logical cores, {torch.get_num_threads()} threads used by torch",
        "memory": f"{psutil.virtual_memory().total / GIB:.1f} GiB, {psutil.virtual_memory().available / GIB:.1f} free",
        "device": str(this_device()),
        "processes": str(process_count()),
    }
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        described[f"gpu {index}"] = f"{properties.name}, {properties.total_memory / GIB:.0f} GiB"
    return described


def computes_in_bf16(asked: bool | None) -> bool:
    """Whether to compute in bfloat16: as asked; None: where this device is faster by it."""
    return has_fast_bf16(this_device()) if asked is None else asked


def has_fast_bf16(device: "torch.device") -> bool:
    """Whether matrix products in bfloat16 are faster than in float32 on this device."""
    if device.type == "cuda":
        import torch  # noqa: PLC0415

        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    cpuinfo = Path("/proc/cpuinfo")
    if device.type != "cpu" or not cpuinfo.exists():
        return False
    flags = cpuinfo.read_text().split()
    return any(flag in flags for flag in ("avx512_bf16", "amx_bf16", "bf16"))


def command_line() -> str:
    """This command, quoted so that a shell reads it again."""
    return shlex.join(["demotune", *sys.argv[1:]])
