"""Finished runs as a comparison sees them: config, cost, held-out rows; several seeds of one setting together."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demotune.common.errors import DemotuneError
from demotune.common.files import read_json, read_rows
from demotune.runs.costs import Cost, cost_of
from demotune.runs.folder import RunFolder, written_by_a_run

CONTROL = "-control-sft"
"""RUN-control-sft is the folder of the SFT run that is the control of RUN (`demotune.cli.control`)."""
CONTROL_OF = "sft, control of "

NOT_A_SETTING = ("seed", "output", "run_name", "report_to", "logging_steps", "save_steps", "profile")
"""Fields that two runs of one setting may differ in."""


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """One run that has its result."""

    folder: Path
    method: str
    config: Mapping[str, Any]
    """As it began, automatic values filled in."""
    start_hash: str
    """Content hash of the start model."""
    cost: Cost
    best_stage: int
    stages: tuple[Mapping[str, Any], ...]
    """Phase records, in order."""

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.config["seed"])

    def heldout(self) -> dict[str, tuple[float, int]]:
        """Key -> (log-probability of the held-out demonstration under the result, its tokens)."""
        return _heldout(self.folder / "stages" / f"{self.best_stage:02d}" / "heldout.jsonl.gz")

    def heldout_at_start(self) -> dict[str, tuple[float, int]]:
        """The same under the start model."""
        return _heldout(self.folder / "stages" / "00" / "start.jsonl.gz")


@dataclass(frozen=True, slots=True)
class Setting:
    """Runs that differ in their seed only."""

    label: str
    runs: tuple[FinishedRun, ...]
    fields: Mapping[str, Any]
    """In which it differs from other settings of its method."""
    control_of: str | None
    """Label of the setting whose control this is."""


def read_run(folder: Path) -> FinishedRun:
    """A finished run. Raises DemotuneError where there is none, or where it has not finished."""
    run = RunFolder(folder)
    if not run.manifest.is_file():
        raise DemotuneError(f"{folder} holds no run; name the folder that a run wrote with --output")
    if not run.finished:
        raise DemotuneError(f"{folder} is an unfinished run; finish it with: demotune resume {folder}")
    with written_by_a_run(folder):
        manifest = read_json(run.manifest)
        summary = read_json(run.summary)
        stages = tuple(stage["phases"] for stage in summary["stages"])
        return FinishedRun(
            folder=folder,
            method=manifest["config"]["method"],
            config=manifest["config"],
            start_hash=manifest["model"],
            cost=cost_of(manifest, stages),
            best_stage=summary.get("best_stage", len(stages) - 1),
            stages=stages,
        )


def group(runs: Sequence[FinishedRun]) -> list[Setting]:
    """Settings in the order of their first run, named by method and by the fields in which one method's runs differ.

    Raises DemotuneError where a folder, or a seed of one setting, is given twice.
    """
    places = [run.folder.resolve() for run in runs]
    if twice := [place for place in places if places.count(place) > 1]:
        raise DemotuneError(f"{twice[0]} is named twice; name each run once")
    members: dict[str, list[FinishedRun]] = {}
    for run in runs:
        members.setdefault(json.dumps(_setting(run), sort_keys=True), []).append(run)
    for same in members.values():
        seeds = [run.seed for run in same]
        if len(set(seeds)) < len(seeds):
            names = ", ".join(str(run.folder) for run in same)
            raise DemotuneError(f"{names} are runs of one setting and one seed: the same run twice; leave one out")
    settings = [_setting(same[0]) for same in members.values()]
    return [
        Setting(
            label=_label(setting, settings),
            runs=tuple(same),
            fields={} if CONTROL_OF in setting else _differing(setting, settings),
            control_of=_label(setting[CONTROL_OF], settings) if CONTROL_OF in setting else None,
        )
        for setting, same in zip(settings, members.values(), strict=True)
    ]


def _setting(run: FinishedRun) -> dict[str, Any]:
    """What runs of one setting share. Controls of one setting are one: their batches differ a little by seed."""
    original = RunFolder(run.folder.with_name(run.folder.name.removesuffix(CONTROL)))
    if run.folder.name.endswith(CONTROL) and original.manifest.is_file():
        manifest = read_json(original.manifest)
        return {CONTROL_OF: _fields(manifest["config"], manifest["model"])}
    return _fields(run.config, run.start_hash)


def _fields(config: Mapping[str, Any], start_hash: str) -> dict[str, Any]:
    fields = {name: value for name, value in config.items() if name not in NOT_A_SETTING}
    # The start model counts by its content: its path may differ, and the same path may hold another model.
    return fields | {"model": start_hash[:8]}


def _label(setting: Mapping[str, Any], settings: Sequence[Mapping[str, Any]]) -> str:
    """The method, with the fields in which it differs from other settings of this method."""
    if CONTROL_OF in setting:
        return CONTROL_OF + _label(setting[CONTROL_OF], settings)
    differing = _differing(setting, settings)
    return " ".join([str(setting["method"]), *(f"{name}={value}" for name, value in differing.items())])


def _differing(setting: Mapping[str, Any], settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    alike = [other for other in settings if other.get("method") == setting["method"]]
    return {name: value for name, value in setting.items() if any(other.get(name) != value for other in alike)}


def _heldout(file: Path) -> dict[str, tuple[float, int]]:
    if not file.is_file():
        raise DemotuneError(
            f"{file} is missing: the run held nothing out, or was made by an older version; compare on --data instead"
        )
    return {row["key"]: (row["demo_logp"], row["demo_tokens"]) for row in read_rows(file)}
