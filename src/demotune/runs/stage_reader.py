"""A stage of a run, as its files have it."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Literal, TypeVar

from demotune.common.files import read_rows
from demotune.common.json_records import iter_records, read_record, read_records
from demotune.common.record_arrays import RecordArrays
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

Record = TypeVar("Record")
_Kind = Literal["none", "trained", "unanswered", "heldout"]
"""What pair a sample makes: none where it equals its demonstration; an unanswered one trains no policy."""


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

    @property
    def drew(self) -> bool:
        """Whether the stage has samples."""
        return (self.folder / SAMPLES).exists()

    def iter_sample_rows(self) -> Iterator[SampleRow]:
        """Training rows, then held-out rows, as the stage sampled them; none before it has."""
        return iter_records(SampleRow, self.folder / SAMPLES) if self.drew else iter(())

    @cached_property
    def reward_rows(self) -> Sequence[RewardRow]:
        """RFT: all pairs by the stage's reward."""
        return records_of(RewardRow, self.folder / REWARDS)

    @cached_property
    def implicit_rows(self) -> Sequence[ImplicitRow]:
        """SPIN, IRFT: held-out pairs by the stage's implicit reward."""
        return records_of(ImplicitRow, self.folder / IMPLICIT)

    @cached_property
    def samples(self) -> Sequence[SampledRow]:
        """Training rows, then held-out rows, each with the numbers of all files."""
        return RecordArrays(SampledRow, self.iter_samples())

    @cached_property
    def heldout_samples(self) -> Sequence[SampledRow]:
        """The held-out rows among `samples`."""
        return RecordArrays(SampledRow, (row for row in self.iter_samples() if row.heldout))

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

    def iter_samples(self) -> Iterator[SampledRow]:
        """The same rows, one by one: a stage may have millions."""
        with written_by_a_run(self.folder):
            counts = self._count_pairs()
            references, rewards = self._references(counts), self._rewards(counts)
            for row in self.iter_sample_rows():
                kind = _kind(row)
                reference = None if kind in ("none", "unanswered") else next(references)
                reward = None if kind == "none" else next(rewards)
                yield SampledRow(
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

    def _count_pairs(self) -> Counter[_Kind]:
        return Counter(map(_kind, self.iter_sample_rows()))

    def _rewards(self, counts: Counter[_Kind]) -> Iterator[RewardRow | ImplicitRow | None]:
        """In the order of the pairs, which are those of training, then held-out ones."""
        pairs, heldout = counts["trained"] + counts["unanswered"], counts["heldout"]
        if self.reward_rows:
            _refuse_others(pairs + heldout, len(self.reward_rows))
            return iter(self.reward_rows)
        if self.implicit_rows:
            _refuse_others(heldout, len(self.implicit_rows))
        return chain(repeat(None, pairs), self.implicit_rows or repeat(None, heldout))

    def _references(self, counts: Counter[_Kind]) -> Iterator[ReferenceRow | None]:
        """Likewise; those of earlier stages, which are used again, are between the two kinds."""
        pairs, heldout = counts["trained"], counts["heldout"]
        found = records_of(ReferenceRow, self.folder / REFERENCE_LOGPS)
        if not found:
            return repeat(None)
        if len(found) < pairs + heldout:  # link tspin: held-out pairs alone have a reference
            _refuse_others(heldout, len(found))
            return chain(repeat(None, pairs), found)
        places = chain(range(pairs), range(len(found) - heldout, len(found)))
        return (found[place] for place in places)


def _kind(row: SampleRow) -> _Kind:
    if row.equal:
        return "none"
    if row.heldout:
        return "heldout"
    return "unanswered" if row.unanswered else "trained"


def _refuse_others(pairs: int, numbers: int) -> None:
    if pairs != numbers:
        raise ValueError(f"{pairs} pairs of samples, and numbers of {numbers}")


def begun_stages(folder: Path) -> list[RunStage]:
    """Every stage that has sampled, finished or not."""
    files = sorted(folder.glob(f"{STAGES}/*/{SAMPLES}"))
    return [RunStage(RunFolder(folder), int(file.parent.name)) for file in files]


def records_of(kind: type[Record], file: Path) -> Sequence[Record]:
    return RecordArrays(kind, iter_records(kind, file) if file.exists() else ())


def heldout_rows(file: Path) -> tuple[HeldoutRow, ...] | None:
    return read_records(HeldoutRow, file) if file.exists() else None
