"""Tables as text; those of evaluations and of refused rows."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from demotune.report.wording import NOTHING, bounds, duration, memory, number, share
from demotune.runs.evaluation import Comparison, Evaluation, Measure
from demotune.runs.run import Run

MOST_REFUSED = 1000


@dataclass(frozen=True, slots=True)
class Table:
    """Headings and cells as text; `numeric` says which columns are aligned right."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]
    note: str = ""


def table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    note: str = "",
    texts: int = 1,
    words: Sequence[str] = (),
) -> Table:
    """A table whose first `texts` columns, and those headed by one of `words`, hold text; the others hold numbers."""
    numeric = tuple(at >= texts and heading not in words for at, heading in enumerate(headings))
    return Table(tuple(headings), tuple(tuple(row) for row in rows), numeric, note)


def measures_table(evaluation: Evaluation) -> Table:
    """All measures, model by model."""
    rows = [
        (
            _by_judge(one),
            one.model or NOTHING,
            number(one.value),
            bounds(one.interval),
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
            _by_judge(one),
            f"{one.model} − {one.baseline}" if not one.is_win_rate else f"{one.model} over {one.baseline}",
            share(one.difference) if one.is_win_rate else number(one.difference, signed=True),
            bounds(one.interval, signed=not one.is_win_rate, percent=one.is_win_rate),
            number(one.p),
            number(one.p_corrected),
            number(one.effect_size, signed=True),
            share(one.smallest_difference) if one.is_win_rate else number(one.smallest_difference),
            str(one.items),
            one.test,
        )
        for one in evaluation.comparisons
    ]
    headings = ["measure", "models", "difference", "95% interval", "p", "p corrected", "effect size", "detectable",
                "items", "test"]  # fmt: skip
    note = "Detectable: the smallest difference that the test would find four times in five."
    return table(headings, rows, texts=2, note=note)


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
    headings = ["model", "role", "wall-clock time", "peak memory", "hash", "folder"]
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


def refused_counts(run: Run) -> Table:
    """How many rows were refused, by reason."""
    counts = Counter(row.reason for row in run.quarantine)
    return table(["reason", "rows"], [(reason, f"{count:,}") for reason, count in counts.most_common()])


def refused_rows(run: Run) -> Table:
    """Where the refused rows are from."""
    rows = [(row.source, row.reason, row.detail) for row in run.quarantine[:MOST_REFUSED]]
    left = len(run.quarantine) - len(rows)
    note = f"{left:,} more are in quarantine.jsonl of the run folder." if left else ""
    return table(["row", "reason", "detail"], rows, texts=3, note=note)


def _by_judge(one: Measure | Comparison) -> str:
    return one.measure + (f", by {one.judge}" if one.judge else "")


def _score(one: Mapping[str, Any] | None) -> str:
    if one is None:
        return NOTHING
    return number(one["value"]) + ("" if one["stderr"] is None else f" ± {number(1.96 * one['stderr'])}")
