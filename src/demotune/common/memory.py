"""Memory: how much this process used and may still use, how many rows fit, and a lack of it when it happens.

torch is imported where it is needed, so that commands that compute nothing start without it.
"""

import ctypes
import gc
import os
import platform
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from demotune.common.errors import DemotuneError
from demotune.common.processes import this_device

if TYPE_CHECKING:
    import torch

GIB = 2**30
SHARE = 0.8
"""Of free memory that the key-value cache may fill; the rest is for what a step computes."""
LACK_OF_MEMORY = ("not enough memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What torch says in an ordinary RuntimeError when memory lacks."""
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
"""Of mallopt, from glibc's malloc.h."""


def peak_memory_gib() -> float:
    """Highest memory use of this process so far: of the accelerator where there is one, else resident memory."""
    if this_device().type == "cuda":
        import torch  # noqa: PLC0415

        return torch.cuda.max_memory_allocated() / GIB
    status = Path("/proc/self/status")
    if status.exists():  # getrusage's count begins with what the parent process had
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024 / GIB
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB


def total_memory_gib() -> float:
    """All of the memory that `peak_memory_gib` counts."""
    if this_device().type == "cuda":
        import torch  # noqa: PLC0415

        return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / GIB
    return float(psutil.virtual_memory().total) / GIB


def free_bytes(device: "torch.device") -> int:
    """Memory that can still be used on `device`, with what torch or the C library holds in reserve."""
    if device.type != "cuda":
        return int(psutil.virtual_memory().available) + allocator_reserve()
    import torch  # noqa: PLC0415

    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def slots_that_fit(wanted: int, bytes_per_slot: int, device: "torch.device") -> int:
    """How many rows can be drawn at once, at most `wanted`. Raises DemotuneError where not even one fits."""
    free = free_bytes(device)
    if bytes_per_slot > free:
        raise too_large(f"a single response needs {bytes_per_slot / GIB:.1f} GiB and {free / GIB:.1f} GiB are free")
    return max(min(wanted, int(free * SHARE) // bytes_per_slot), 1)


def too_large(why: str) -> DemotuneError:
    """The error where memory lacks for one response alone."""
    return DemotuneError(
        f"there is not enough memory to draw responses one at a time ({why}); lower the longest response "
        "(--max-new-tokens, --max-length), or take a smaller model"
    )


def give_back_memory() -> None:
    """Collect what nothing refers to any more, and give the accelerator's cached memory back."""
    import torch  # noqa: PLC0415

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether an exception means that the device or the machine has no memory left."""
    import torch  # noqa: PLC0415

    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(text in str(error) for text in LACK_OF_MEMORY)


def keep_memory() -> bool:
    """Make glibc keep freed memory for the next tensors; returns whether it does.

    It would give each large tensor back and have its pages zeroed anew for the next one. Results do not change.
    DEMOTUNE_KEEP_MEMORY=0 in the environment turns this off; other C libraries have no such setting.
    """
    if os.environ.get("DEMOTUNE_KEEP_MEMORY") == "0" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(MMAP_MAX, 0) and mallopt(TRIM_THRESHOLD, -1) and mallopt(TOP_PAD, 2**26))


class _MallocInfo(ctypes.Structure):
    """struct mallinfo2 of glibc's malloc.h: ten numbers, of which `fordblks`, the free bytes, is the ninth."""

    _fields_ = (("before", ctypes.c_size_t * 8), ("fordblks", ctypes.c_size_t), ("after", ctypes.c_size_t))


def allocator_reserve() -> int:
    """Bytes that glibc holds free for this process's next tensors; 0 where it cannot be asked."""
    if platform.libc_ver()[0] != "glibc" or not hasattr(library := ctypes.CDLL(None), "mallinfo2"):
        return 0
    library.mallinfo2.restype = _MallocInfo
    return int(library.mallinfo2().fordblks)
