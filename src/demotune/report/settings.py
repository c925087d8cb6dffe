"""Tables of what the runs were: settings, and what it takes to run them again."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, cast

from demotune.config.field import field_help, field_types
from demotune.config.methods import CONFIGS, Method, RunConfig
from demotune.report.tables import Table, table
from demotune.report.wording import NOTHING
from demotune.runs.run import Run

REQUIRED = ("model", "data", "output")
"""Fields that every run must be given: they are shown first."""


def changed_settings(runs: Sequence[Run]) -> Table:
    """Settings of any run that differ from their default, or between the runs."""
    defaults = [_defaults(run) for run in runs]

    def changed(name: str) -> bool:
        values = [_text(run.config.get(name, NOTHING)) for run in runs]
        return name == "method" or values != [_text(one.get(name, NOTHING)) for one in defaults] or len(set(values)) > 1

    names = sorted(_names(runs), key=lambda name: name not in REQUIRED)
    return _settings(runs, [name for name in names if changed(name)])


def all_settings(runs: Sequence[Run]) -> Table:
    """Every setting of every run."""
    return _settings(runs, _names(runs))


def provenance(runs: Sequence[Run]) -> Table:
    """What it takes to run this again: command, hardware, versions, content hashes."""
    parts: list[tuple[str, list[Any]]] = [
        ("started", [run.manifest.created for run in runs]),
        ("command", [run.manifest.command for run in runs]),
        ("folder", [run.folder for run in runs]),
        ("start model, sha256", [run.manifest.model for run in runs]),
        ("result, sha256", [run.result.model_hash or NOTHING for run in runs]),
        ("parameters", [f"{run.manifest.parameters:,}" for run in runs]),
        ("rows, sha256", [run.manifest.rows for run in runs]),
    ]
    for part, prefix in (("data", "data "), ("hardware", ""), ("versions", "")):
        of_runs = [getattr(run.manifest, part) for run in runs]
        names = dict.fromkeys(name for one in of_runs for name in one)
        parts += [(prefix + name, [one.get(name, NOTHING) for one in of_runs]) for name in names]
    rows = [(name, *map(_text, values)) for name, values in parts]
    return table(["", *(run.name for run in runs)], rows, texts=len(runs) + 1)


def own_fields(method: str) -> list[str]:
    """Fields of a method's config that not every method has."""
    shared = field_types(RunConfig)
    return [name for name in field_types(CONFIGS[cast(Method, method)]) if name not in shared]


def _settings(runs: Sequence[Run], names: Sequence[str]) -> Table:
    """One line a setting; its meaning is shown for a single run only: several leave no space for it."""
    defaults = _defaults(runs[0])
    helps = {name: text for run in runs for name, text in field_help(CONFIGS[cast(Method, run.method)]).items()}
    rows = [
        (
            name,
            *(_text(run.config.get(name, NOTHING)) for run in runs),
            NOTHING if name in REQUIRED else _text(defaults.get(name, NOTHING)),
            *([helps.get(name, "")] if len(runs) == 1 else []),
        )
        for name in names
    ]
    values = ["value"] if len(runs) == 1 else [run.name for run in runs]
    headings = ["setting", *values, "default", *(["meaning"] if len(runs) == 1 else [])]
    return table(headings, rows, texts=len(headings))


def _names(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(name for run in runs for name in run.config))


def _defaults(run: Run) -> Mapping[str, Any]:
    fields = dataclasses.fields(CONFIGS[cast(Method, run.method)])
    return {"method": run.method} | {one.name: one.default for one in fields if one.default is not dataclasses.MISSING}


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "none"
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return str(value)
