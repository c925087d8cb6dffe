"""Which runs are runs of one setting, differing in their seed only; how settings are named."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from demotune.common.errors import DemotuneError
from demotune.config.sampler import PLACE
from demotune.runs.folder import RunFolder
from demotune.runs.manifest import Manifest, read_manifest
from demotune.runs.run import Run

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
    for run in runs:
        members.setdefault(setting_key(run), []).append(run)
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


def setting_key(run: Run) -> str:
    """Equal for runs of one setting, and for them alone."""
    return json.dumps(_setting(run), sort_keys=True)


def _setting(run: Run) -> dict[str, Any]:
    """What runs of one setting share. Controls of one setting are one: their batches differ a little by seed."""
    original = run.folder.with_name(run.folder.name.removesuffix(CONTROL))
    file = RunFolder(original).manifest
    if original != run.folder and file.is_file():
        return {CONTROL_OF: _fields(read_manifest(file))}
    return _fields(run.manifest)


def _fields(manifest: Manifest) -> dict[str, Any]:
    fields = {name: value for name, value in manifest.config.items() if name not in NOT_A_SETTING}
    # The start model counts by its content: its path may differ, and the same path may hold another model.
    return fields | {"model": manifest.model[:8]}


def _label(setting: Mapping[str, Any], settings: Sequence[Mapping[str, Any]]) -> str:
    """The method, with the fields in which it differs from other settings of this method."""
    if CONTROL_OF in setting:
        return CONTROL_OF + _label(setting[CONTROL_OF], settings)
    differing = _differing(setting, settings)
    return " ".join([str(setting["method"]), *(f"{name}={value}" for name, value in differing.items())])


def _differing(setting: Mapping[str, Any], settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    alike = [other for other in settings if other.get("method") == setting["method"]]
    return {name: value for name, value in setting.items() if any(other.get(name) != value for other in alike)}
