"""Tables of a report: evaluations, configs, provenance, refused rows."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from demotune.config.field import field_help
from demotune.config.methods import CONFIGS, AnyConfig, Method
from demotune.report.charts.figures import Table, table
from demotune.report.collect import Run
from demotune.report.evaluations import Comparison, Evaluation
from demotune.report.wording import NOTHING, duration, interval, memory, number, share, share_interval

MOST_REFUSED = 1000
REQUIRED = ("model", "data", "output")
"""Fields that every run must be given: they are shown first."""


def measures_table(evaluation: Evaluation) -> Table:
    """All measures, model by model."""
    rows = [
        (
            one.measure + (f", by {one.judge}" if one.judge else ""),
            one.model or NOTHING,
            number(one.value),
            interval(one.low, one.high),
            str(one.items),
            one.unit,
            {True: "higher", False: "lower", None: NOTHING}[one.higher_is_better],
        )
        for one in evaluation.measures
    ]
    headings = ["measure", "model", "value", "95% interval", "items", "unit", "better"]
    return table(headings, rows, texts=2, words=("unit", "better"))


def comparisons_table(evaluation: Evaluation) -> Table:
    """All comparisons; a win rate in percent."""
    rows = [
        (
            one.measure + (f", by {one.judge}" if one.judge else ""),
            f"{one.model} − {one.baseline}" if not one.is_win_rate else f"{one.model} over {one.baseline}",
            share(one.difference) if one.is_win_rate else number(one.difference, signed=True),
            _ends(one),
            number(one.p),
            number(one.p_corrected),
            number(one.effect_size, signed=True),
            share(one.smallest_difference) if one.is_win_rate else number(one.smallest_difference),
            str(one.items),
            one.test,
        )
        for one in evaluation.comparisons
    ]
    headings = ["measure", "models", "difference", "95% interval", "p", "p corrected", "effect size", "visible from",
                "items", "test"]  # fmt: skip
    return table(
        headings,
        rows,
        texts=2,
        note="Visible from: the smallest difference that the test would see four times in five.",
    )


def models_table(evaluation: Evaluation) -> Table:
    """What was compared, and what that cost."""
    rows = [
        (
            one["name"],
            one.get("role", NOTHING),
            duration(one["seconds"]) if one.get("seconds") is not None else NOTHING,
            memory(one["peak_memory_gib"]) if one.get("peak_memory_gib") is not None else NOTHING,
            str(one.get("hash") or NOTHING)[:12],
            str(one.get("folder") or NOTHING),
        )
        for one in evaluation.about.get("models", ())
    ]
    headings = ["model", "role", "time", "peak memory", "hash", "folder"]
    return table(headings, rows, texts=2, words=("hash", "folder"))


def task_table(evaluation: Evaluation, part: Literal["headline", "results"]) -> Table:
    """Task scores, a column a model, with 95% normal intervals from the harness's standard errors.

    `headline` has the metric that counts of each task and their average; `results` all metrics of all tasks.
    """
    models: Mapping[str, Any] = evaluation.tasks["models"]
    found = {(one["task"], one["metric"], name): one for name, of_model in models.items() for one in of_model[part]}
    rows = []
    for task, metric in dict.fromkeys((task, metric) for task, metric, _ in found):
        of_models = [found.get((task, metric, name)) for name in models]
        first = next(one for one in of_models if one)
        shots = NOTHING if first["few_shots"] is None else str(first["few_shots"])
        rows.append((task, metric, *map(_score, of_models), shots, f"{first['items']:,}"))
    averages = [of_model["average"] for of_model in models.values()]
    if part == "headline" and any(average is not None for average in averages):
        rows.append(("average of the preset's tasks", "", *map(number, averages), "", ""))
    return table(["task", "metric", *models, "few-shots", "items"], rows, texts=2)


def changed_settings(runs: Sequence[Run]) -> Table:
    """Settings of any run that differ from the default, or between the runs."""
    names = list(dict.fromkeys(name for run in runs for name in run.config))
    helps = _help(runs)
    rows = []
    for name in sorted(names, key=lambda name: name not in REQUIRED):
        values = [_text(run.config.get(name, NOTHING)) for run in runs]
        defaults = [_text(_defaults(run).get(name, NOTHING)) for run in runs]
        if name == "method" or values != defaults or len(set(values)) > 1:
            rows.append((name, *values, NOTHING if name in REQUIRED else defaults[0], helps.get(name, "")))
    return _settings_table(runs, rows)


def all_settings(runs: Sequence[Run]) -> Table:
    """Every setting of every run."""
    names = list(dict.fromkeys(name for run in runs for name in run.config))
    helps = _help(runs)
    rows = [
        (
            name,
            *(_text(run.config.get(name, NOTHING)) for run in runs),
            _text(_defaults(runs[0]).get(name, NOTHING)),
            helps.get(name, ""),
        )
        for name in names
    ]
    return _settings_table(runs, rows)


def provenance(runs: Sequence[Run]) -> Table:
    """What it takes to run this again: command, hardware, versions, content hashes."""
    parts: list[tuple[str, list[str]]] = [
        ("started", [_text(run.manifest.created) for run in runs]),
        ("command", [_text(run.manifest.command) for run in runs]),
        ("folder", [str(run.folder) for run in runs]),
        ("start model, sha256", [_text(run.manifest.model) for run in runs]),
        ("result, sha256", [run.result.model_hash or NOTHING for run in runs]),
        ("parameters", [_count(run.manifest.parameters) for run in runs]),
        ("rows, sha256", [_text(run.manifest.rows) for run in runs]),
    ]
    for part, prefix in (("data", "data "), ("hardware", ""), ("versions", "")):
        told = [getattr(run.manifest, part) for run in runs]
        names = dict.fromkeys(name for of_run in told for name in of_run)
        parts += [(prefix + name, [_text(of_run.get(name, NOTHING)) for of_run in told]) for name in names]
    return table(["", *(run.name for run in runs)], [(name, *values) for name, values in parts], texts=len(runs) + 1)


def refused_counts(run: Run) -> Table:
    """How many rows were refused, by reason."""
    counts = Counter(row.reason for row in run.quarantine)
    return table(["reason", "rows"], [(reason, f"{count:,}") for reason, count in counts.most_common()])


def refused_rows(run: Run) -> Table:
    """Where the refused rows stood."""
    rows = [(row.source, row.reason, row.detail) for row in run.quarantine[:MOST_REFUSED]]
    left = len(run.quarantine) - len(rows)
    note = f"{left:,} more stand in quarantine.jsonl of the run folder." if left else ""
    return table(["row", "reason", "detail"], rows, texts=3, note=note)


def _score(one: Mapping[str, Any] | None) -> str:
    if one is None:
        return NOTHING
    return number(one["value"]) + ("" if one["stderr"] is None else f" ± {number(1.96 * one['stderr'])}")


def _ends(one: Comparison) -> str:
    return share_interval(one.low, one.high) if one.is_win_rate else interval(one.low, one.high, signed=True)


def _settings_table(runs: Sequence[Run], rows: Sequence[Sequence[str]]) -> Table:
    """The last cell of a row is the setting's meaning, for which there is room beside one run only."""
    if len(runs) == 1:
        return table(["setting", "value", "default", "meaning"], rows, texts=4)
    names = [run.name for run in runs]
    return table(["setting", *names, "default"], [row[:-1] for row in rows], texts=len(names) + 2)


def _defaults(run: Run) -> Mapping[str, Any]:
    config_class = _config_class(run)
    if config_class is None:
        return {}
    return {"method": run.method} | {
        field.name: field.default
        for field in dataclasses.fields(config_class)
        if field.default is not dataclasses.MISSING
    }


def _help(runs: Sequence[Run]) -> Mapping[str, str]:
    classes = [found for run in runs if (found := _config_class(run))]
    return {name: text for one in classes for name, text in field_help(one).items()}


def _config_class(run: Run) -> type[AnyConfig] | None:
    """None for a method that this version does not know."""
    names: dict[str, Method] = {name: name for name in CONFIGS}
    return CONFIGS[names[run.method]] if run.method in names else None


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "none"
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return str(value)


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else NOTHING
