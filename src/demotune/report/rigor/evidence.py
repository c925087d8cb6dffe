"""What the rigor card looks for evidence in: the files of runs, evaluations and a comparison, each read once."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from demotune.common.json_records import read_record
from demotune.report.facts import Fact, Kind, facts_of
from demotune.report.limits import limits
from demotune.runs.comparison import ComparisonTable, Line
from demotune.runs.costs import Cost
from demotune.runs.evaluation import Evaluation, read_evaluation
from demotune.runs.run import Run, read_runs

NO_FILES = "no run and no evaluation was given"


@dataclass(frozen=True, slots=True)
class Finding:
    """Whether evidence was found; `text` points to it, or says what is missing."""

    found: bool
    text: str


def yes(text: str) -> Finding:
    """Evidence: file, field, and the value where it is short."""
    return Finding(True, text)


def no(text: str) -> Finding:
    """What is missing."""
    return Finding(False, text)


def every(parts: Iterable[Finding], missing: str) -> Finding:
    """Found where all parts are, and there is one at least; else the first part that is not, or `missing`."""
    found = list(parts)
    if not found:
        return no(missing)
    if lacking := [part for part in found if not part.found]:
        return lacking[0]
    return yes("; ".join(part.text for part in found))


@dataclass(frozen=True, slots=True)
class Difference:
    """One compared difference, from an evaluation or a comparison; None where a file holds no number."""

    file: str
    what: str
    value: float
    low: float | None
    high: float | None
    p: float | None
    p_corrected: float | None
    effect_size: float | None
    smallest: float | None
    harmful: bool
    """The model, or setting, is on the bad side of its baseline."""

    @property
    def has_spread(self) -> bool:
        """Whether there is anything to test: without spread all prompts agree to the last digit."""
        return self.low is None or self.low != self.high


@dataclass(frozen=True)
class ComparisonFile:
    """What `demotune compare --output` wrote."""

    name: str
    table: ComparisonTable

    @property
    def lines(self) -> tuple[Line, ...]:
        return self.table.lines

    @property
    def settings(self) -> list[tuple[Line, Cost]]:
        """Lines of the table but the start model's, which has no runs, with what a run cost."""
        return [(line, line.cost) for line in self.lines if line.cost is not None]


@dataclass(frozen=True)
class Evidence:
    """All files that the card was given."""

    runs: tuple[Run, ...]
    evaluations: tuple[Evaluation, ...]
    comparison: ComparisonFile | None

    @cached_property
    def differences(self) -> list[Difference]:
        """Every difference between models or settings that has a number."""
        found = [one for evaluation in self.evaluations for one in _differences_of_models(evaluation)]
        return found + (_differences_of_settings(self.comparison) if self.comparison else [])

    @cached_property
    def limits(self) -> list[Fact]:
        """The facts of the page's section on limits, made from these files."""
        return limits(self.runs, self.evaluations)

    def stated(self, kind: Kind, missing: str) -> Finding:
        """Whether the page's section on limits states a fact of this kind."""
        found = facts_of(kind, self.limits)
        return on_the_page(found[0]) if found else no(missing)


def on_the_page(fact: Fact) -> Finding:
    """A fact of the page's section on limits as evidence."""
    return yes(f"the page, What this does not show: {fact.text}")


def read_evidence(runs: Sequence[Path], evaluations: Sequence[Path], comparison: Path | None) -> Evidence:
    """Read the files. Raises DemotuneError for a folder that holds no run or no evaluation, and for a broken file."""
    return Evidence(
        runs=read_runs(list(runs)),
        evaluations=tuple(map(read_evaluation, evaluations)),
        comparison=None
        if comparison is None
        else ComparisonFile(comparison.name, read_record(ComparisonTable, comparison)),
    )


def file_of(evaluation: Evaluation) -> str:
    """evaluation.json as evidence names it."""
    return f"{evaluation.name}/evaluation.json"


def tasks_of(evaluation: Evaluation) -> set[str]:
    """Every task and subject that was scored."""
    return {result["task"] for model in evaluation.tasks.get("models", {}).values() for result in model["results"]}


def _differences_of_models(evaluation: Evaluation) -> list[Difference]:
    better = {one.measure: one.higher_is_better for one in evaluation.measures}
    found = []
    for one in evaluation.comparisons:
        if one.difference is None:
            continue
        value = one.difference - (0.5 if one.is_win_rate else 0.0)
        upward = True if one.is_win_rate else better.get(one.measure)
        found.append(
            Difference(
                file=f"{file_of(evaluation)}: comparisons",
                what=f"{one.measure}, {one.model} against {one.baseline}",
                value=value,
                low=one.low,
                high=one.high,
                p=one.p,
                p_corrected=one.p_corrected,
                effect_size=one.effect_size,
                smallest=one.smallest_difference,
                harmful=upward is not None and value != 0 and (value < 0) == upward,
            )
        )
    return found


def _differences_of_settings(comparison: ComparisonFile) -> list[Difference]:
    return [
        Difference(
            file=f"{comparison.name}: differences",
            what=f"{one.measure}, {one.setting} against {one.baseline}",
            value=one.found.difference.value,
            low=_known(one.found.difference.low),
            high=_known(one.found.difference.high),
            p=_known(one.found.p),
            p_corrected=_known(one.p_corrected),
            effect_size=_known(one.found.effect_size),
            smallest=_known(one.found.smallest),
            harmful=one.found.difference.value < 0,
        )
        for one in comparison.table.differences
    ]


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
