"""A comparison of runs in the words of the page."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from demotune.common.amounts import flops
from demotune.common.statistics import Interval
from demotune.report.wording import duration, memory
from demotune.runs.comparison import ComparisonTable, Difference, Line


@dataclass(frozen=True, slots=True)
class CostPoint:
    """A setting's quality and what a run of it costs."""

    setting: str
    operations: float
    seconds: float
    quality: Interval


@dataclass(frozen=True, slots=True)
class PageComparison:
    """A table as text, sentences about it, and a point for each setting."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    sentences: tuple[str, ...]
    points: tuple[CostPoint, ...]


def comparison_of(table: ComparisonTable) -> PageComparison:
    """The table with a column for each quantity and its corrected p against the baseline, then cost."""
    columns = ["setting", "runs"]
    for name, unit in table.units.items():
        columns += [f"{name}, {unit} [95%]", f"minus {table.baseline} [95%]", "p, corrected"]
    columns += ["mean rank", "steps", "tokens trained", "operations", "wall-clock time", "peak memory"]
    first = next(iter(table.units))
    controls = {(line.control_of, line.setting) for line in table.lines if line.control_of}
    shown = [
        one for one in table.differences if one.baseline == table.baseline or (one.setting, one.baseline) in controls
    ]
    return PageComparison(
        columns=tuple(columns),
        rows=tuple((*table.quality_cells(line), *_cost(line)) for line in table.lines),
        sentences=(f"Compared on {table.rows}.", *map(_sentence, shown), *table.notes),
        points=tuple(
            CostPoint(line.setting, line.cost.flops, line.cost.seconds, line.qualities[first])
            for line in table.lines
            if line.cost is not None
        ),
    )


def _cost(line: Line) -> Sequence[str]:
    cost = line.cost
    if cost is None:
        return ["", "", "", "", ""]
    return [
        str(cost.steps),
        f"{cost.trained_tokens:,}",
        flops(cost.flops),
        duration(cost.seconds),
        memory(cost.peak_memory_gib),
    ]


def _sentence(found: Difference) -> str:
    """The difference, whether it is significant, and which difference would have been."""
    size = found.found.difference.text(3)
    if math.isnan(found.p_corrected):
        return f"{found.measure}: {found.setting} against {found.baseline}, {size}."
    differs = "differs from" if found.p_corrected < 0.05 else "does not differ significantly from"
    smallest, items = found.found.smallest, found.found.items
    power = "" if math.isnan(smallest) else f"{items} prompts would mostly have shown {smallest:.2g} or more; "
    return (
        f"{found.measure}: {found.setting} {differs} {found.baseline}, {size} "
        f"(corrected p = {found.p_text}; {power}{found.found.test})."
    )
