"""FSDP2 between processes without a GPU, where accelerate itself falls back to DDP.

As a program it is what one of several processes runs: the tasks of a JSON file, one after another. A task is the fields
of a config, with its `method`; with `die_at` [folder, step] both processes are killed when that checkpoint is written;
with `resume` the run in the folder of that name goes on.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import demotune


def launch_sharded(tasks: list[dict[str, Any]], folder: Path) -> tuple[int, str]:
    """Let two processes do the tasks, in shards: the exit code, and what they wrote."""
    file = folder / "tasks.json"
    file.write_text(json.dumps(tasks), encoding="utf-8")
    paths = [str(Path(demotune.__file__).parents[1]), str(Path(__file__).parents[1])]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(paths),
        "ACCELERATE_USE_CPU": "true",
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
        "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",  # which would leave the second process without weights
    }
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*torchrun, __file__, str(file)]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as started:
        try:
            shown, _ = started.communicate(timeout=300)
        except BaseException:  # processes that wait for one another wait for ever
            os.killpg(started.pid, signal.SIGKILL)
            raise
    return started.returncode, shown


def shard_on_cpu() -> None:
    """Make accelerate use FSDP2 for several CPU processes, as it does for several GPUs."""
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    begin = AcceleratorState.__init__

    def begin_sharded(self: AcceleratorState, *arguments: Any, **named: Any) -> None:
        begin(self, *arguments, **named)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            self.fsdp_plugin = named["fsdp_plugin"]

    AcceleratorState.__init__ = begin_sharded


def do(task: dict[str, Any]) -> None:
    from demotune.config.methods import CONFIGS

    fields = dict(task)
    die_at = fields.pop("die_at", None)
    if "resume" in fields:
        demotune.resume(fields["resume"])
        return
    callbacks = [] if die_at is None else [killer(*die_at)]
    demotune.run(CONFIGS[fields.pop("method")](**fields), callbacks=callbacks)


def killer(checkpoints: str, step: int) -> Any:
    """kill -9 of both processes, once each has written its part of a checkpoint."""
    from transformers import TrainerCallback

    from demotune.common.processes import wait_for_everyone

    class Killer(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if args.output_dir.endswith(checkpoints) and state.global_step == step:
                wait_for_everyone()
                os.kill(os.getpid(), signal.SIGKILL)

    return Killer()


if __name__ == "__main__":
    shard_on_cpu()
    for one in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        do(one)
