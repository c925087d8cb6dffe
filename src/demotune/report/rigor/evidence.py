"""What the rigor card looks for evidence in: the files of runs, evaluations and a comparison, each read once."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from demotune.common.files import read_json, read_rows
from demotune.common.statistics import Interval
from demotune.report.collect import Run, read_runs
from demotune.report.evaluations import Evaluation, read_evaluation
from demotune.report.limits import limits
from demotune.runs.names import SHORTCUTS
from demotune.runs.shortcuts import StageShortcuts, read_shortcuts

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
    value: float | None
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
class EvaluationFiles:
    """An evaluation folder."""

    folder: Path
    told: Evaluation

    @property
    def name(self) -> str:
        return self.told.name

    @property
    def file(self) -> str:
        """evaluation.json as evidence names it."""
        return f"{self.name}/evaluation.json"

    @property
    def about(self) -> Mapping[str, Any]:
        return self.told.about

    @cached_property
    def raw_rows(self) -> list[dict[str, Any]]:
        """rows.jsonl.gz as it is; empty without one."""
        file = self.folder / "rows.jsonl.gz"
        return read_rows(file) if file.exists() else []

    @property
    def task_names(self) -> set[str]:
        """Every task and subject that was scored."""
        models = self.told.tasks.get("models", {}).values()
        return {result["task"] for model in models for result in model["results"]}

    @property
    def differences(self) -> list[Difference]:
        better = {one.measure: one.higher_is_better for one in self.told.measures}
        found = []
        for one in self.told.comparisons:
            value = None if one.difference is None else one.difference - (0.5 if one.is_win_rate else 0.0)
            upward = True if one.is_win_rate else better.get(one.measure)
            found.append(
                Difference(
                    file=f"{self.file}: comparisons",
                    what=f"{one.measure}, {one.model} against {one.baseline}",
                    value=value,
                    low=one.low,
                    high=one.high,
                    p=one.p,
                    p_corrected=one.p_corrected,
                    effect_size=one.effect_size,
                    smallest=one.smallest_difference,
                    harmful=value is not None and upward is not None and (value < 0) == upward and value != 0,
                )
            )
        return found


@dataclass(frozen=True)
class ComparisonFile:
    """What `demotune compare --output` wrote."""

    name: str
    record: Mapping[str, Any]

    @property
    def settings(self) -> list[Mapping[str, Any]]:
        """Lines of the table but the start model's, which has no runs."""
        return [line for line in self.record["lines"] if line["runs"]]

    @property
    def has_start(self) -> bool:
        return any(not line["runs"] for line in self.record["lines"])

    @property
    def on_heldout_rows(self) -> bool:
        """Whether it compares on the rows that the runs held out, not on test rows of their own."""
        return "held-out rows of the runs" in str(self.record["rows"])

    @property
    def differences(self) -> list[Difference]:
        found = []
        for row in self.record["differences"]:
            told = row["found"]
            value = told["difference"]["value"]
            found.append(
                Difference(
                    file=f"{self.name}: differences",
                    what=f"{row['measure']}, {row['setting']} against {row['baseline']}",
                    value=value,
                    low=told["difference"]["low"],
                    high=told["difference"]["high"],
                    p=told["p"],
                    p_corrected=row["p_corrected"],
                    effect_size=told["effect_size"],
                    smallest=told["smallest"],
                    harmful=value is not None and value < 0,
                )
            )
        return found


def method_of(line: Mapping[str, Any]) -> str:
    """The method of a comparison's line: its label begins with it, that of a control too."""
    return str(line["setting"]).split(" ", 1)[0].rstrip(",")


@dataclass(frozen=True, slots=True)
class StageAudit:
    """How well surfaces alone tell demonstrations from samples in one stage."""

    run: str
    stage: int
    shortcut: str
    """The best one."""
    accuracy: Interval
    verdict: str | None
    """Of the learned reward against it; None where the stage kept no rewards."""

    @property
    def text(self) -> str:
        of_reward = f"; the reward is {self.verdict}" if self.verdict else ""
        return f"{self.run} stage {self.stage}: best shortcut {self.shortcut} {self.accuracy.text()}{of_reward}"


@dataclass(frozen=True)
class Evidence:
    """All files that the card was given."""

    runs: tuple[Run, ...]
    evaluations: tuple[EvaluationFiles, ...]
    comparison: ComparisonFile | None

    @property
    def differences(self) -> list[Difference]:
        """Every difference between models or settings that has a number."""
        found = [one for evaluation in self.evaluations for one in evaluation.differences]
        found += self.comparison.differences if self.comparison else []
        return [one for one in found if one.value is not None]

    @cached_property
    def limits(self) -> list[str]:
        """The sentences of the page's section on limits, written from these files."""
        return limits(self.runs, [evaluation.told for evaluation in self.evaluations])

    @cached_property
    def audits(self) -> dict[str, list[StageAudit]]:
        """By run that drew samples; a stage with too few prompts is left out."""
        drew = [run for run in self.runs if any(stage.samples for stage in run.stages)]
        return {run.name: _audits(run) for run in drew}


def read_evidence(runs: Sequence[Path], evaluations: Sequence[Path], comparison: Path | None) -> Evidence:
    """Read the files. Raises DemotuneError for a folder that holds no run or no evaluation, and for a broken file."""
    return Evidence(
        runs=read_runs(list(runs)),
        evaluations=tuple(EvaluationFiles(folder, read_evaluation(folder)) for folder in evaluations),
        comparison=None if comparison is None else ComparisonFile(comparison.name, read_json(comparison)),
    )


def _audits(run: Run) -> list[StageAudit]:
    """From the run's shortcuts.json; a run that is not finished has none."""
    kept = run.folder / SHORTCUTS
    stages = read_shortcuts(kept) if kept.exists() else ()
    return [_audit(run.name, stage) for stage in stages if stage.shortcuts]


def _audit(run: str, stage: StageShortcuts) -> StageAudit:
    best = max(stage.shortcuts, key=lambda shortcut: shortcut.accuracy.value)
    return StageAudit(run, stage.stage, best.name, best.accuracy, stage.reward.verdict if stage.reward else None)
