"""The table that `compare` fills, its lines and differences, and comparison.json."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from demotune.common.errors import DemotuneError
from demotune.common.files import read_json, write_json
from demotune.common.machine import command_line, package_versions
from demotune.common.statistics import Comparison, Interval
from demotune.runs.costs import Cost

COMPARISON = "comparison.json"


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting less another one, in one quantity; `p_corrected` by Holm's method over the whole table.

    Every setting is compared with its own control, the baseline and the start model, as far as they are there.
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

    rows: str
    """What was measured on."""
    prompts: int
    units: dict[str, str]
    baseline: str
    lines: tuple[Line, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]


def write_comparison(file: Path, table: ComparisonTable) -> None:
    """The table as JSON, with the command that made it; what cannot be told is null."""
    told = {"command": command_line(), "versions": package_versions(), **asdict(table)}
    write_json(file, _finite(told))


def read_comparison(folder: Path) -> ComparisonTable:
    """What `demotune compare --output FOLDER` wrote. Raises DemotuneError where it did not."""
    file = folder / COMPARISON
    if not file.exists():
        raise DemotuneError(f"{folder} has no {COMPARISON}; name a folder that demotune compare --output wrote")
    told = read_json(file)
    return ComparisonTable(
        rows=told["rows"],
        prompts=int(told["prompts"]),
        units=told["units"],
        baseline=told["baseline"],
        lines=tuple(_line(line) for line in told["lines"]),
        differences=tuple(_difference(row) for row in told["differences"]),
        notes=tuple(told["notes"]),
    )


def _line(told: dict[str, Any]) -> Line:
    return Line(
        setting=told["setting"],
        method=told["method"],
        fields=told["fields"],
        control_of=told["control_of"],
        runs=tuple(told["runs"]),
        seeds=tuple(told["seeds"]),
        qualities={name: Interval(**_numbers(quality)) for name, quality in told["qualities"].items()},
        rank=told["rank"],
        best_share=told["best_share"],
        cost=None if told["cost"] is None else Cost(**told["cost"]),
    )


def _difference(told: dict[str, Any]) -> Difference:
    found = _numbers(told["found"])
    return Difference(
        measure=told["measure"],
        setting=told["setting"],
        baseline=told["baseline"],
        found=Comparison(**found | {"difference": Interval(**_numbers(found["difference"]))}),
        p_corrected=_numbers(told)["p_corrected"],
    )


def _numbers(told: dict[str, Any]) -> dict[str, Any]:
    """JSON has no nan: what could not be told was written as null."""
    return {name: math.nan if value is None else value for name, value in told.items()}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
