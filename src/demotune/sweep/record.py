"""sweep.json: the trials of a sweep, how far each is, and what went wrong."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from demotune.common.amounts import plural
from demotune.common.errors import DemotuneError
from demotune.common.files import write_json
from demotune.common.json_records import as_json, read_record
from demotune.common.machine import command_line
from demotune.runs.file_names import SWEEP
from demotune.sweep.trials import Plan, setting_name


@dataclass(frozen=True, slots=True)
class Attempts:
    """What this command did for one trial."""

    count: int
    seconds: float
    error: str | None
    """Of the last attempt, or why there was none."""


NO_ATTEMPTS = Attempts(0, 0.0, None)


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One trial."""

    name: str
    setting: str
    """The name of its setting: its own without the seed."""
    method: str
    seed: int
    folder: str
    start: str | None
    """The trial from whose result it starts."""
    state: str
    """new, interrupted or finished, as its run folder has it."""
    attempts: int
    """In the last command; 0 where it had finished before, or never began."""
    seconds: float
    """Of those attempts."""
    error: str | None
    """Why the last attempt failed."""


@dataclass(frozen=True, slots=True)
class SweepRecord:
    """A sweep after its last command."""

    command: str
    file: str
    settings: int
    """How many settings were tried, runs that differ in their seed counted once."""
    trials: tuple[TrialRecord, ...]

    @property
    def unfinished(self) -> list[TrialRecord]:
        return [trial for trial in self.trials if trial.state != "finished"]

    @property
    def sentence(self) -> str:
        """How much was tried, and what is missing."""
        failed = [trial.name for trial in self.unfinished if trial.error is not None]
        others = [trial.name for trial in self.unfinished if trial.error is None]
        parts = [f"{plural(self.settings, 'setting')} tried in {plural(len(self.trials), 'trial')}"]
        parts += [f"{len(names)} {what} ({', '.join(names)})" for what, names in _named(failed, others)]
        return "; ".join(parts)


def _named(failed: list[str], others: list[str]) -> list[tuple[str, list[str]]]:
    return [(what, names) for what, names in (("failed", failed), ("are not finished", others)) if names]


def write_sweep(plan: Plan, attempts: Mapping[str, Attempts]) -> SweepRecord:
    """Write sweep.json of what the run folders and the attempts of this command say."""
    settings = plan.settings
    setting_of = {trial.name: setting_name(trials[0]) for trials in settings.values() for trial in trials}
    trials = []
    for trial in plan.trials:
        own = attempts.get(trial.name, NO_ATTEMPTS)
        trials.append(
            TrialRecord(
                name=trial.name,
                setting=setting_of[trial.name],
                method=trial.config.method,
                seed=trial.config.seed,
                folder=str(trial.folder),
                start=None if trial.start is None else trial.start.name,
                state=trial.state,
                attempts=own.count,
                seconds=own.seconds,
                error=own.error,
            )
        )
    record = SweepRecord(command_line(), str(plan.file), len(settings), tuple(trials))
    write_json(plan.folder / SWEEP, as_json(record))
    return record


def read_sweep(folder: Path) -> SweepRecord:
    """What `demotune sweep --output FOLDER` wrote. Raises DemotuneError where it did not."""
    if not (folder / SWEEP).is_file():
        raise DemotuneError(f"{folder} holds no {SWEEP}; name the folder that demotune sweep --output wrote")
    return read_record(SweepRecord, folder / SWEEP)
