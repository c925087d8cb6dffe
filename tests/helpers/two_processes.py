"""Two processes without a GPU, by DDP or by FSDP2, where accelerate itself falls back to DDP.

As a program it is what one of them runs: the tasks of a JSON file, one after another. A task is the fields of a config,
with its `method`; with `die_at` [folder, step] both processes are killed when that checkpoint is written; with
`leave_at` they leave the run there, with `leave_in` once they have added to a journal of that name, as if they were
killed, and go on with the next task; with `resume` the run in the folder of that name goes on.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

import demotune
from demotune.common.journals import Journal
from helpers.killing import Killed

SHARDED = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",  # as in TRL's config; no run could go on from what that writes
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",  # which would leave the second process without weights
}

SMALL: dict[str, Any] = {"max_length": 128, "bf16": False, "learning_rate": 1e-3, "per_device_train_batch_size": 2}
RFT: dict[str, Any] = {
    "method": "rft",
    "stages": 1,
    "reward_steps": 4,
    "reward_learning_rate": 1e-3,
    "prompts_per_batch": 4,
    "num_generations": 2,
    "policy_batches": 2,
    "num_mini_batches": 2,
    "finished_only": False,
    "stop_unfinished": 0.0,
    "force": True,
}


def launch_sharded(tasks: list[dict[str, Any]], folder: Path) -> tuple[int, str]:
    """Let two processes do the tasks, in shards: the exit code, and what they wrote."""
    return launch(tasks, folder, SHARDED)


def launch(tasks: list[dict[str, Any]], folder: Path, variables: Mapping[str, str] | None = None) -> tuple[int, str]:
    """The same with other variables of the environment; without any, each process has the whole model."""
    file = folder / "tasks.json"
    file.write_text(json.dumps(tasks), encoding="utf-8")
    paths = [str(Path(demotune.__file__).parents[1]), str(Path(__file__).parents[1])]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(paths),
        "ACCELERATE_USE_CPU": "true",
        **(variables or {}),
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
    die_at, leave_at, leave_in = (fields.pop(name, None) for name in ("die_at", "leave_at", "leave_in"))
    if "resume" in fields:
        demotune.resume(fields["resume"])
        return
    callbacks = []
    if die_at is not None:
        callbacks.append(at_checkpoint(*die_at, lambda: os.kill(os.getpid(), signal.SIGKILL)))
    if leave_at is not None:
        callbacks.append(at_checkpoint(*leave_at, leave))
    with pytest.MonkeyPatch.context() as patch:
        if leave_in is not None:
            leave_after(leave_in, patch)
        with contextlib.suppress(Killed):
            demotune.run(CONFIGS[fields.pop("method")](**fields), callbacks=callbacks)


def at_checkpoint(checkpoints: str, step: int, act: Callable[[], object]) -> Any:
    """A callback that acts in all processes, once each has written its part of a checkpoint."""
    from transformers import TrainerCallback

    from demotune.common.processes import wait_for_everyone

    class AtCheckpoint(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if args.output_dir.endswith(checkpoints) and state.global_step == step:
                wait_for_everyone()
                act()

    return AtCheckpoint()


def assert_ends_alike(found: Path, expected: Path) -> None:
    """Weights within 1e-4 and losses within 1e-5; samples and responses token by token."""
    import torch
    from safetensors.torch import load_file

    from demotune.common.files import read_rows

    for file in [*expected.glob("model/*.safetensors"), *expected.glob("reward/*.safetensors")]:
        ours, theirs = load_file(found / file.relative_to(expected)), load_file(file)
        assert ours.keys() == theirs.keys()
        for name, values in theirs.items():
            torch.testing.assert_close(ours[name], values, atol=1e-4, rtol=0)
    losses = [[row["loss"] for row in read_rows(run / "metrics.jsonl") if "loss" in row] for run in (found, expected)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    for name in ("sample_ids", "response"):
        drawn = [
            [row[name] for file in sorted(run.glob("stages/*/**/*.jsonl.gz")) for row in read_rows(file) if name in row]
            for run in (found, expected)
        ]
        assert drawn[0] == drawn[1]


def leave() -> None:
    raise Killed


def leave_after(name: str, patch: pytest.MonkeyPatch) -> None:
    """Leave once this process has added to a journal with `name` in its own."""
    append = Journal.append

    def adding(journal: Journal, rows: Iterable[Mapping[str, Any]]) -> None:
        append(journal, rows)
        if name in journal._file.name:
            leave()

    patch.setattr(Journal, "append", adding)


if __name__ == "__main__":
    if "ACCELERATE_USE_FSDP" in os.environ:
        shard_on_cpu()
    for one in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        do(one)
