"""A stage of a run, as its files have it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from demotune.common.files import read_rows
from demotune.common.json_records import read_record, read_records
from demotune.runs.check import StageCheck
from demotune.runs.file_names import (
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
)
from demotune.runs.folder import RunFolder, written_by_a_run
from demotune.runs.heldout import HeldoutRow
from demotune.runs.phase_records import DonePhase, phase_of
from demotune.runs.rows import ImplicitRow, ReferenceRow, RewardRow, SampleRow


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
    def phases(self) -> tuple[DonePhase, ...]:
        """Those that are done, in their order."""
        with written_by_a_run(self.folder):
            return tuple(phase_of(name, record) for name, record in self.run.stage_state(self.number).items())

    @cached_property
    def check(self) -> StageCheck:
        return read_record(StageCheck, self.folder / CHECK)

    @cached_property
    def training(self) -> Sequence[Mapping[str, Any]]:
        """Records of the policy's optimizer steps, in whatever phases, TRL names."""
        files = sorted(set(self.folder.glob(f"*{METRICS}")) - {self.folder / REWARD_METRICS})
        return [row for file in files for row in read_rows(file)]

    @cached_property
    def reward_training(self) -> Sequence[Mapping[str, Any]]:
        """RFT: records of the reward model's optimizer steps."""
        file = self.folder / REWARD_METRICS
        return read_rows(file) if file.exists() else []

    @cached_property
    def heldout(self) -> tuple[HeldoutRow, ...] | None:
        """Held-out rows under the policy after the stage."""
        return heldout_rows(self.folder / HELDOUT)

    @cached_property
    def sample_rows(self) -> tuple[SampleRow, ...]:
        """Training rows and held-out rows, as the stage sampled them."""
        return records_of(SampleRow, self.folder / SAMPLES)

    @cached_property
    def reward_rows(self) -> tuple[RewardRow, ...]:
        """RFT: all pairs by the stage's reward."""
        return records_of(RewardRow, self.folder / REWARDS)

    @cached_property
    def implicit_rows(self) -> tuple[ImplicitRow, ...]:
        """SPIN, IRFT: held-out pairs by the stage's implicit reward."""
        return records_of(ImplicitRow, self.folder / IMPLICIT)

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
    def kept(self) -> str | None:
        """RFT: why the stage kept its policy and took no policy steps."""
        return next((phase.facts["kept"] for phase in self.phases if phase.name == "policy"), None)

    @property
    def doubt(self) -> str | None:
        """RFT: why the reward of the stage may follow noise, whether policy steps were taken or not."""
        return next((phase.facts["doubt"] for phase in self.phases if phase.name == "policy"), None)

    @property
    def model_hash(self) -> str | None:
        """Content hash of the policy after the stage."""
        return next((phase.outputs[MODEL] for phase in self.phases if MODEL in phase.outputs), None)

    def _sampled_rows(self) -> list[SampledRow]:
        rows = sorted(self.sample_rows, key=lambda row: row.heldout)
        pairs = [row.heldout for row in rows if not row.equal]
        references = self._of_samples(rows, self._references(pairs))
        by_model = sorted(self.reward_rows, key=lambda row: row.heldout)
        training = [None] * (len(pairs) - sum(pairs))
        rewards = self._of_samples(rows, by_model or [*training, *(self.implicit_rows or [None] * sum(pairs))])
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

    @staticmethod
    def _of_samples(rows: Sequence[SampleRow], of_pairs: Sequence[Any]) -> list[Any]:
        """What pairs have, for each sample; one that is its demonstration makes no pair, and has None."""
        pairs = sum(not row.equal for row in rows)
        if pairs != len(of_pairs):
            raise ValueError(f"{pairs} pairs of samples, and numbers of {len(of_pairs)}")
        found = iter(of_pairs)
        return [None if row.equal else next(found) for row in rows]

    def _references(self, heldout: Sequence[bool]) -> Sequence[ReferenceRow | None]:
        """In the order of the pairs; those of earlier stages, which are used again, are between the two kinds."""
        found = records_of(ReferenceRow, self.folder / REFERENCE_LOGPS)
        if not found:
            return [None] * len(heldout)
        if len(found) < len(heldout):  # link tspin: held-out pairs alone have a reference
            return [*[None] * (len(heldout) - sum(heldout)), *found]
        return [*found[: len(heldout) - sum(heldout)], *found[len(found) - sum(heldout) :]]


def begun_stages(folder: Path) -> list[RunStage]:
    """Every stage that has sampled, finished or not."""
    files = sorted(folder.glob(f"{STAGES}/*/{SAMPLES}"))
    return [RunStage(RunFolder(folder), int(file.parent.name)) for file in files]


def records_of(kind: type[Any], file: Path) -> tuple[Any, ...]:
    return read_records(kind, file) if file.exists() else ()


def heldout_rows(file: Path) -> tuple[HeldoutRow, ...] | None:
    return read_records(HeldoutRow, file) if file.exists() else None
