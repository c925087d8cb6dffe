"""What the launcher of the processes asked for, as its environment variables say it. Nothing heavy is imported."""

import os

from demotune.common.errors import DemotuneError

_YES = ("1", "true", "yes", "y", "on", "t")
_SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
"""How many processes a launcher started: torchrun and accelerate, then those of MPI."""
_CUT = {"TP": "tensor", "CP": "context", "SP": "sequence"}
"""In PARALLELISM_CONFIG_..._SIZE of accelerate: what one model is cut along."""


def refuse_launch() -> None:
    """Raise DemotuneError for a launcher's request that no run can honour."""
    if asked("ACCELERATE_USE_DEEPSPEED"):
        stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE")
        raise DemotuneError(
            f"the launcher asks for DeepSpeed{f' (ZeRO stage {stage})' if stage else ''}, which demotune does not use; "
            "for models that one GPU cannot train give accelerate launch --use_fsdp --fsdp_version 2"
        )
    if asked("ACCELERATE_USE_FSDP") and (version := os.environ.get("FSDP_VERSION", "1")) == "1":
        raise DemotuneError(
            f"the launcher asks for FSDP version {version}, which demotune does not use; give accelerate launch "
            "--use_fsdp --fsdp_version 2"
        )
    if asked("ACCELERATE_USE_FSDP") and asked("FSDP_OFFLOAD_PARAMS"):
        raise DemotuneError(
            "the launcher asks for parameters in host memory (fsdp_offload_params), which demotune does not "
            "use; set it to false, and where memory is short give --activation-checkpointing, --use-peft or more GPUs"
        )
    if asked("ACCELERATE_USE_MEGATRON_LM"):
        raise DemotuneError("the launcher asks for Megatron-LM, which demotune does not use; launch without it")
    if asked("ACCELERATE_USE_PARALLELISM_CONFIG"):
        for name, kind in _CUT.items():
            if (size := os.environ.get(f"PARALLELISM_CONFIG_{name}_SIZE", "1")) not in ("", "1"):
                raise DemotuneError(
                    f"the launcher asks for {kind} parallelism over {size} processes, which demotune does not use; "
                    "each process computes whole rows: launch without it"
                )


def refuse_several_processes(command: str) -> None:
    """Raise DemotuneError where the launcher started several processes for a command that works in one."""
    if (count := _started()) > 1:
        raise DemotuneError(
            f"{command} works in one process, and the launcher started {count}; give it without torchrun or accelerate "
            "launch"
        )


def unmet(processes: int, on_cpu: bool) -> list[str]:
    """What the launcher asked for and this run, of so many processes, does otherwise: sentences for the user."""
    found = []
    started = _started()
    accelerate_alone = "ACCELERATE_DYNAMO_USE_DYNAMIC" in os.environ and "WORLD_SIZE" not in os.environ
    by_accelerate = accelerate_alone and "MASTER_ADDR" in os.environ  # set where --num_processes is above 1
    if processes == 1 and (started > 1 or by_accelerate):
        many = str(started) if started > 1 else "several"
        found.append(
            f"the launcher was asked for {many} processes, and this run has one; where accelerate launch sees fewer "
            "than two GPUs, it starts one: give torchrun --nproc_per_node N -m demotune ..."
        )
    if asked("ACCELERATE_USE_FSDP") and on_cpu:
        found.append(
            "the launcher asks for FSDP, which accelerate has on GPUs only: each process holds the whole model"
        )
    return found


def _started() -> int:
    return max((int(os.environ[name]) for name in _SIZES if os.environ.get(name, "").isdecimal()), default=1)


def asked(name: str) -> bool:
    """Whether an environment variable says yes, as accelerate reads it."""
    return os.environ.get(name, "").lower() in _YES
