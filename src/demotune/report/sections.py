"""The sections of the page between the answer and the samples: which charts and tables, and what is missing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from demotune.common.amounts import plural
from demotune.report.charts.figures import Chart
from demotune.report.charts.heldout import cost_chart, heldout_chart, points_chart
from demotune.report.charts.judging import gap_charts, win_charts
from demotune.report.charts.stages import quantity_charts
from demotune.report.charts.training import curve_charts, timeline_charts
from demotune.report.comparison_text import PageComparison
from demotune.report.settings import all_settings, changed_settings, provenance
from demotune.report.tables import (
    Table,
    comparisons_table,
    measures_table,
    models_table,
    refused_counts,
    refused_rows,
    table,
    task_table,
)
from demotune.runs.evaluation import Evaluation
from demotune.runs.run import Run

EVALUATE = "demotune evaluate measures models on rows and writes a folder; give that folder to the report."


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a section: a paragraph, charts side by side, a table, or a table behind a line to click."""

    text: str = ""
    items: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()
    table: Table | None = None
    title: str = ""
    folded: bool = False
    one_at_a_time: bool = False
    """Whether a reader chooses which of the charts is shown."""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page; `key` is its anchor, `short` its name in the list of sections."""

    key: str
    short: str
    title: str
    parts: tuple[Part, ...]
    open: bool
    """Whether a wide screen shows it unfolded."""
    paper: bool
    """Whether it is printed: paper has the main parts only."""


def sections_of(
    runs: Sequence[Run], evaluations: Sequence[Evaluation], comparison: PageComparison | None
) -> list[Section]:
    """All of them, in the order of the page."""

    def section(
        key: str, short: str, title: str, parts: Iterator[Part], *, open: bool = True, paper: bool = True
    ) -> Section:
        return Section(key, short, title, tuple(parts), open, open and paper)

    return [
        section("stages", "Stages", "Stages and runs side by side", _side_by_side(runs)),
        section("curves", "Training", "Training, step by step", _curves(runs), paper=False),
        section("gaps", "Gaps", "Gaps on held-out pairs", _gaps(runs, evaluations), paper=False),
        section("wins", "Wins", "Win rates", _wins(runs, evaluations)),
        section("cost", "Cost", "Quality against cost", _cost(runs, comparison)),
        section("time", "Time", "Time and memory", iter([Part(charts=_grid(timeline_charts(runs)))]), open=False),
        section("evaluations", "Measures", "Measures and comparisons", _evaluations(evaluations)),
        section("config", "Config", "Configuration and provenance", _configuration(runs), open=False),
        section("data", "Data", "Rows that were refused", _refused(runs), open=False),
    ]


def _grid(charts: Sequence[Chart]) -> tuple[Chart, ...]:
    """Charts two in a row; a last one that would be alone gets the whole row."""
    narrow = [chart for chart in charts if not chart.wide]
    if len(narrow) % 2 and narrow[-1] is charts[-1]:
        return (*charts[:-1], replace(charts[-1], wide=True))
    return tuple(charts)


def _side_by_side(runs: Sequence[Run]) -> Iterator[Part]:
    heldout = heldout_chart(runs)
    yield Part(charts=(*([heldout] if heldout else []), *quantity_charts(runs)), one_at_a_time=True)
    if without := [run.name for run in runs if not run.start]:
        yield Part(f"{', '.join(without)}: no rows were held out. Set eval_share or eval_data next time.")


def _curves(runs: Sequence[Run]) -> Iterator[Part]:
    charts = curve_charts(runs)
    yield Part(charts=_grid(charts)) if charts else Part("No training step was recorded.")


def _gaps(runs: Sequence[Run], evaluations: Sequence[Evaluation]) -> Iterator[Part]:
    charts = gap_charts(runs, evaluations)
    yield Part(charts=_grid(charts)) if charts else Part("Without held-out rows there are no pairs to compare.")


def _wins(runs: Sequence[Run], evaluations: Sequence[Evaluation]) -> Iterator[Part]:
    charts = win_charts(runs, evaluations)
    yield Part(charts=_grid(charts)) if charts else Part("No stage measured shares of held-out prompts.")
    if not any(one.is_win_rate for evaluation in evaluations for one in evaluation.comparisons):
        yield Part(f"No evaluation with win rates was given. {EVALUATE}")


def _cost(runs: Sequence[Run], comparison: PageComparison | None) -> Iterator[Part]:
    charts = [chart] if (chart := cost_chart(runs)) else []
    charts += [points_chart(comparison.points)] if comparison and comparison.points else []
    yield Part(charts=_grid(charts)) if charts else Part("Without held-out rows there is no quality to compare.")
    if comparison:
        yield Part(items=comparison.sentences)
        yield Part(title="Compared over runs and seeds", table=table(comparison.columns, comparison.rows))


def _evaluations(evaluations: Sequence[Evaluation]) -> Iterator[Part]:
    if not evaluations:
        yield Part(f"No evaluation was given. {EVALUATE}")
    for one in evaluations:
        yield Part(title=one.name, text=_about(one))
        if one.comparisons:
            yield Part(title="Comparisons", table=comparisons_table(one))
        if one.measures:
            yield Part(title="Measures", table=measures_table(one))
        if one.tasks:
            yield Part(title="Tasks", text=_about_tasks(one), table=task_table(one, "headline"))
            yield Part(title="Tasks, all metrics", table=task_table(one, "results"), folded=True)
        if one.about.get("models"):
            yield Part(title="Models", table=models_table(one), folded=True)


def _about(one: Evaluation) -> str:
    data = one.about.get("data", {})
    parts = []
    if "rows" in data:
        parts.append(f"{plural(data['rows'], 'row')} of {data.get('kind', 'data')}.")
    if left := data.get("left_out"):
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


def _configuration(runs: Sequence[Run]) -> Iterator[Part]:
    yield Part(title="Settings that differ from their defaults", table=changed_settings(runs))
    yield Part(title="All settings", table=all_settings(runs), folded=True)
    yield Part(title="Provenance", table=provenance(runs), folded=True)


def _refused(runs: Sequence[Run]) -> Iterator[Part]:
    for run in runs:
        of_run = f"{run.name}: " if len(runs) > 1 else ""
        if run.quarantine:
            yield Part(title=f"{of_run}rows refused, by reason", table=refused_counts(run))
            yield Part(title=f"{of_run}each refused row", table=refused_rows(run), folded=True)
        else:
            yield Part(f"{of_run}No row was refused.")
