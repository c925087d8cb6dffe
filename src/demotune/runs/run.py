"""The one reader of a run folder: a run, finished or not, as records; big files are read when they are asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from demotune.common.errors import DemotuneError
from demotune.common.files import read_rows
from demotune.common.json_records import read_records
from demotune.runs.check import StageCheck, read_check
from demotune.runs.costs import Cost, cost_of
from demotune.runs.folder import RunFolder, run_of, written_by_a_run
from demotune.runs.gate import best_stage
from demotune.runs.heldout import HeldoutRow
from demotune.runs.heldout_files import read_heldout
from demotune.runs.manifest import Manifest, read_manifest
from demotune.runs.names import (
    CHECK,
    HELDOUT,
    IMPLICIT,
    METRICS,
    MODEL,
    REFERENCE_LOGPS,
    REWARD_METRICS,
    REWARDS,
    SAMPLES,
    STAGES,
    START,
)
from demotune.runs.phases import Phase, phase_of
from demotune.runs.rows import ImplicitRow, ReferenceRow, Refused, RewardRow, RowName, SampleRow
from demotune.runs.summary import read_summary


@dataclass(frozen=True, slots=True)
class SampledRow:
    """A prompt of a stage with the sample of the policy that the stage started from, and what judged the two.

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


@dataclass(frozen=True, eq=False)
class RunStage:
    """A stage of a run. A file that is not there gives no rows, or None."""

    run: RunFolder
    number: int

    @property
    def folder(self) -> Path:
        return self.run.stage(self.number)

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """Those that are done, in their order."""
        with written_by_a_run(self.folder):
            return tuple(phase_of(name, record) for name, record in self.run.stage_state(self.number).items())

    @cached_property
    def check(self) -> StageCheck:
        return read_check(self.folder / CHECK)

    @cached_property
    def training(self) -> Sequence[Mapping[str, Any]]:
        """Records of the policy's optimizer steps, TRL names."""
        return _rows(self.folder / METRICS)

    @cached_property
    def reward_training(self) -> Sequence[Mapping[str, Any]]:
        """RFT: records of the reward model's optimizer steps."""
        return _rows(self.folder / REWARD_METRICS)

    @cached_property
    def heldout(self) -> tuple[HeldoutRow, ...] | None:
        """Held-out rows under the policy after the stage."""
        return _heldout(self.folder / HELDOUT)

    @cached_property
    def sample_rows(self) -> tuple[SampleRow, ...]:
        """Training rows and held-out rows, as the stage sampled them."""
        return _records(SampleRow, self.folder / SAMPLES)

    @cached_property
    def reward_rows(self) -> tuple[RewardRow, ...]:
        """RFT: all pairs by the stage's reward."""
        return _records(RewardRow, self.folder / REWARDS)

    @cached_property
    def implicit_rows(self) -> tuple[ImplicitRow, ...]:
        """SPIN, IRFT: held-out pairs by the stage's implicit reward."""
        return _records(ImplicitRow, self.folder / IMPLICIT)

    @cached_property
    def samples(self) -> tuple[SampledRow, ...]:
        """Training rows, then held-out rows, each with the numbers of all files."""
        with written_by_a_run(self.folder):
            return tuple(self._sampled_rows())

    @property
    def stopped(self) -> str | None:
        """RFT: which guard rail ended the policy steps."""
        return next((phase.facts["stopped"] for phase in self.phases if phase.name == "policy"), None)

    @property
    def model_hash(self) -> str | None:
        """Content hash of the policy after the stage."""
        return next((phase.outputs[MODEL] for phase in self.phases if MODEL in phase.outputs), None)

    def _sampled_rows(self) -> list[SampledRow]:
        rows = sorted(self.sample_rows, key=lambda row: row.heldout)
        references = self._references([row.heldout for row in rows])
        by_model = sorted(self.reward_rows, key=lambda row: row.heldout)
        implicit = {row.key: row for row in self.implicit_rows}
        rewards: Sequence[RewardRow | ImplicitRow | None] = by_model or [
            implicit.get(row.key) if row.heldout else None for row in rows
        ]
        return [
            SampledRow(
                key=row.key,
                heldout=row.heldout,
                prompt=row.prompt,
                demonstration=row.demonstration,
                demo_tokens=len(row.demo_ids),
                sample=row.sample,
                sample_tokens=len(row.sample_ids),
                finished=row.finished,
                demo_logp=None if reference is None else reference.demo_ref_logp,
                sample_logp=None if reference is None else reference.sample_ref_logp,
                demo_reward=None if reward is None else reward.demo_reward,
                sample_reward=None if reward is None else reward.sample_reward,
            )
            for row, reference, reward in zip(rows, references, rewards, strict=True)
        ]

    def _references(self, heldout: Sequence[bool]) -> Sequence[ReferenceRow | None]:
        """In the order of the samples; those of the stage before, which are used again, stand between the two kinds."""
        found = _records(ReferenceRow, self.folder / REFERENCE_LOGPS)
        if not found:
            return [None] * len(heldout)
        return [*found[: len(heldout) - sum(heldout)], *found[len(found) - sum(heldout) :]]


@dataclass(frozen=True, eq=False)
class Run:
    """One run folder, begun at least."""

    name: str
    folder: Path
    manifest: Manifest

    @property
    def files(self) -> RunFolder:
        return RunFolder(self.folder)

    @property
    def config(self) -> Mapping[str, Any]:
        """As the run began, automatic values filled in."""
        return self.manifest.config

    @property
    def method(self) -> str:
        return str(self.config["method"])

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @property
    def start_hash(self) -> str:
        """Content hash of the start model."""
        return self.manifest.model

    @property
    def finished(self) -> bool:
        return self.files.finished

    @cached_property
    def start(self) -> tuple[HeldoutRow, ...] | None:
        """Held-out rows under the start model; None before they are measured."""
        return _heldout(self.files.stage(0) / START)

    @property
    def heldout_count(self) -> int | None:
        """How many rows were held out; None before they are measured."""
        return None if self.start is None else len(self.start)

    @property
    def start_nll_per_token(self) -> float | None:
        """Of held-out demonstrations under the start model, nats; None without held-out rows."""
        if not self.start:
            return None
        return -sum(row.demo_logp for row in self.start) / sum(row.demo_tokens for row in self.start)

    @cached_property
    def stages(self) -> tuple[RunStage, ...]:
        """Those whose check is done."""
        return tuple(RunStage(self.files, number) for number in self.files.finished_stages)

    @cached_property
    def result_stage(self) -> int:
        """The stage whose model is the result; of an unfinished run, the one that would be if it ended here."""
        if self.finished:
            return read_summary(self.files.summary).best_stage
        return best_stage([None if self.config["gate"] == "off" else stage.check.gate for stage in self.stages])

    @property
    def result(self) -> RunStage:
        with written_by_a_run(self.folder):
            return {stage.number: stage for stage in self.stages}[self.result_stage]

    @cached_property
    def quarantine(self) -> tuple[Refused, ...]:
        """Data rows that were refused."""
        return _records(Refused, self.files.quarantine)

    @cached_property
    def rows(self) -> tuple[RowName, ...]:
        """The names of the rows that were trained on and held out."""
        return read_records(RowName, self.files.rows)

    @property
    def cost(self) -> Cost:
        """Of all finished stages."""
        return self.cost_until(len(self.stages))

    def cost_until(self, stage: int) -> Cost:
        """Of the stages up to and with this one."""
        return cost_of(self.manifest, (phase for one in self.stages if one.number <= stage for phase in one.phases))

    @property
    def peak_memory_gib(self) -> float:
        """Of all phases, those that only measure too."""
        return max(phase.peak_memory_gib for stage in self.stages for phase in stage.phases)

    def seconds(self, until: int) -> float:
        """Time of the stages up to and with `until`."""
        return self.cost_until(until).seconds

    def flops(self, until: int) -> float:
        """Floating-point operations of the same stages."""
        return self.cost_until(until).flops


def load_run(folder: str | Path, name: str | None = None) -> Run:
    """The run in a folder, finished or not. Raises DemotuneError where there is none."""
    root = Path(folder)
    if not RunFolder(root).manifest.is_file():
        raise DemotuneError(f"{root} holds no run; name the folder that a run wrote with --output")
    return Run(name or root.resolve().name, root, read_manifest(RunFolder(root).manifest))


def load_finished(folder: str | Path) -> Run:
    """A run that has its result. Raises DemotuneError where there is none."""
    run = load_run(folder)
    if not run.finished:
        raise DemotuneError(f"{folder} is an unfinished run; finish it with: demotune resume {folder}")
    return run


def read_runs(folders: Sequence[Path]) -> tuple[Run, ...]:
    """Runs to report, in the given order, each with a name of its own: as many last parts of its path as that takes.

    Raises DemotuneError for a folder without a run, a run without a finished stage, and a run that is named twice.
    """
    whole = [folder.resolve() for folder in folders]
    for depth in range(1, max(len(path.parts) for path in whole) + 1):
        names = ["/".join(path.parts[-depth:]) for path in whole]
        if len(set(names)) == len(names):
            return tuple(_with_a_stage(load_run(folder, name)) for folder, name in zip(folders, names, strict=True))
    raise DemotuneError(f"a run is named twice: {', '.join(map(str, folders))}; name each run folder once")


def run_behind(model: Path) -> Run | None:
    """The run that made a model, given by its own folder, RUN/model or RUN/stages/NN/model; None where no run did."""
    folder = run_of(model)
    return None if folder is None else load_run(folder)


def begun_template(model: Path) -> str | None:
    """The prompt template of the run that made a model; None where no run made it, or one with the chat template."""
    run = run_behind(model)
    return None if run is None else run.config["template"]


def begun_stages(folder: Path) -> list[RunStage]:
    """Every stage that has sampled, finished or not."""
    files = sorted(folder.glob(f"{STAGES}/*/{SAMPLES}"))
    return [RunStage(RunFolder(folder), int(file.parent.name)) for file in files]


def _with_a_stage(run: Run) -> Run:
    if not run.stages:
        raise DemotuneError(
            f"{run.folder} has not finished a stage, so there is nothing to report; continue it with: "
            f"demotune resume {run.folder}"
        )
    return run


def _rows(file: Path) -> list[dict[str, Any]]:
    return read_rows(file) if file.exists() else []


def _records(kind: type[Any], file: Path) -> tuple[Any, ...]:
    return read_records(kind, file) if file.exists() else ()


def _heldout(file: Path) -> tuple[HeldoutRow, ...] | None:
    return tuple(read_heldout(file)) if file.exists() else None
