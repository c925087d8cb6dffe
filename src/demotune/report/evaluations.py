"""Evaluation folders as records."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demotune.common.errors import DemotuneError
from demotune.common.files import read_json, read_rows


@dataclass(frozen=True, slots=True)
class Measure:
    """One number, with its 95% interval where it has one. `model` is None where it is about a judge."""

    measure: str
    kind: str
    model: str | None
    judge: str | None
    value: float | None
    low: float | None
    high: float | None
    items: int
    unit: str
    higher_is_better: bool | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models by one measure. A win rate's `difference` is the share itself, 0 to 1, tested against a half."""

    measure: str
    kind: str
    judge: str | None
    model: str
    baseline: str
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    p_corrected: float | None
    effect_size: float | None
    smallest_difference: float | None
    items: int
    test: str

    @property
    def is_win_rate(self) -> bool:
        return self.kind == "win rate"


@dataclass(frozen=True, slots=True)
class EvaluatedRow:
    """A prompt with what each model made of it. `rejected` only where the data holds preferences."""

    key: str
    source: str | None
    prompt: str
    demonstration: str
    rejected: str | None
    models: Mapping[str, Mapping[str, Any]]
    """By model: demo_logp, sample, sample_logp, rewards by judge, ... as rows.jsonl.gz names them."""
    rewards: Mapping[str, Mapping[str, Any]]
    """By judge: of the demonstration and of the rejected response."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation folder; without evaluation.json or tasks.json that part is empty."""

    folder: Path
    name: str
    about: Mapping[str, Any]
    measures: tuple[Measure, ...]
    comparisons: tuple[Comparison, ...]
    rows: tuple[EvaluatedRow, ...]
    tasks: Mapping[str, Any]
    """tasks.json as it is; empty without one."""

    @property
    def judges(self) -> Mapping[str, str]:
        """Name -> kind: reward, function or model."""
        return {judge["name"]: judge["kind"] for judge in self.about.get("judges", ())}

    @property
    def leaks(self) -> tuple[str, ...]:
        """Where test data was found in training data, and where it could not be looked for."""
        found = []
        for one in self.about.get("leaks", ()):
            if not one["searched"]:
                found.append(f"test data was not looked for in the training data of {one['model']}: {one['why']}")
            elif one["leaked"]:
                share = f"{one['leaked']} of {one['test_rows']} rows of {one['test']}"
                found.append(f"{share} are like training rows of {one['model']}")
        return tuple(found)

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(map(str, self.about.get("warnings", ())))


def read_evaluation(folder: Path) -> Evaluation:
    """Read what `demotune evaluate` wrote. Raises DemotuneError where the folder holds neither of its two files."""
    main, tasks, rows = folder / "evaluation.json", folder / "tasks.json", folder / "rows.jsonl.gz"
    if not main.exists() and not tasks.exists():
        raise DemotuneError(
            f"{folder} holds no evaluation (neither evaluation.json nor tasks.json); "
            "write one with: demotune evaluate --output FOLDER"
        )
    about = read_json(main) if main.exists() else {}
    return Evaluation(
        folder=folder,
        name=folder.resolve().name,
        about=about,
        measures=tuple(_measure(row) for row in about.get("measures", ())),
        comparisons=tuple(_comparison(row) for row in about.get("comparisons", ())),
        rows=tuple(_row(row) for row in (read_rows(rows) if rows.exists() else ())),
        tasks=read_json(tasks) if tasks.exists() else {},
    )


def _measure(row: Mapping[str, Any]) -> Measure:
    return Measure(
        measure=row["measure"],
        kind=row["kind"],
        model=row["model"],
        judge=row.get("judge"),
        value=row["value"],
        low=row.get("low"),
        high=row.get("high"),
        items=row["items"],
        unit=row.get("unit", ""),
        higher_is_better=row.get("higher_is_better"),
    )


def _comparison(row: Mapping[str, Any]) -> Comparison:
    return Comparison(
        measure=row["measure"],
        kind=row["kind"],
        judge=row.get("judge"),
        model=row["model"],
        baseline=row["baseline"],
        difference=row["difference"],
        low=row.get("low"),
        high=row.get("high"),
        p=row.get("p"),
        p_corrected=row.get("p_corrected"),
        effect_size=row.get("effect_size"),
        smallest_difference=row.get("smallest_difference"),
        items=row["items"],
        test=row.get("test", ""),
    )


def _row(row: Mapping[str, Any]) -> EvaluatedRow:
    return EvaluatedRow(
        key=row["key"],
        source=row.get("source"),
        prompt=row["prompt"],
        demonstration=row["demonstration"],
        rejected=row.get("rejected"),
        models=row["models"],
        rewards=row.get("rewards", {}),
    )
