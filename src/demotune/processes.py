"""One process or several: who this one is, and waiting for the others."""

import os

import torch
from accelerate import PartialState


def process_state() -> PartialState:
    """accelerate's state of this process. Without an accelerator, several CPU processes find each other too."""
    wants_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    return PartialState(cpu=wants_cpu or not torch.accelerator.is_available())


def this_device() -> torch.device:
    return torch.device(process_state().device)


def main_process() -> bool:
    """Whether this process writes files and speaks."""
    return bool(process_state().is_main_process)


def process_count() -> int:
    return int(process_state().num_processes)


def wait_for_everyone() -> None:
    process_state().wait_for_everyone()
