"""An evaluation, or a comparison of runs, on the screen."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from demotune.common.amounts import flops
from demotune.common.progress import minutes, say, show_table, warn
from demotune.evaluation.tasks.records import TaskScores
from demotune.runs.comparison import ComparisonTable
from demotune.runs.evaluation import interval_of
from demotune.runs.file_names import EVALUATED_ROWS, EVALUATION, TASK_ROWS
from demotune.runs.settings import CONTROL_OF

THE_JUDGE = "the reward itself"
SHOWN = ("p_corrected", "effect_size", "smallest_difference")


def show_evaluation(folder: Path, record: dict[str, Any], tasks: Mapping[str, TaskScores]) -> None:
    """Measures side by side, then differences with corrected p-values, then tasks, then what to beware of."""
    if record["measures"]:
        _show_measures(record)
    if record["comparisons"]:
        _show_comparisons(record)
    if tasks:
        _show_tasks(tasks)
    for leak in record["leaks"]:
        if leak["searched"] and leak["leaked"]:
            kinds = ", ".join(f"{kind} {count}" for kind, count in leak["counts"].items())
            warn(
                f"{leak['leaked']} of {leak['test_rows']} rows of {leak['test']} are like training rows of "
                f"{leak['model']} ({kinds}); {folder / EVALUATION} names them"
            )
    for warning in record["warnings"]:
        say(warning, style="yellow")
    details = [*([EVALUATED_ROWS] if record["measures"] else []), *([TASK_ROWS] if tasks else [])]
    say(f"results in {folder}: {EVALUATION}, and item by item {' and '.join(details)}")


def show_comparison(table: ComparisonTable) -> None:
    """Quality, differences and cost of every setting, in the order given."""
    _show_quality(table)
    _show_cost(table)
    for own in table.differences:
        if own.baseline == CONTROL_OF + own.setting != table.baseline:
            by = own.found.difference.text(3)
            say(f"{own.measure}: {own.setting} less its own control {by}, corrected p = {own.p_text}")
    for note in table.notes:
        say(note, style="yellow")


def _show_quality(table: ComparisonTable) -> None:
    """A table for each quantity, so that no cell is cut off; the first one ranks the settings."""
    for number, (name, unit) in enumerate(table.units.items()):
        rows = []
        for line in table.lines:
            rank = "" if line.rank is None or number else f"{line.rank:.1f}"
            rows.append((line.setting, str(len(line.runs) or ""), *table.cells_of(line, name), rank))
        title = f"{name}, {unit}, on {table.rows}; 95% intervals; p corrected (Holm)"
        show_table(title, ("", "runs", name, f"minus {table.baseline}", "p", "" if number else "mean rank"), rows)


def _show_cost(table: ComparisonTable) -> None:
    rows = [
        (
            line.setting,
            str(line.cost.steps),
            f"{line.cost.trained_tokens:,}",
            f"{line.cost.forward_tokens:,}",
            flops(line.cost.flops),
            minutes(line.cost.seconds),
            f"{line.cost.peak_memory_gib:.1f} GiB",
        )
        for line in table.lines
        if line.cost is not None
    ]
    headings = ("", "steps", "tokens trained", "tokens forward", "operations", "time", "memory")
    show_table("cost of a run, mean over seeds", headings, rows)


def _show_measures(record: dict[str, Any]) -> None:
    columns = [model["name"] for model in record["models"]]
    if any(row["model"] is None for row in record["measures"]):
        columns.append(THE_JUDGE)
    lines: dict[str, dict[str, str]] = {}
    for row in record["measures"]:
        by = f" by {row['judge']}" if row["judge"] else ""
        line = lines.setdefault(f"{row['measure']}{by}, {row['unit']}", {})
        line[row["model"] or THE_JUDGE] = _number(row)
    _show_side_by_side(f"{record['data']['rows']} rows, 95% intervals over prompts", columns, lines)


def _show_tasks(tasks: Mapping[str, TaskScores]) -> None:
    lines: dict[str, dict[str, str]] = {}
    for name, scores in tasks.items():
        for result in scores.headline:
            error = "" if result.stderr is None else f" ± {result.stderr:.3f}"
            shots = "" if result.few_shots is None else f", {result.few_shots} shots"
            lines.setdefault(f"{result.task}, {result.metric}{shots}", {})[name] = f"{result.value:.3f}{error}"
        if scores.average is not None:
            lines.setdefault("average", {})[name] = f"{scores.average:.3f}"
    _show_side_by_side("benchmark tasks, with standard errors", list(tasks), lines)


def _show_side_by_side(title: str, columns: Sequence[str], lines: Mapping[str, Mapping[str, str]]) -> None:
    """A line for each name, with the cells that it has."""
    rows = [(what, *(line.get(name, "") for name in columns)) for what, line in lines.items()]
    show_table(title, ["", *columns], rows)


def _show_comparisons(record: dict[str, Any]) -> None:
    rows = [
        (
            row["measure"] + (f" by {row['judge']}" if row["judge"] else ""),
            row["baseline"],
            _number(row | {"value": row["difference"]}),
            *("-" if row[name] is None else f"{row[name]:.2g}" for name in SHOWN),
        )
        for row in record["comparisons"]
    ]
    title = "differences on the same prompts; p corrected for all of them (Holm)"
    show_table(title, ("", "against", "difference", "p", "effect", "least seen"), rows, texts=2)


def _number(row: dict[str, Any]) -> str:
    found = interval_of(row["value"], row["low"], row["high"])
    return "-" if found is None else found.text(3)
