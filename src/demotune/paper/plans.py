"""The sweep behind artefacts: which trials they need, as a sweep file that `demotune sweep` takes, too."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from demotune.common.errors import DemotuneError
from demotune.common.files import publish_file
from demotune.config.field import fields_of
from demotune.config.methods import CONFIGS
from demotune.paper.sizes import START_SEED, Size
from demotune.sweep.plan import read_plan
from demotune.sweep.trials import Plan, Trial

SWEEP_FILE = "sweep.yaml"
FROM_START = {"method": "sft", "seed": START_SEED}

Entry = dict[str, Any]


def entries_of(kinds: Iterable[str], size: Size) -> list[Entry]:
    """The grids of a sweep file with these kinds of trials: start, sft, spin, irft, rft, stages (T), steps (K)."""
    found: list[Entry] = []
    if size.start is not None:
        found.append({"method": "sft", "seed": START_SEED, **size.start})
    for kind in dict.fromkeys(kinds):
        found += [entry | _begin(size) | {"seed": list(size.seeds)} for entry in _trials(kind, size)]
    return found


def _trials(kind: str, size: Size) -> list[Entry]:
    first = size.stages[0]
    known: dict[str, list[Entry]] = {
        "sft": [{"method": "sft", "num_train_epochs": size.sft_epochs}],
        "spin": [{"method": "spin"}],
        "irft": [{"method": "irft", "stages": first}],
        "rft": [{"method": "rft", "stages": size.rft_stages}],
        "stages": [{"method": "irft", "stages": stages} for stages in size.stages[1:]],
        "steps": [{"method": "irft", "stages": first, "steps_per_stage": steps} for steps in size.steps],
    }
    return known[kind]


def _begin(size: Size) -> Entry:
    return {} if size.start is None else {"start": FROM_START}


def plan_of(folder: Path, kinds: Iterable[str], size: Size, model: str, data: tuple[str, ...]) -> Plan:
    """The plan of these trials in `folder`, and its sweep file there."""
    common: Mapping[str, Any] = {"model": model, "data": list(data), **size.common}
    kinds = list(kinds)
    content = {"common": _taken(common, kinds), "grid": entries_of(kinds, size)}
    file = folder / SWEEP_FILE
    with publish_file(file) as unfinished:
        unfinished.write_text(
            json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )  # JSON is YAML
    return read_plan(file, folder)


def _taken(common: Mapping[str, Any], kinds: list[str]) -> dict[str, Any]:
    """Without the fields that no method of the sweep has, which a sweep refuses."""
    methods = {"sft", *("irft" if kind in ("stages", "steps") else kind for kind in kinds)}
    known = {name for method, config in CONFIGS.items() if method in methods for name in fields_of(config)}
    return {name: value for name, value in common.items() if name in known}


def trials_of(plan: Plan, kind: str, size: Size) -> list[list[Trial]]:
    """The trials of a kind, a list for each setting, in the order of the seeds. Raises DemotuneError for one that
    failed."""
    wanted = [_trial_fields(entry) for entry in _trials(kind, size)]
    found = []
    for fields in wanted:
        same = [trial for trial in plan.trials if trial.config.seed in size.seeds and _fits(trial, fields)]
        if missing := [trial.name for trial in same if trial.state != "finished"]:
            raise DemotuneError(
                f"{', '.join(missing)} is not finished; see its terminal in {plan.log(same[0]).parent}, and give the "
                "same command again"
            )
        found.append(sorted(same, key=lambda trial: trial.config.seed))
    return found


def _trial_fields(entry: Entry) -> Entry:
    # K by epochs is another setting than K by number.
    return {"steps_per_stage": None, **entry} if entry["method"] == "irft" else entry


def _fits(trial: Trial, fields: Entry) -> bool:
    return trial.config.method == fields["method"] and all(
        getattr(trial.config, name) == value for name, value in fields.items() if name != "method"
    )


def start_of(plan: Plan) -> Trial | None:
    """The SFT run that all others start from."""
    return next((trial for trial in plan.trials if trial.config.seed == START_SEED), None)
