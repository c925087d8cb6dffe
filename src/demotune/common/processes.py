"""One process or several: who this one is, and waiting for the others."""

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from accelerate import PartialState


def process_state() -> "PartialState":
    """accelerate's state of this process. Without CUDA or XPU it is a CPU one: MPS lacks the float64 of the sampler."""
    import torch  # noqa: PLC0415 (slow: what only reads files and prints does without it)
    from accelerate import PartialState  # noqa: PLC0415

    has_accelerator = torch.cuda.is_available() or torch.xpu.is_available()
    wants_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    return PartialState(cpu=wants_cpu or not has_accelerator)


def this_device() -> "torch.device":
    import torch  # noqa: PLC0415

    return torch.device(process_state().device)


def main_process() -> bool:
    """Whether this process writes files and prints. Before torch is imported, the launcher's RANK says so."""
    if "torch" not in sys.modules:
        return os.environ.get("RANK", "0") == "0"
    return bool(process_state().is_main_process)


def process_count() -> int:
    return int(process_state().num_processes)


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any of the processes."""
    import torch  # noqa: PLC0415

    if process_count() == 1:
        return flag
    flags = torch.tensor(int(flag), device=this_device())
    torch.distributed.all_reduce(flags, op=torch.distributed.ReduceOp.MAX)
    return bool(flags)


def wait_for_everyone() -> None:
    process_state().wait_for_everyone()
