"""The table that `compare` fills, its lines and differences, and comparison.json."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demotune.common.errors import DemotuneError
from demotune.common.json_records import read_record
from demotune.common.notebook import html_table
from demotune.common.statistics import Comparison, Interval
from demotune.runs.costs import Cost
from demotune.runs.file_names import COMPARISON


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting less another one, in one quantity; `p_corrected` by Holm's method over the whole table.

    Every setting is compared with its own control, the baseline and the start model, where they are in the table.
    """

    measure: str
    setting: str
    baseline: str
    found: Comparison
    p_corrected: float

    @property
    def p_text(self) -> str:
        return "-" if math.isnan(self.p_corrected) else f"{self.p_corrected:.2g}"


@dataclass(frozen=True, slots=True)
class Line:
    """A setting in the table; costs are means over its runs, None for the start model."""

    setting: str
    method: str | None
    """None for the start model."""
    fields: dict[str, Any]
    """In which the setting differs from others of its method."""
    control_of: str | None
    """The setting whose control this is."""
    runs: tuple[str, ...]
    seeds: tuple[int, ...]
    qualities: dict[str, Interval]
    rank: float | None
    """Mean rank over seeds by the first quality, 1 is best; None where settings have different seeds."""
    best_share: float | None
    cost: Cost | None


@dataclass(frozen=True, slots=True)
class ComparisonTable:
    """What `compare` found."""

    command: str
    versions: dict[str, str]
    """Of Python and of packages."""
    rows: str
    """What was measured on."""
    prompts: int
    units: dict[str, str]
    baseline: str
    lines: tuple[Line, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]

    def _repr_html_(self) -> str:
        """A small table, for notebooks: each setting with its quantities, and their differences from the baseline."""
        measured = [
            head for name, unit in self.units.items() for head in (f"{name}, {unit}", f"minus {self.baseline}", "p")
        ]
        heads = ("", "runs", *measured, "mean rank")
        rows = [self.quality_cells(line) for line in self.lines]
        return html_table(f"compared on {self.rows}, 95% intervals, p corrected (Holm)", heads, rows)

    def quality_cells(self, line: Line) -> list[str]:
        """Name and runs of a setting; each quantity, its difference from the baseline, corrected p; the mean rank."""
        cells = [cell for measure in line.qualities for cell in self.cells_of(line, measure)]
        return [line.setting, str(len(line.runs) or ""), *cells, "" if line.rank is None else f"{line.rank:.1f}"]

    def cells_of(self, line: Line, measure: str) -> tuple[str, str, str]:
        """A quantity of a setting, its difference from the baseline and the corrected p; empty where not compared."""
        key = (measure, line.setting, self.baseline)
        against = [one for one in self.differences if (one.measure, one.setting, one.baseline) == key]
        less, p = (against[0].found.difference.text(3), against[0].p_text) if against else ("", "")
        return line.qualities[measure].text(3), less, p


def read_comparison(folder: Path) -> ComparisonTable:
    """What `demotune compare --output FOLDER` wrote. Raises DemotuneError where it did not."""
    file = folder / COMPARISON
    if not file.exists():
        raise DemotuneError(f"{folder} has no {COMPARISON}; name a folder that demotune compare --output wrote")
    return read_record(ComparisonTable, file)
