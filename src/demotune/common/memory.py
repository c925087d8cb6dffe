"""How many rows fit into memory, and knowing a lack of it when it happens."""

import psutil
import torch

from demotune.common.allocator import kept_bytes
from demotune.common.errors import DemotuneError

SHARE = 0.8
"""Of free memory that the cache may fill; the rest is for what a step computes."""
GIB = 2**30


def free_bytes(device: torch.device) -> int:
    """Memory that can still be had on `device`, what torch or the C library holds in reserve included."""
    if device.type != "cuda":
        return int(psutil.virtual_memory().available) + kept_bytes()
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def slots_that_fit(wanted: int, bytes_per_slot: int, device: torch.device) -> int:
    """At most `wanted`. Raises DemotuneError where not even one row fits."""
    free = free_bytes(device)
    if bytes_per_slot > free:
        raise too_large(f"a single response needs {bytes_per_slot / GIB:.1f} GiB and {free / GIB:.1f} GiB are free")
    return max(min(wanted, int(free * SHARE) // bytes_per_slot), 1)


def too_large(why: str) -> DemotuneError:
    return DemotuneError(
        f"there is not enough memory to draw responses one at a time ({why}); lower the longest response "
        "(--max-new-tokens, --max-length), or take a smaller model"
    )
