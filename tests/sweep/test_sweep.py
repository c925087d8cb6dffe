"""`demotune sweep` with its real children: a sweep that is stopped and killed gives what an uninterrupted one gives."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers.command import call
from helpers.tiny import save_tiny, write_rows

from demotune.common.files import folder_hash
from demotune.config.commands import SweepConfig
from demotune.runs.comparison import read_comparison
from demotune.sweep.child import run_trial
from demotune.sweep.plan import read_plan
from demotune.sweep.record import read_sweep
from demotune.sweep.sweep import sweep
from demotune.sweep.trials import Plan

SMALL: dict[str, Any] = {
    "max_length": 128, "per_device_train_batch_size": 4, "bf16": False, "learning_rate": 1e-2,
}  # fmt: skip
LONG = {"method": "sft", "num_train_epochs": 60, "save_steps": 5, "seed": [0, 1]}
"""300 steps: enough to stop it on the way, on a busy machine, too."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As Ray gives a trial with one CPU: sums over several threads have other last bits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("inputs")
    return {"model": save_tiny(folder / "start"), "data": write_rows(folder / "rows.jsonl"), **SMALL}


def write_sweep(file: Path, common: dict[str, Any], **sections: Any) -> str:
    file.write_text(json.dumps({"common": common} | sections), encoding="utf-8")
    return str(file)


@pytest.fixture(scope="module")
def uninterrupted(inputs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Trial -> hash of the model that LONG gives, trained by children."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    file = Path(write_sweep(folder / "sweep.yaml", inputs, grid=LONG))
    plan = read_plan(file, folder / "out")
    sweep(plan, SweepConfig(sweep_file=file, output=folder / "out"))
    return models(plan)


def models(plan: Plan) -> dict[str, str]:
    return {
        trial.name: folder_hash(trial.folder / "model", [trial.folder / "model" / WEIGHTS]) for trial in plan.trials
    }


WEIGHTS = "model.safetensors"


class Sweeping:
    """`demotune sweep` in a process group of its own; `lines` are what it shows."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "demotune", "sweep", *arguments]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        self.lines: list[str] = []

    def wait_for(self, pattern: str) -> None:
        """Until a line is shown that has the pattern."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if re.search(pattern, line):
                return
        raise AssertionError("".join(self.lines))

    def end(self) -> int:
        assert self.process.stdout is not None
        self.lines += self.process.stdout
        return self.process.wait()


@pytest.fixture
def sweeping() -> Iterator[Callable[..., Sweeping]]:
    begun: list[Sweeping] = []

    def begin(*arguments: str) -> Sweeping:
        begun.append(Sweeping(*arguments))
        return begun[-1]

    yield begin
    for one in begun:
        if one.process.poll() is None:
            os.killpg(one.process.pid, signal.SIGKILL)
            one.process.wait()


def child_of(pid: int, seed: int) -> psutil.Process:
    """The trial of this seed, below a process; waited for."""
    found: list[psutil.Process] = []
    while not found:
        found = [
            one
            for one in psutil.Process(pid).children(recursive=True)
            if one.is_running() and f"seed={seed}" in " ".join(_arguments(one)) and "demotune" in _arguments(one)
        ]
        threading.Event().wait(0.05)
    return found[0]


def _arguments(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def wait_for_checkpoint(run: Path) -> None:
    while not list(run.glob("stages/00/checkpoints/checkpoint-*")):
        threading.Event().wait(0.05)


def test_a_sweep_that_was_stopped_and_killed_equals_an_uninterrupted_one(
    inputs: dict[str, Any], uninterrupted: dict[str, str], tmp_path: Path, sweeping: Callable[..., Sweeping]
) -> None:
    file, out = write_sweep(tmp_path / "sweep.yaml", inputs, grid=LONG), tmp_path / "out"
    plan = read_plan(Path(file), out)
    first, second = plan.trials

    stopped = sweeping(file, "--output", str(out))
    stopped.wait_for("trial 1 of 2, .*seed=0: begins")
    wait_for_checkpoint(first.folder)
    os.killpg(stopped.process.pid, signal.SIGINT)
    assert stopped.end() == 130
    assert "the same command goes on with them" in stopped.lines[-1]
    assert "a checkpoint written" in plan.log(first).read_text()
    assert first.state == "interrupted"
    assert read_sweep(out).unfinished[0].state == "interrupted"

    killed = sweeping(file, "--output", str(out))
    killed.wait_for("seed=0: finished")
    child = child_of(killed.process.pid, seed=1)
    wait_for_checkpoint(second.folder)
    os.kill(killed.process.pid, signal.SIGKILL)
    psutil.wait_procs([child])
    assert killed.end() == -signal.SIGKILL
    assert second.state == "interrupted"  # its child did not outlive it

    record = sweep(plan, SweepConfig(sweep_file=Path(file), output=out))
    assert record.unfinished == []
    assert [trial.attempts for trial in record.trials] == [0, 1]
    assert models(plan) == uninterrupted
    begun = [line for trial in plan.trials for line in plan.log(trial).read_text().splitlines() if line[:1] == "$"]
    assert [line.split()[2] for line in begun] == ["sft", "resume", "sft", "resume"]


def test_trials_that_start_from_others_are_compared_with_their_seeds_as_replicates(
    inputs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the lines that `--print shell` gives, the last of which is the sweep itself: it runs nothing again."""
    staged = {"max_new_tokens": 8, "samples_per_prompt": 1, "stages": 1, "steps_per_stage": 2}
    grid = [{"method": "sft", "max_steps": 2}, {"method": "irft", "start": "sft"}]
    file, out = write_sweep(tmp_path / "sweep.yaml", inputs | staged, grid=grid), tmp_path / "out"
    code, text = call("sweep", file, "--output", str(out), "--print", "shell")
    assert code == 0
    (tmp_path / "demotune").write_text(f'#!/bin/sh\nexec {sys.executable} -m demotune "$@"\n')
    (tmp_path / "demotune").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    shown = subprocess.run(["sh"], input=text, text=True, check=True, capture_output=True).stdout
    assert "2 of 2 trials are finished already" in shown
    assert not (out / "logs").exists()
    assert "2 settings tried in 2 trials" in shown
    table = read_comparison(out)
    assert [line.setting for line in table.lines] == ["start model", "sft", "irft"]
    assert table.notes[0] == "2 settings tried in 2 trials"
    assert "2 settings tried in 2 trials" in (out / "sweep.html").read_text()
    assert read_sweep(out).trials[1].start == "sft-max_steps=2-seed=42"

    write_sweep(tmp_path / "sweep.yaml", inputs | staged | {"learning_rate": 1e-3}, grid=grid)
    code, text = call("sweep", file, "--output", str(out))
    assert code == 1
    assert "holds another run than" in text
    assert "(learning_rate differ)" in text


def test_the_error_of_a_trial_is_the_last_line_of_its_terminal(inputs: dict[str, Any], tmp_path: Path) -> None:
    broken = tmp_path / "rows.jsonl"
    broken.write_text('{"prompt": "only this"}\n')
    common = inputs | {"data": str(broken)}
    plan = read_plan(Path(write_sweep(tmp_path / "sweep.yaml", common, grid={"method": "sft"})), tmp_path / "out")
    ending = run_trial(plan.trials[0], plan.log(plan.trials[0]))
    assert ending.error is not None
    assert str(broken) in ending.error
    assert plan.log(plan.trials[0]).read_text().rstrip().endswith(ending.error)


def test_inputs_are_looked_for_before_the_first_trial(inputs: dict[str, Any], tmp_path: Path) -> None:
    common = inputs | {"data": str(tmp_path / "none.jsonl")}
    file = write_sweep(tmp_path / "sweep.yaml", common, grid={"method": "sft"})
    code, text = call("sweep", file, "--output", str(tmp_path / "out"))
    assert code == 1
    assert "none.jsonl" in text
    assert not (tmp_path / "out").exists()


def test_the_estimate_adds_up_the_trials_that_are_not_finished(inputs: dict[str, Any], tmp_path: Path) -> None:
    grid = [{"method": "sft", "seed": [0, 1, 2]}, {"method": "irft", "start": "sft", "seed": [0, 1]}]
    file = write_sweep(tmp_path / "sweep.yaml", inputs, grid=grid)
    code, text = call("sweep", file, "--output", str(tmp_path / "out"), "--estimate")
    assert code == 0
    rows = re.findall(r"^ +((?:sft|irft)[a-z ]*?) +(\d) +(\d) ", text, re.MULTILINE)
    assert rows == [("sft", "3", "3"), ("irft from sft", "2", "2")]
    assert "for the trials that are not finished, one after the other" in text
    assert not (tmp_path / "out").exists()
