"""A trial: one run of a sweep, in a run folder of its own, whose files say how far it is."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from demotune.config.as_flags import as_flags, changed_fields
from demotune.config.commands import CompareConfig
from demotune.config.config_files import differing_fields
from demotune.config.methods import AnyConfig, as_dict
from demotune.runs.file_names import LOGS
from demotune.runs.folder import RunFolder
from demotune.runs.run import load_run
from demotune.runs.settings import NOT_A_SETTING

State = Literal["new", "interrupted", "finished"]


@dataclass(frozen=True)
class Trial:
    """One run; where it starts from the result of another trial, `config.model` is that one's folder."""

    name: str
    config: AnyConfig
    start: "Trial | None"

    @property
    def folder(self) -> Path:
        return Path(self.config.output)

    @property
    def depth(self) -> int:
        """How many trials must come before it."""
        return 0 if self.start is None else self.start.depth + 1

    @property
    def at_first_model(self) -> AnyConfig:
        """The config with the model that the first of its trials begins with: one that is there before the sweep."""
        first = self.config.model if self.start is None else self.start.at_first_model.model
        return replace(self.config, model=first)

    @property
    def state(self) -> State:
        if not RunFolder(self.folder).manifest.is_file():
            return "new"
        return "finished" if load_run(self.folder).finished else "interrupted"

    @property
    def arguments(self) -> list[str]:
        """What follows `demotune` in the command that begins it."""
        return [self.config.method, *as_flags(changed_fields(self.config))]

    @property
    def next_arguments(self) -> list[str]:
        """What follows `demotune` in the command that begins it or goes on with it."""
        return self.arguments if self.state == "new" else ["resume", str(self.folder)]

    @property
    def changed(self) -> list[str]:
        """Fields in which the run that is there is another one; paths may be written in another way."""
        if self.state == "new":
            return []
        begun = RunFolder(self.folder).read_config()
        if Path(begun.model).resolve() == Path(self.config.model).resolve():
            begun = replace(begun, model=self.config.model)
        return differing_fields(replace(begun, output=self.config.output), self.config)


@dataclass(frozen=True)
class Plan:
    """The trials of a sweep, each after the one that it starts from, and how they are compared."""

    file: Path
    folder: Path
    trials: tuple[Trial, ...]
    comparison: CompareConfig
    """Its `runs` are empty until trials have finished."""

    @property
    def settings(self) -> dict[str, list[Trial]]:
        """The trials of each setting, which differ in their seed only."""
        found: dict[str, list[Trial]] = {}
        for trial in self.trials:
            found.setdefault(json.dumps(_setting(trial), sort_keys=True, default=str), []).append(trial)
        return {setting_name(trials[0]): trials for trials in found.values()}

    @property
    def finished(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.state == "finished"]

    def log(self, trial: Trial) -> Path:
        """The file that gets what the trial writes to its terminal."""
        return self.folder / LOGS / f"{trial.name}.log"


def setting_name(trial: Trial) -> str:
    """A trial's name without its seed."""
    return trial.name.rpartition("-seed=")[0]


def _setting(trial: Trial) -> Mapping[str, Any]:
    fields = {name: value for name, value in as_dict(trial.config).items() if name not in NOT_A_SETTING}
    return fields | ({} if trial.start is None else {"model": _setting(trial.start)})
