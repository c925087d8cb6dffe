"""What `--print` writes, run by a shell in which `demotune`, `sbatch` and `sky` note how they are called."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from helpers.sweeps import leave_run

from demotune.sweep.printed import launch_text
from demotune.sweep.trials import Plan

PlanOf = Callable[..., Plan]
NOTE = """#!{python}
import json, os, sys
with open("calls.jsonl", "a") as calls:
    calls.write(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\n")
"""
SBATCH = """#!/bin/sh
# Run every task of the array, and give a job id.
cat > job.sh
last=$(sed -n 's/^#SBATCH --array=0-//p' job.sh)
for task in $(seq 0 "$last"); do SLURM_ARRAY_TASK_ID=$task sh job.sh; done
sbatch-note "$@" $(grep -h '^#SBATCH' job.sh)
echo "17;cluster"
"""


@pytest.fixture
def plan(plan_of: PlanOf) -> Plan:
    """Four trials, with values that a shell must not read."""
    grid = [
        {"method": "sft", "template": "$HOME 'q' {prompt}", "seed": [0, 1]},
        {"method": "irft", "start": "sft", "seed": [0, 1]},
    ]
    plan = plan_of(grid=grid)
    leave_run(plan.trials[1], finished=False)
    return plan


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[list[str]]]:
    """Run a text by sh; the calls that it made."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("demotune", "sky", "sbatch-note"):
        (folder / name).write_text(NOTE.format(python=sys.executable))
    (folder / "sbatch").write_text(SBATCH)
    for file in folder.iterdir():
        file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def run(text: str) -> list[list[str]]:
        subprocess.run(["sh"], input=text, text=True, check=True)
        return [json.loads(line) for line in (tmp_path / "calls.jsonl").read_text().splitlines()]

    return run


def expected(plan: Plan) -> list[list[str]]:
    """A trial is begun, or resumed where it has begun."""
    return [["demotune", *trial.next_arguments] for trial in plan.trials]


def test_the_shell_runs_each_trial_and_then_compares(plan: Plan, calls: Callable[[str], list[list[str]]]) -> None:
    found = calls(launch_text(plan, "shell", 1, 1))
    assert found == [*expected(plan), ["demotune", "sweep", "sweep.yaml", "--output", "out"]]
    assert [words[1] for words in found] == ["sft", "resume", "irft", "irft", "sweep"]


def test_a_finished_trial_is_left_alone(plan: Plan, calls: Callable[[str], list[list[str]]]) -> None:
    text = launch_text(plan, "shell", 1, 1)
    for trial in plan.trials[:3]:
        leave_run(trial)
    assert [words[1] for words in calls(text)] == ["irft", "sweep"]


def test_slurm_gets_an_array_for_each_wave(plan: Plan, calls: Callable[[str], list[list[str]]]) -> None:
    found = calls(launch_text(plan, "slurm", 2, 8))
    assert [words for words in found if words[0] == "demotune"] == expected(plan)
    first, second = (words[1:] for words in found if words[0] == "sbatch-note")
    assert "--dependency=afterany:17" in second
    assert not any(word.startswith("--dependency") for word in first)
    assert {"--array=0-1", "--gpus-per-task=2", "--cpus-per-task=8", "--job-name=demotune-sweep-0"} <= set(first)


def test_slurm_without_gpus_asks_for_none(plan: Plan) -> None:
    assert "gpu" not in launch_text(plan, "slurm", 0, 8)


def test_skypilot_gets_one_task_that_is_told_its_trial(plan: Plan, calls: Callable[[str], list[list[str]]]) -> None:
    text = launch_text(plan, "skypilot", 2, 8)
    task = yaml.safe_load(text)
    assert task["resources"] == {"cpus": "8+", "accelerators": {"H100": 2}}
    assert list(task["file_mounts"]) == ["~/sky_workdir/out"]
    launches = [line.removeprefix("#   ") for line in text.splitlines() if line.startswith("#   sky jobs launch")]
    trials = [shlex.split(line)[shlex.split(line).index("--env") + 1] for line in launches]
    assert trials == [f"TRIAL={trial.name}" for trial in plan.trials]
    found = calls("".join(f"(export {shlex.quote(one)}; {task['run']})\n" for one in trials))
    assert found == expected(plan)
