"""The commands of a sweep for other launchers: a shell, Slurm, SkyPilot. Each begins a trial, or goes on with it."""

import shlex
import textwrap
from collections.abc import Iterator
from typing import Literal

import yaml

from demotune.runs.file_names import LOGS
from demotune.runs.folder import RunFolder
from demotune.sweep.trials import Plan, Trial

Launcher = Literal["shell", "slurm", "skypilot"]


def launch_text(plan: Plan, launcher: Launcher, gpus: int, cpus: int) -> str:
    """The text that runs all trials; run again, it goes on with those that are not finished."""
    if launcher == "slurm":
        return "\n".join(_slurm(plan, gpus, cpus)) + "\n"
    if launcher == "skypilot":
        return _skypilot(plan, gpus, cpus)
    return "\n".join(["#!/bin/sh", *map(command_of, plan.trials), _comparing(plan)]) + "\n"


def command_of(trial: Trial) -> str:
    """A line of a shell: the trial is begun, or resumed, or nothing is done where it has finished."""
    folder = RunFolder(trial.folder)
    begin = shlex.join(["demotune", *trial.arguments])
    resume = shlex.join(["demotune", "resume", str(trial.folder)])
    finished, begun = (shlex.quote(str(file)) for file in (folder.summary, folder.manifest))
    return f"[ -e {finished} ] || if [ -e {begun} ]; then {resume}; else {begin}; fi"


def waves(plan: Plan) -> list[list[Trial]]:
    """The trials that may run side by side, then those that start from their results, and so on."""
    deepest = max(trial.depth for trial in plan.trials)
    return [[trial for trial in plan.trials if trial.depth == depth] for depth in range(deepest + 1)]


def _comparing(plan: Plan) -> str:
    """Compares what is finished; runs what is not."""
    return shlex.join(["demotune", "sweep", str(plan.file), "--output", str(plan.folder)])


def _slurm(plan: Plan, gpus: int, cpus: int) -> Iterator[str]:
    """A script that submits an array for each wave; a wave begins when the one before has ended, well or not."""
    logs = plan.folder / LOGS
    yield "#!/bin/sh"
    yield f"# Submit with: sh THIS_FILE. When all have ended: {_comparing(plan)}"
    yield shlex.join(["mkdir", "-p", str(logs)])
    for number, trials in enumerate(waves(plan)):
        after = f' --dependency=afterany:"${{wave{number - 1}%%;*}}"' if number else ""
        yield f"wave{number}=$(sbatch --parsable{after} <<'END'"
        yield "#!/bin/sh"
        yield f"#SBATCH --job-name=demotune-sweep-{number}"
        yield f"#SBATCH --array=0-{len(trials) - 1}"
        yield f"#SBATCH --cpus-per-task={cpus}"
        if gpus:
            yield f"#SBATCH --gpus-per-task={gpus}"
            yield "#SBATCH --ntasks=1"
        yield "#SBATCH --requeue"
        yield f'#SBATCH --output="{logs}/%x-%a-%A.log"'
        yield 'case "$SLURM_ARRAY_TASK_ID" in'
        for place, trial in enumerate(trials):
            yield f"{place}) {command_of(trial)} ;;"
        yield "esac"
        yield "END"
        yield ")"


def _skypilot(plan: Plan, gpus: int, cpus: int) -> str:
    """One task; the environment variable TRIAL says which trial it runs."""
    lines = ["# One managed job for each trial. The comments below launch them; the results go to a bucket."]
    for number, trials in enumerate(waves(plan)):
        lines += [f"# {'When those above have ended:' if number else 'First:'}"]
        for trial in trials:
            words = ["sky", "jobs", "launch", "-y", "-d", "-n", _job_name(trial), "--env", f"TRIAL={trial.name}"]
            lines.append(f"#   {shlex.join(words)} THIS_FILE")
    lines.append(f"# When all have ended, where the bucket is mounted: {_comparing(plan)}")
    cases = "\n".join(f"{shlex.quote(trial.name)}) {command_of(trial)} ;;" for trial in plan.trials)
    resources: dict[str, object] = {"cpus": f"{cpus}+"} | ({"accelerators": {"H100": gpus}} if gpus else {})
    folder = plan.folder if plan.folder.is_absolute() else f"~/sky_workdir/{plan.folder}"
    task = {
        "name": "demotune-sweep",
        "resources": resources,
        "workdir": ".",
        "file_mounts": {str(folder): {"name": "YOUR-BUCKET", "mode": "MOUNT_CACHED"}},
        "envs": {"TRIAL": plan.trials[0].name},
        "setup": "pip install YOUR-WHEEL",
    }
    run = textwrap.indent(f'case "$TRIAL" in\n{cases}\nesac\n', "  ")
    return "\n".join(lines) + "\n" + yaml.safe_dump(task, sort_keys=False) + f"run: |\n{run}"


def _job_name(trial: Trial) -> str:
    return trial.name.replace("=", "-").replace("_", "-").replace(".", "-").replace("+", "-").lower()
