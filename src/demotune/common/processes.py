"""One process or several: which one this is, and waiting for the others. Importing this module loads no torch."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

from demotune.common.launches import asked

if TYPE_CHECKING:
    import torch
    from accelerate import PartialState

Found = TypeVar("Found")
LONGEST_WAIT = timedelta(hours=6)
"""Of one process for another."""


def process_state() -> "PartialState":
    """accelerate's state of this process. Without CUDA or XPU it is a CPU one: MPS lacks the float64 of the sampler."""
    import torch  # noqa: PLC0415 (seconds to import)
    from accelerate import PartialState  # noqa: PLC0415

    has_accelerator = torch.cuda.is_available() or torch.xpu.is_available()
    wants_cpu = asked("ACCELERATE_USE_CPU")
    # The others wait while the main process starts an engine, asks a judge or pushes to the hub: without this timeout
    # torch would end them after 10 to 30 minutes.
    return PartialState(cpu=wants_cpu or not has_accelerator, timeout=LONGEST_WAIT)


def this_device() -> "torch.device":
    device: torch.device = process_state().device
    return device


def main_process() -> bool:
    """Whether this process writes files and prints. Before torch is imported, what the launcher says decides."""
    if "torch" in sys.modules:
        return bool(process_state().is_main_process)
    return launched_as_main()


def launched_as_main() -> bool:
    """What the launcher says, without asking the other processes."""
    return "LOCAL_RANK" not in os.environ or os.environ.get("RANK", "0") == "0"


_PLANNED: ContextVar[int | None] = ContextVar("planned", default=None)


def process_count() -> int:
    """How many processes share the work; within `planned_for` how many are planned."""
    return _PLANNED.get() or int(process_state().num_processes)


@contextmanager
def planned_for(processes: int) -> Iterator[None]:
    """In here work is planned for so many processes, as an estimate needs it; nothing may be exchanged."""
    before = _PLANNED.set(processes)
    try:
        yield
    finally:
        _PLANNED.reset(before)


def shards_models() -> bool:
    """Whether accelerate was launched to spread what is trained over the processes (FSDP)."""
    return asked("ACCELERATE_USE_FSDP") and bool(process_state().use_distributed)


def settle_fsdp() -> None:
    """What runs need of FSDP, whatever its config says; before the first model is loaded.

    Whole models in each process, since all of them draw and score; and checkpoints in shards, which any number of
    processes can go on from.
    """
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    os.environ["FSDP_STATE_DICT_TYPE"] = "SHARDED_STATE_DICT"


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any of the processes."""
    if process_count() == 1:
        return flag
    import torch  # noqa: PLC0415

    flags = torch.tensor(int(flag), device=this_device())
    torch.distributed.all_reduce(flags, op=torch.distributed.ReduceOp.MAX)
    return bool(flags)


def from_main_process(make: Callable[[], Found]) -> Found:
    """What `make` returns on the main process; the others do not call it. All processes must come here."""
    if process_count() == 1:
        return make()
    from accelerate.utils import broadcast_object_list  # noqa: PLC0415

    found: list[Any] = [make() if main_process() else None]
    broadcast_object_list(found)
    return cast(Found, found[0])


def wait_for_everyone() -> None:
    process_state().wait_for_everyone()
