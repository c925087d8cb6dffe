"""Which runs are runs of one setting, differing in their seed only; how settings are named."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demotune.common.errors import DemotuneError
from demotune.config.sampler import PLACE
from demotune.runs.file_names import MODEL
from demotune.runs.folder import RunFolder, run_of
from demotune.runs.manifest import Manifest, read_manifest
from demotune.runs.run import Run, load_run

CONTROL = "-control-sft"
"""RUN-control-sft is the folder of the SFT run that is the control of RUN (`demotune.cli.control`)."""
CONTROL_OF = "sft, control of "

NOT_A_SETTING = (
    "seed",
    "output",
    "run_name",
    "project",
    "report_to",
    "push_to_hub",
    "hub_private_repo",
    "logging_steps",
    "save_steps",
    "profile",
    *PLACE,
)
"""Fields that two runs of one setting may differ in."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Runs that differ in their seed only."""

    label: str
    runs: tuple[Run, ...]
    fields: Mapping[str, Any]
    """In which it differs from other settings of its method."""
    control_of: str | None
    """Label of the setting whose control this is."""


def group(runs: Sequence[Run]) -> list[Setting]:
    """Settings in the order of their first run, named by method and by the fields in which one method's runs differ.

    Raises DemotuneError where a folder, or a seed of one setting, is given twice.
    """
    places = [run.folder.resolve() for run in runs]
    if twice := [place for place in places if places.count(place) > 1]:
        raise DemotuneError(f"{twice[0]} is named twice; name each run once")
    members: dict[str, list[Run]] = {}
    for key, run in zip(setting_keys(runs), runs, strict=True):
        members.setdefault(key, []).append(run)
    for same in members.values():
        seeds = [run.seed for run in same]
        if len(set(seeds)) < len(seeds):
            names = ", ".join(str(run.folder) for run in same)
            raise DemotuneError(f"{names} are runs of one setting and one seed: the same run twice; leave one out")
    settings = [json.loads(key) for key in members]
    return [
        Setting(
            label=_label(setting, settings),
            runs=tuple(same),
            fields={} if CONTROL_OF in setting else _differing(setting, settings),
            control_of=_label(setting[CONTROL_OF], settings) if CONTROL_OF in setting else None,
        )
        for setting, same in zip(settings, members.values(), strict=True)
    ]


def setting_keys(runs: Sequence[Run]) -> list[str]:
    """Of each run a text, equal for runs of one setting and for them alone."""
    starts = _start_models(runs)
    return [json.dumps(_setting(run, starts), sort_keys=True) for run in runs]


def _setting(run: Run, starts: Mapping[str, str]) -> dict[str, Any]:
    """What runs of one setting share. Controls of one setting are one: their batches differ a little by seed."""
    original = run.folder.with_name(run.folder.name.removesuffix(CONTROL))
    file = RunFolder(original).manifest
    if original != run.folder and file.is_file():
        return {CONTROL_OF: _fields(read_manifest(file), starts)}
    return _fields(run.manifest, starts)


def _fields(manifest: Manifest, starts: Mapping[str, str]) -> dict[str, Any]:
    fields = {name: value for name, value in manifest.config.items() if name not in NOT_A_SETTING}
    return fields | {"model": starts.get(manifest.model, manifest.model[:8])}


def _start_models(runs: Sequence[Run]) -> dict[str, str]:
    """Content hash -> name of each start model.

    It counts by its content: its path may differ, and the same path may hold another model. But the results of runs
    that differ in their seed are one start model, as those runs are one setting.
    """
    names = {}
    for run in runs:
        start = _start_run(run)
        if start is not None:
            (key,) = setting_keys([start])
            names[run.start_hash] = f"{start.method}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
    return names


def _start_run(run: Run) -> Run | None:
    """The run whose result this one began with; None where it began with another model, or the run is not there now."""
    model = Path(run.config["model"])
    folder = run_of(model)
    if folder is None or model.resolve() not in (folder, folder / MODEL):
        return None
    start = load_run(folder)
    return start if start.finished and start.manifest.created <= run.manifest.created else None


def _label(setting: Mapping[str, Any], settings: Sequence[Mapping[str, Any]]) -> str:
    """The method, with the fields in which it differs from other settings of this method."""
    if CONTROL_OF in setting:
        return CONTROL_OF + _label(setting[CONTROL_OF], settings)
    differing = _differing(setting, settings)
    return " ".join([str(setting["method"]), *(f"{name}={value}" for name, value in differing.items())])


def _differing(setting: Mapping[str, Any], settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    alike = [other for other in settings if other.get("method") == setting["method"]]
    return {name: value for name, value in setting.items() if any(other.get(name) != value for other in alike)}
