"""An evaluation folder: evaluation.json, rows.jsonl.gz, tasks.json."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demotune.common.errors import DemotuneError
from demotune.common.files import read_json
from demotune.common.json_records import from_file, read_records
from demotune.common.statistics import Interval
from demotune.records import Message
from demotune.runs.file_names import EVALUATED_ROWS, EVALUATION, TASKS

WIN_RATE = "win rate"


@dataclass(frozen=True, slots=True)
class Measure:
    """One number with its 95% interval; None where there is none. `model` is None where it is about a judge."""

    measure: str
    kind: str
    """likelihood, preference, reward, confidence, length or variety."""
    model: str | None
    judge: str | None
    value: float | None
    low: float | None
    high: float | None
    items: int
    unit: str
    higher_is_better: bool | None

    @property
    def interval(self) -> Interval | None:
        return interval_of(self.value, self.low, self.high)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models by one measure. A win rate's `difference` is the share itself, 0 to 1, tested against a half."""

    measure: str
    kind: str
    """As of a measure, or win rate."""
    judge: str | None
    model: str
    baseline: str
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    effect_size: float | None
    smallest_difference: float | None
    items: int
    test: str
    p_corrected: float | None

    @property
    def is_win_rate(self) -> bool:
        return self.kind == WIN_RATE

    @property
    def interval(self) -> Interval | None:
        return interval_of(self.difference, self.low, self.high)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedRow:
    """A prompt with what each model made of it. `rejected` only where the data holds preferences."""

    key: str
    source: str
    prompt: str
    demonstration: str
    rejected: str | None = None
    models: Mapping[str, Mapping[str, Any]]
    """By model: demo_logp, sample, sample_logp, rewards by judge, ..."""
    rewards: Mapping[str, Mapping[str, Any]]
    """By judge: of the demonstration and of the rejected response."""
    verdicts: Mapping[str, Mapping[str, Any]]
    """By judge and pair of models: 1 where the first is better, 0.5 tie, 0; None abstained."""
    messages: tuple[Message, ...] = ()
    """The prompt, turn by turn; empty in a file of an older evaluation."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation folder; without evaluation.json or tasks.json that part is empty."""

    folder: Path
    name: str
    about: Mapping[str, Any]
    """evaluation.json: command, versions, hardware, config, data, models, judges, leaks, warnings, ..."""
    measures: tuple[Measure, ...]
    comparisons: tuple[Comparison, ...]
    rows: tuple[EvaluatedRow, ...]
    tasks: Mapping[str, Any]
    """The fields of tasks.json."""

    @property
    def judges(self) -> Mapping[str, str]:
        """Name -> kind: reward, function, model or people."""
        return {judge["name"]: judge["kind"] for judge in self.about.get("judges", ())}

    @property
    def leaks(self) -> tuple[str, ...]:
        """Where test data was found in training data, and where it could not be looked for."""
        found: dict[tuple[str, str], list[str]] = {}  # what is said before and behind the models that it is true of
        for one in self.about.get("leaks", ()):
            if not one["searched"]:
                said = "test data was not looked for in the training data", f": {one['why']}"
            elif one["leaked"]:
                said = f"{one['leaked']} of {one['test_rows']} rows of {one['test']} are like training rows", ""
            else:
                continue
            found.setdefault(said, []).append(one["model"])
        return tuple(f"{before} of {named(models)}{behind}" for (before, behind), models in found.items())

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(map(str, self.about.get("warnings", ())))


def named(models: Sequence[str], most: int = 3) -> str:
    """The first models by name, and how many others there are."""
    others = len(models) - most
    return ", ".join(models[:most]) + (f" and {others} more" if others > 0 else "")


def interval_of(value: float | None, low: float | None, high: float | None) -> Interval | None:
    """The number with its bounds, which are nan where the file has none; None without a number."""
    if value is None:
        return None
    return Interval(value, float("nan") if low is None else low, float("nan") if high is None else high)


def read_evaluation(folder: Path) -> Evaluation:
    """Read what `demotune evaluate` wrote. Raises DemotuneError where the folder holds neither of its two files."""
    main, tasks, rows = folder / EVALUATION, folder / TASKS, folder / EVALUATED_ROWS
    if not main.exists() and not tasks.exists():
        raise DemotuneError(
            f"{folder} holds no evaluation (neither {EVALUATION} nor {TASKS}); "
            "write one with: demotune evaluate --output FOLDER"
        )
    about = read_json(main) if main.exists() else {}
    return Evaluation(
        folder=folder,
        name=folder.resolve().name,
        about=about,
        measures=from_file(tuple[Measure, ...], about.get("measures", []), main),
        comparisons=from_file(tuple[Comparison, ...], about.get("comparisons", []), main),
        rows=read_records(EvaluatedRow, rows) if rows.exists() else (),
        tasks=read_json(tasks) if tasks.exists() else {},
    )
