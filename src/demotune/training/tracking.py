"""Experiment loggers (`report_to`): one run in each for a whole demotune run, on one axis of optimizer steps.

The loggers are accelerate's. What a phase trains is logged step by step; what it leaves, once it is done.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from demotune.common.errors import DemotuneError, first_line
from demotune.common.files import write_record
from demotune.common.json_records import as_json, read_record
from demotune.common.processes import main_process
from demotune.config.loggers import loggers_of
from demotune.config.methods import AnyConfig, as_dict
from demotune.runs.check import StageCheck
from demotune.runs.file_names import TENSORBOARD, TRACKED
from demotune.runs.folder import RunFolder
from demotune.runs.tracked import Tracked
from demotune.training.fit import phase_of

NO_PREFIX = ("train", "policy")
"""Phases that make the policy: their metrics have TRL's names; those of other phases begin with the phase's name."""


class Tracking(TrainerCallback):
    """The loggers of one run. In other processes than the main one, and without `report_to`, it logs nothing."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder, self._file = folder, folder.root / TRACKED
        self._trackers: list[GeneralTracker] = []
        self._kept, self._steps_before = Tracked(""), 0

    @contextmanager
    def running(self, config: AnyConfig) -> Iterator[None]:
        """Open the loggers that the config names, and close them at the end, however the run ends."""
        if main_process() and (loggers := loggers_of(config.report_to)):
            begun = self._file.exists()
            self._kept = read_record(Tracked, self._file) if begun else Tracked(uuid4().hex[:12])
            self._trackers = _started(loggers, config, self._folder.root, self._kept.run_id)
            if not begun:
                _log_settings(self._trackers, as_dict(config))
        try:
            yield
            self.log_phases()
        finally:
            for tracker in self._trackers:
                tracker.finish()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._steps_before = self.log_phases()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not self._trackers:
            return
        checkpoints = Path(str(args.output_dir))
        phase = phase_of(checkpoints)
        prefix = "" if phase in NO_PREFIX else f"{phase}/"
        values: dict[str, float] = {}
        for name, value in state.log_history[-1].items():
            part, bare = ("eval", name.removeprefix("eval_")) if name.startswith("eval_") else ("train", name)
            if name != "step":
                values[f"{part}/{prefix}{bare}"] = value
        fitting = f"{checkpoints.parent.name}/{phase}"
        self._log_record(fitting, len(state.log_history), values, self._steps_before + state.global_step)

    def _log_record(self, fitting: str, number: int, values: Mapping[str, float], step: int) -> None:
        """Log a record of a phase's history, unless it was logged before an interruption."""
        if self._kept.fitting != fitting or number > self._kept.records:
            self._log(values, step)
            self._kept = replace(self._kept, fitting=fitting, records=number)
            self._keep()

    def log_phases(self) -> int:
        """Log what finished phases left, each once. Returns how many optimizer steps they took; 0 without loggers."""
        if not self._trackers:
            return 0
        done = 0
        for number, state in _states(self._folder):
            for phase, record in state.items():
                done += record.get("steps", 0)
                name = f"{number}/{phase}"
                if name not in self._kept.phases:
                    self._log(_phase_values(self._folder, number, phase, record), done)
                    self._kept = replace(self._kept, phases=(*self._kept.phases, name))
        self._keep()
        return done

    def _log(self, values: Mapping[str, float], step: int) -> None:
        for tracker in self._trackers:
            tracker.log(dict(values), step=step)

    def _keep(self) -> None:
        write_record(self._file, as_json(self._kept))


def _states(folder: RunFolder) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    while state := folder.stage_state(number):
        yield number, state
        number += 1


def _phase_values(folder: RunFolder, number: int, phase: str, record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a finished phase; of a stage's check, also what was measured on held-out rows."""
    values = {f"{phase}/{name}": float(value) for name, value in record.items() if _is_number(value)}
    values["stage"] = float(number)
    if phase == "check":
        values |= _check_values(folder.stage_check(number))
    return values


def _check_values(check: StageCheck) -> dict[str, float]:
    found: dict[str, float | None] = {"eval/nll_per_token": check.nll_per_token}
    if reward := check.reward:
        found |= {"eval/rewards/margins": reward.margin, "eval/rewards/accuracies": reward.accuracy.value}
    if since := check.reward_since_start:
        found |= {"eval/since_start/margins": since.margin, "eval/since_start/accuracies": since.accuracy.value}
    if policy := check.policy:
        found |= {"eval/reward_before": policy.reward_before, "eval/reward": policy.reward_after}
    if gate := check.gate:
        measured = {name: value for name, value in as_json(gate).items() if _is_number(value)}
        found |= {f"gate/{name}": float(value) for name, value in measured.items()}
        found |= {"gate/gain": gate.gain.value, "gate/wins": gate.wins.value, "gate/best": float(gate.best)}
    return {name: value for name, value in found.items() if value is not None}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _started(loggers: Sequence[str], config: AnyConfig, root: Path, run_id: str) -> list[GeneralTracker]:
    trackers = []
    for logger in loggers:
        name = config.run_name or root.resolve().name
        made = LOGGER_TYPE_TO_CLASS[logger](**_arguments(logger, config.project, name, run_id, root))
        try:
            made.start()
        except Exception as error:  # a logger that is not signed in, or whose server is away
            raise DemotuneError(
                f"{logger} could not be started: {first_line(error)}; fix it, or leave it out of --report-to"
            ) from error
        trackers.append(made)
    return trackers


def _arguments(logger: str, project: str, name: str, run_id: str, root: Path) -> dict[str, Any]:
    """How a logger opens a run with a name in a project, and opens the same one again after an interruption."""
    if logger == "tensorboard":
        return {"run_name": name, "logging_dir": str(root / TENSORBOARD)}
    if logger == "mlflow":
        return {"experiment_name": project, "run_name": name}
    if logger == "dvclive":
        return {}
    own = {
        "wandb": {"name": name, "id": run_id, "resume": "allow"},
        "trackio": {"name": name, "resume": "allow"},
        "swanlab": {"experiment_name": name, "id": run_id, "resume": "allow"},
        "clearml": {"task_name": name},
    }
    return {"run_name": project, **own.get(logger, {})}


def _log_settings(trackers: list[GeneralTracker], config: Mapping[str, Any]) -> None:
    for tracker in trackers:
        if tracker.name == "tensorboard":  # its own way of storing settings opens a second run
            tracker.log({"config": "\n\n".join(f"{name}: {value}" for name, value in config.items())}, step=0)
        else:
            tracker.store_init_configuration(dict(config))
