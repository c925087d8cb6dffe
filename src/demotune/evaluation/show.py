"""An evaluation, or a comparison of runs, on the screen."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from demotune.common.progress import console, minutes, say, warn
from demotune.evaluation.tasks.run import TaskScores
from demotune.runs.comparison import ComparisonTable
from demotune.runs.evaluation import interval_of
from demotune.runs.names import EVALUATED_ROWS, EVALUATION, TASK_ROWS
from demotune.runs.settings import CONTROL_OF

THE_JUDGE = "the reward itself"
SHOWN = ("p_corrected", "effect_size", "smallest_difference")


def show_evaluation(folder: Path, record: dict[str, Any], tasks: Mapping[str, TaskScores]) -> None:
    """Measures side by side, then differences with corrected p-values, then tasks, then what to beware of."""
    if record["measures"]:
        console.print(_measures(record))
    if record["comparisons"]:
        console.print(_comparisons(record))
    if tasks:
        console.print(_tasks(tasks))
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
    console.print(_quality(table))
    console.print(_cost(table))
    for own in table.differences:
        if own.baseline == CONTROL_OF + own.setting != table.baseline:
            by = own.found.difference.text(3)
            say(f"{own.measure}: {own.setting} less its own control {by}, corrected p = {own.p_text}")
    for note in table.notes:
        say(note, style="yellow")


def _quality(table: ComparisonTable) -> Table:
    title = f"on {table.rows}; 95% intervals; p corrected (Holm)"
    shown = Table(title=title, title_justify="left", box=box.SIMPLE)
    shown.add_column("")
    shown.add_column("runs", justify="right")
    for name, unit in table.units.items():
        shown.add_column(f"{name}, {unit}", justify="right")
        shown.add_column(f"less {table.baseline}", justify="right")
        shown.add_column("p", justify="right")
    shown.add_column("rank", justify="right")
    for line in table.lines:
        cells = [line.setting, str(len(line.runs) or "")]
        for name, interval in line.qualities.items():
            difference = next(
                (
                    found
                    for found in table.differences
                    if (found.measure, found.setting, found.baseline) == (name, line.setting, table.baseline)
                ),
                None,
            )
            cells.append(interval.text(3))
            cells.append(difference.found.difference.text(3) if difference else "")
            cells.append(difference.p_text if difference else "")
        shown.add_row(*cells, "" if line.rank is None else f"{line.rank:.1f}")
    return shown


def _cost(table: ComparisonTable) -> Table:
    shown = Table(title="cost of a run, mean over seeds", title_justify="left", box=box.SIMPLE)
    for heading in ("", "steps", "tokens trained", "tokens forward", "PFLOP", "time", "memory"):
        shown.add_column(heading, justify="right" if heading else "left")
    for line in table.lines:
        if line.cost is not None:
            cost = line.cost
            shown.add_row(
                line.setting,
                str(cost.steps),
                f"{cost.trained_tokens:,}",
                f"{cost.forward_tokens:,}",
                f"{cost.flops / 1e15:.3g}",
                minutes(cost.seconds),
                f"{cost.peak_memory_gib:.1f} G",
            )
    return shown


def _measures(record: dict[str, Any]) -> Table:
    columns = [model["name"] for model in record["models"]]
    if any(row["model"] is None for row in record["measures"]):
        columns.append(THE_JUDGE)
    lines: dict[str, dict[str, str]] = {}
    for row in record["measures"]:
        by = f" by {row['judge']}" if row["judge"] else ""
        line = lines.setdefault(f"{row['measure']}{by}, {row['unit']}", {})
        line[row["model"] or THE_JUDGE] = _number(row)
    return _table(f"{record['data']['rows']} rows, 95% intervals over prompts", columns, lines)


def _tasks(tasks: Mapping[str, TaskScores]) -> Table:
    lines: dict[str, dict[str, str]] = {}
    for name, scores in tasks.items():
        for result in scores.headline:
            error = "" if result.stderr is None else f" ± {result.stderr:.3f}"
            shots = "" if result.few_shots is None else f", {result.few_shots} shots"
            lines.setdefault(f"{result.task}, {result.metric}{shots}", {})[name] = f"{result.value:.3f}{error}"
        if scores.average is not None:
            lines.setdefault("average", {})[name] = f"{scores.average:.3f}"
    return _table("benchmark tasks, with standard errors", list(tasks), lines)


def _table(title: str, columns: Sequence[str], lines: Mapping[str, Mapping[str, str]]) -> Table:
    """A line for each name, with the cells that it has."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")
    for what, line in lines.items():
        table.add_row(what, *(line.get(name, "") for name in columns))
    return table


def _comparisons(record: dict[str, Any]) -> Table:
    title = "differences on the same prompts; p corrected for all of them (Holm)"
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    for heading in ("", "against", "difference", "p", "effect", "least seen"):
        table.add_column(heading, justify="left" if heading in ("", "against") else "right")
    for row in record["comparisons"]:
        by = f" by {row['judge']}" if row["judge"] else ""
        table.add_row(
            f"{row['measure']}{by}",
            row["baseline"],
            _number(row | {"value": row["difference"]}),
            *("-" if row[name] is None else f"{row[name]:.2g}" for name in SHOWN),
        )
    return table


def _number(row: dict[str, Any]) -> str:
    found = interval_of(row["value"], row["low"], row["high"])
    return "-" if found is None else found.text(3)
