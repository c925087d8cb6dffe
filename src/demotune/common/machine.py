"""What this machine and its installed packages are: for defaults, the manifest and `demotune doctor`."""

import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from demotune.common.processes import process_count, this_device
from demotune.common.progress import GIB

if TYPE_CHECKING:
    import torch

PACKAGES = ("demotune", "torch", "transformers", "accelerate", "peft", "datasets", "gguf", "safetensors", "trl")
LACKS = ("not enough memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What torch says in an ordinary RuntimeError when memory lacks."""


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
    """Processor, memory and accelerators, as text for people and for the manifest."""
    import torch  # noqa: PLC0415 (slow: the command line and versions do without it)

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


def has_fast_bf16(device: "torch.device") -> bool:
    """Whether matrix products in bfloat16 are faster than in float32 on this device."""
    import torch  # noqa: PLC0415

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    cpuinfo = Path("/proc/cpuinfo")
    if device.type != "cpu" or not cpuinfo.exists():
        return False
    flags = cpuinfo.read_text().split()
    return any(flag in flags for flag in ("avx512_bf16", "amx_bf16", "bf16"))


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether an exception means that the device or the machine has no memory left."""
    import torch  # noqa: PLC0415

    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(lack in str(error) for lack in LACKS)


def command_line() -> str:
    """This command, so that a shell reads it as it was."""
    return shlex.join(["demotune", *sys.argv[1:]])
