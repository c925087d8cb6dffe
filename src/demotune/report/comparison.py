"""A comparison of runs in the words of the page."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from demotune.common.progress import minutes
from demotune.common.statistics import Comparison
from demotune.runs.comparison import ComparisonTable, Difference, Line
from demotune.runs.settings import CONTROL_OF


@dataclass(frozen=True, slots=True)
class PageComparison:
    """A table as text, sentences about it, and (label, operations, seconds, quality, low, high) of each setting."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    sentences: tuple[str, ...]
    points: tuple[tuple[str, float | None, float, float, float, float], ...]


def comparison_of(table: ComparisonTable) -> PageComparison:
    """The table with a column for each quantity and its corrected p against the baseline, then cost."""
    columns = ["setting", "runs"]
    for name, unit in table.units.items():
        columns += [f"{name}, {unit} [95%]", f"less {table.baseline} [95%]", "p, corrected"]
    columns += ["mean rank", "steps", "tokens trained", "PFLOP", "time", "peak memory"]
    first = next(iter(table.units))
    return PageComparison(
        columns=tuple(columns),
        rows=tuple(_cells(line, table) for line in table.lines),
        sentences=(
            f"Compared on {table.rows}.",
            *(
                _sentence(found)
                for found in table.differences
                if found.baseline in (table.baseline, CONTROL_OF + found.setting)
            ),
            *table.notes,
        ),
        points=tuple(_point(line, first) for line in table.lines if line.cost is not None),
    )


def _cells(line: Line, table: ComparisonTable) -> tuple[str, ...]:
    cells = [line.setting, str(len(line.runs) or "")]
    for name, interval in line.qualities.items():
        found = _against_baseline(table, line.setting, name)
        cells += [interval.text(3), found.found.difference.text(3) if found else ""]
        cells.append(found.p_text if found else "")
    cells.append("" if line.rank is None else f"{line.rank:.1f}")
    return (*cells, *_cost(line))


def _cost(line: Line) -> Sequence[str]:
    cost = line.cost
    if cost is None:
        return ["", "", "", "", ""]
    return [
        str(cost.steps),
        "-" if cost.trained_tokens is None else f"{cost.trained_tokens:,}",
        "-" if cost.flops is None else f"{cost.flops / 1e15:.3g}",
        minutes(cost.seconds),
        f"{cost.peak_memory_gib:.1f} GiB",
    ]


def _against_baseline(table: ComparisonTable, setting: str, measure: str) -> Difference | None:
    wanted = (measure, setting, table.baseline)
    return next(
        (found for found in table.differences if (found.measure, found.setting, found.baseline) == wanted), None
    )


def _sentence(found: Difference) -> str:
    """What a difference says, and what it could have said."""
    if math.isnan(found.p_corrected):
        return f"{found.measure}: {found.setting} against {found.baseline}, {found.found.difference.text(3)}."
    told = "differs from" if found.p_corrected < 0.05 else "does not differ significantly from"
    return (
        f"{found.measure}: {found.setting} {told} {found.baseline}, {found.found.difference.text(3)} "
        f"(corrected p = {found.p_text}; {_power(found.found)}{found.found.test})."
    )


def _power(found: Comparison) -> str:
    """Without spread nobody can say what would have been seen."""
    seen = f"{found.items} prompts would mostly have shown {found.smallest:.2g} or more; "
    return "" if math.isnan(found.smallest) else seen


def _point(line: Line, measure: str) -> tuple[str, float | None, float, float, float, float]:
    quality, cost = line.qualities[measure], line.cost
    seconds = 0.0 if cost is None else cost.seconds
    return line.setting, None if cost is None else cost.flops, seconds, quality.value, quality.low, quality.high
