"""Run folders as records: what a run left in its files, nothing made up where a file is missing."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demotune.common.errors import DemotuneError
from demotune.common.files import read_json, read_rows
from demotune.config.yaml_fields import read_yaml_file
from demotune.runs.folder import RunFolder, written_by_a_run
from demotune.runs.heldout import HeldoutRow
from demotune.runs.heldout_files import HELDOUT, START, read_heldout

MEASURING = ("start", "check")
"""Phases that only measure; what a run costs leaves them out."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A finished phase of a stage. Token counts are None in runs that did not count them."""

    name: str
    seconds: float
    peak_memory_gib: float
    forward_tokens: int | None
    trained_tokens: int | None


@dataclass(frozen=True, slots=True)
class SampledRow:
    """A prompt of a stage with the answer of the policy that the stage began with, and what judged the two.

    `demo_logp` and `sample_logp` are the reference's, in nats (SPIN, IRFT). Rewards are by what the stage learned:
    RFT's reward model, or on held-out rows beta times the log-ratio (SPIN, IRFT).
    """

    key: str
    heldout: bool
    prompt: str
    demonstration: str
    demo_tokens: int
    sample: str
    sample_tokens: int
    finished: bool
    demo_logp: float | None
    sample_logp: float | None
    demo_reward: float | None
    sample_reward: float | None


@dataclass(frozen=True, slots=True)
class Refused:
    """A data row that was refused: where it stood, and why."""

    source: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class RunStage:
    """A stage whose check is finished."""

    number: int
    phases: tuple[Phase, ...]
    check: Mapping[str, Any]
    """check.json; empty without held-out rows."""
    training: tuple[Mapping[str, Any], ...]
    """Records of the policy's optimizer steps, TRL names."""
    reward_training: tuple[Mapping[str, Any], ...]
    """RFT: records of the reward model's optimizer steps."""
    heldout: tuple[HeldoutRow, ...] | None
    """After the stage; None where the run wrote no such file."""
    samples: tuple[SampledRow, ...]
    stopped: str | None
    """RFT: which guard rail ended the policy steps."""
    model_hash: str | None
    """Content hash of the policy after the stage."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run folder."""

    name: str
    folder: Path
    method: str
    config: Mapping[str, Any]
    manifest: Mapping[str, Any]
    finished: bool
    start_nll_per_token: float | None
    start: tuple[HeldoutRow, ...] | None
    """Held-out rows before the run; None where the run wrote no such file."""
    stages: tuple[RunStage, ...]
    result_stage: int
    """The stage whose model is the result: the best one where the run chose, else the last one finished."""
    quarantine: tuple[Refused, ...]

    @property
    def result(self) -> RunStage:
        return next(stage for stage in self.stages if stage.number == self.result_stage)

    @property
    def heldout_count(self) -> int | None:
        """How many held-out rows there were; None where no file says so."""
        if self.start is not None:
            return len(self.start)
        check = self.result.check
        for part, count in (("gate", "prompts"), ("policy", "prompts"), ("reward", "pairs")):
            if part in check:
                return int(check[part][count])
        return sum(row.heldout for row in self.stages[0].samples) or (None if check else 0)

    @property
    def peak_memory_gib(self) -> float:
        return max(phase.peak_memory_gib for stage in self.stages for phase in stage.phases)

    def seconds(self, until: int) -> float:
        """Time of the stages up to and with `until`, without phases that only measure."""
        return sum(phase.seconds for phase in self._working(until))

    def flops(self, until: int) -> float | None:
        """Floating-point operations of the same phases; None in runs that did not count tokens."""
        parameters, backward = self.manifest.get("parameters"), 4 if self.config.get("use_peft") else 6
        total = 0.0
        for phase in self._working(until):
            if parameters is None or phase.forward_tokens is None or phase.trained_tokens is None:
                return None
            total += parameters * (2 * phase.forward_tokens + backward * phase.trained_tokens)
        return total

    def _working(self, until: int) -> list[Phase]:
        stages = [stage for stage in self.stages if stage.number <= until]
        return [phase for stage in stages for phase in stage.phases if phase.name not in MEASURING]


def read_runs(folders: list[Path]) -> tuple[Run, ...]:
    """Runs in the given order, each with a name of its own: as many last parts of its path as that takes."""
    whole = [folder.resolve() for folder in folders]
    for depth in range(1, max(len(path.parts) for path in whole) + 1):
        names = ["/".join(path.parts[-depth:]) for path in whole]
        if len(set(names)) == len(names):
            return tuple(read_run(folder, name) for folder, name in zip(folders, names, strict=True))
    raise DemotuneError(f"a run is named twice: {', '.join(map(str, folders))}; name each run folder once")


def read_run(root: Path, name: str | None = None) -> Run:
    """Read a run folder. Raises DemotuneError where it holds no run, or one without a finished stage."""
    folder = RunFolder(root)
    if not folder.manifest.exists():
        raise DemotuneError(f"{root} is not a run folder (no manifest.json); name a folder that a training run wrote")
    with written_by_a_run(root):
        return _read_run(folder, name or root.resolve().name)


def _read_run(folder: RunFolder, name: str) -> Run:
    root, manifest = folder.root, read_json(folder.manifest)
    stages = tuple(_read_stage(folder, number) for number in folder.finished_stages)
    if not stages:
        raise DemotuneError(
            f"{root} has not finished a stage, so there is nothing to report; continue it with: demotune resume {root}"
        )
    summary = read_json(folder.summary) if folder.finished else {}
    config = read_yaml_file(folder.config)
    best = summary.get("best_stage")
    if best is None and config.get("gate") != "off":
        best = max((stage.number for stage in stages if stage.check.get("gate", {}).get("best")), default=None)
    result_stage = stages[-1].number if best is None else int(best)
    if result_stage not in {stage.number for stage in stages}:
        raise LookupError(f"stage {result_stage} is the best one, and it is not finished")
    return Run(
        name=name,
        folder=root,
        method=str(config["method"]),
        config=config,
        manifest=manifest,
        finished=folder.finished,
        start_nll_per_token=_start_nll(folder, summary),
        start=_read_heldout(folder.stage(0) / START),
        stages=stages,
        result_stage=result_stage,
        quarantine=tuple(
            Refused(str(row["source"]), str(row["reason"]), str(row["detail"])) for row in _rows(folder.quarantine)
        ),
    )


def _read_stage(folder: RunFolder, number: int) -> RunStage:
    root = folder.stage(number)
    state = folder.stage_state(number)
    return RunStage(
        number=number,
        phases=tuple(
            Phase(
                name,
                float(record["seconds"]),
                float(record["peak_memory_gib"]),
                record.get("forward_tokens"),
                record.get("trained_tokens"),
            )
            for name, record in state.items()
        ),
        check=read_json(root / "check.json"),
        training=tuple(_rows(root / "metrics.jsonl")),
        reward_training=tuple(_rows(root / "reward-metrics.jsonl")),
        heldout=_read_heldout(root / HELDOUT),
        samples=_read_samples(root),
        stopped=state.get("policy", {}).get("stopped"),
        model_hash=next(
            (record["outputs"]["model"] for record in state.values() if "model" in record["outputs"]), None
        ),
    )


def _read_heldout(file: Path) -> tuple[HeldoutRow, ...] | None:
    return tuple(read_heldout(file)) if file.exists() else None


def _read_samples(root: Path) -> tuple[SampledRow, ...]:
    """Training rows, then held-out rows. Scores have those of an earlier stage between them where history is used."""
    rows = sorted(_rows(root / "samples.jsonl.gz"), key=lambda row: bool(row["heldout"]))
    heldout = sum(row["heldout"] for row in rows)
    nothing: list[dict[str, Any]] = [{} for _ in rows]
    scores = _rows(root / "reference_logps.jsonl.gz") or nothing
    scores = [*scores[: len(rows) - heldout], *scores[len(scores) - heldout :]]
    rewards = sorted(_rows(root / "rewards.jsonl.gz"), key=lambda row: bool(row["heldout"]))
    if not rewards:
        implicit = {row["key"]: row for row in _rows(root / "implicit.jsonl.gz")}
        rewards = [implicit.get(row["key"], {}) if row["heldout"] else {} for row in rows]
    return tuple(
        SampledRow(
            key=row["key"],
            heldout=row["heldout"],
            prompt=row["prompt"],
            demonstration=row["demonstration"],
            demo_tokens=len(row["demo_ids"]),
            sample=row["sample"],
            sample_tokens=len(row["sample_ids"]),
            finished=row["finished"],
            demo_logp=score.get("demo_ref_logp"),
            sample_logp=score.get("sample_ref_logp"),
            demo_reward=reward.get("demo_reward"),
            sample_reward=reward.get("sample_reward"),
        )
        for row, score, reward in zip(rows, scores, rewards, strict=True)
    )


def _start_nll(folder: RunFolder, summary: Mapping[str, Any]) -> float | None:
    found = summary.get("start_nll_per_token")
    file = folder.stage(0) / "start.json"
    if found is None and file.exists():
        found = read_json(file).get("nll_per_token")
    return None if found is None else float(found)


def _rows(file: Path) -> list[dict[str, Any]]:
    return read_rows(file) if file.exists() else []
