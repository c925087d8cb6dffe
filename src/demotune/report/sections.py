"""The sections of the page between the answer and the samples: which charts and tables, and what is missing."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from demotune.report.charts.figures import Chart, Table, table
from demotune.report.charts.heldout import cost_chart, heldout_chart, points_chart
from demotune.report.charts.judging import gap_charts, win_charts
from demotune.report.charts.training import curve_charts, timeline_charts
from demotune.report.collect import Run
from demotune.report.evaluations import Evaluation
from demotune.report.tables import (
    all_settings,
    changed_settings,
    comparisons_table,
    measures_table,
    models_table,
    provenance,
    refused_counts,
    refused_rows,
    task_table,
)
from demotune.report.wording import plural

AGAIN = "Runs made by this version write it; an older run has to be made again."
EVALUATE = "demotune evaluate measures models on rows and writes a folder; give that folder to the report."


class RunComparison(Protocol):
    """Runs compared over seeds: a table as text, sentences, and (label, operations, seconds, quality, low, high)."""

    @property
    def columns(self) -> Sequence[str]: ...
    @property
    def rows(self) -> Sequence[Sequence[str]]: ...
    @property
    def sentences(self) -> Sequence[str]: ...
    @property
    def points(self) -> Sequence[tuple[str, float | None, float, float, float, float]]: ...


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a section: a paragraph, charts side by side, a table, or a table behind a line to click."""

    text: str = ""
    items: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()
    table: Table | None = None
    title: str = ""
    folded: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page; `key` is its anchor, `short` its name in the list of sections."""

    key: str
    short: str
    title: str
    parts: tuple[Part, ...]


def sections_of(
    runs: Sequence[Run], evaluations: Sequence[Evaluation], comparison: RunComparison | None
) -> list[Section]:
    """All of them, in the order of the page."""
    return [
        Section("curves", "Stages", "Stage by stage", _curve_parts(runs)),
        Section("gaps", "Gaps", "Gaps on held-out pairs", _gap_parts(runs, evaluations)),
        Section("wins", "Wins", "Win rates", _win_parts(runs, evaluations)),
        Section("cost", "Cost", "Quality against cost", _cost_parts(runs, comparison)),
        Section("time", "Time", "Time and memory", (Part(charts=_grid(timeline_charts(runs))),)),
        Section("evaluations", "Measures", "Measures and comparisons", _evaluation_parts(evaluations)),
        Section(
            "config",
            "Config",
            "Configuration and provenance",
            (
                Part(title="Settings that differ from their defaults", table=changed_settings(runs)),
                Part(title="All settings", table=all_settings(runs), folded=True),
                Part(title="Provenance", table=provenance(runs), folded=True),
            ),
        ),
        Section("data", "Data", "Rows that were refused", _refused_parts(runs)),
    ]


def _grid(charts: Sequence[Chart]) -> tuple[Chart, ...]:
    """Charts two in a row; a last one that would stand alone gets the whole row."""
    narrow = [chart for chart in charts if not chart.wide]
    if len(narrow) % 2 and narrow[-1] is charts[-1]:
        return (*charts[:-1], replace(charts[-1], wide=True))
    return tuple(charts)


def _curve_parts(runs: Sequence[Run]) -> tuple[Part, ...]:
    heldout = heldout_chart(runs)
    charts = ([heldout] if heldout else []) + curve_charts(runs)
    missing = [run.name for run in runs if run.start is None]
    without = [run.name for run in runs if run.heldout_count == 0]
    parts = [Part(charts=_grid(charts))]
    if without:
        parts.append(Part(f"{', '.join(without)}: no rows were held out. Set eval_share or eval_data next time."))
    if missing := [name for name in missing if name not in without]:
        parts.append(Part(f"{', '.join(missing)}: no numbers per held-out row, so no intervals. {AGAIN}"))
    return tuple(parts)


def _gap_parts(runs: Sequence[Run], evaluations: Sequence[Evaluation]) -> tuple[Part, ...]:
    charts = gap_charts(runs, evaluations)
    if not charts:
        return (Part(f"No file holds numbers per held-out pair. {AGAIN}"),)
    return (Part(charts=_grid(charts)),)


def _win_parts(runs: Sequence[Run], evaluations: Sequence[Evaluation]) -> tuple[Part, ...]:
    charts = win_charts(runs, evaluations)
    parts = [Part(charts=_grid(charts))] if charts else [Part("No stage measured shares of held-out prompts.")]
    if not any(one.is_win_rate for evaluation in evaluations for one in evaluation.comparisons):
        parts.append(Part(f"No evaluation with win rates was given. {EVALUATE}"))
    return tuple(parts)


def _cost_parts(runs: Sequence[Run], comparison: RunComparison | None) -> tuple[Part, ...]:
    parts = []
    chart = cost_chart(runs)
    charts = ([chart] if chart else []) + (
        [points_chart(comparison.points)] if comparison and comparison.points else []
    )
    if charts:
        parts.append(Part(charts=_grid(charts)))
    else:
        parts.append(Part("Without held-out rows there is no quality to set against the cost."))
    if comparison:
        cells = table(comparison.columns, comparison.rows)
        parts += [Part(items=tuple(comparison.sentences)), Part(title="Compared over runs and seeds", table=cells)]
    return tuple(parts)


def _evaluation_parts(evaluations: Sequence[Evaluation]) -> tuple[Part, ...]:
    if not evaluations:
        return (Part(f"No evaluation was given. {EVALUATE}"),)
    parts = []
    for one in evaluations:
        parts.append(Part(title=one.name, text=_about(one)))
        if one.comparisons:
            parts.append(Part(title="Comparisons", table=comparisons_table(one)))
        if one.measures:
            parts.append(Part(title="Measures", table=measures_table(one)))
        if one.tasks:
            parts.append(Part(title="Tasks", text=_about_tasks(one), table=task_table(one, "headline")))
            parts.append(Part(title="Tasks, all metrics", table=task_table(one, "results"), folded=True))
        if one.about.get("models"):
            parts.append(Part(title="Models", table=models_table(one), folded=True))
    return tuple(parts)


def _about(one: Evaluation) -> str:
    data = one.about.get("data", {})
    parts = []
    if "rows" in data:
        parts.append(f"{plural(data['rows'], 'row')} of {data.get('kind', 'data')}.")
    left = data.get("left_out") or {}
    if left:
        parts.append("Left out: " + ", ".join(f"{count} {reason}" for reason, count in left.items()) + ".")
    for judge in one.about.get("judges", ()):
        note = f": {judge['note']}" if judge.get("note") else ""
        parts.append(f"Judge {judge['name']} ({judge['kind']}){note}.")
    return " ".join(parts)


def _about_tasks(one: Evaluation) -> str:
    parts = [f"Scored by {one.tasks['harness']}. ± is half of a 95% interval."]
    for name, of_model in one.tasks["models"].items():
        if of_model["missing"]:
            parts.append(f"{name}: no rows for {', '.join(of_model['missing'])}.")
        parts += [f"{name}: {note}." for note in of_model["notes"]]
    return " ".join(dict.fromkeys(parts))


def _refused_parts(runs: Sequence[Run]) -> tuple[Part, ...]:
    parts = []
    for run in runs:
        of_run = f"{run.name}: " if len(runs) > 1 else ""
        if run.quarantine:
            parts.append(Part(title=f"{of_run}rows refused, by reason", table=refused_counts(run)))
            parts.append(Part(title=f"{of_run}each refused row", table=refused_rows(run), folded=True))
        else:
            parts.append(Part(f"{of_run}No row was refused."))
    return tuple(parts)
