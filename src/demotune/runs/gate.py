"""The gate after a stage: did it help on held-out demonstrations, and what broke? Numbers in, a verdict out.

The yardstick is what all four methods maximise, the log-likelihood of demonstrations that were not trained on, per
response and paired by prompt. A reward that the run itself learned is no yardstick: the policy was trained on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from demotune.common.diversity import distinct, repetition
from demotune.common.statistics import Interval, mean_interval
from demotune.runs.file_names import stage_title
from demotune.runs.heldout import HeldoutRow, share_of_wins

Verdict = Literal["better", "no clear change", "worse", "too few held-out rows to tell"]
COLLAPSE = 0.7
"""Distinct bigrams below this share of what they were are called a loss of diversity."""
LENGTH_RATIO = 2.0
CUT_OFF = 0.2
REPETITION = 0.1


@dataclass(frozen=True, slots=True)
class Gate:
    """What a stage did on held-out prompts, compared with the best policy before it.

    `gain` is in nats per response, with its interval over prompts; `wins` is the share of demonstrations that became
    likelier, with Wilson's. `distinct_2` counts over all answers; `repetition` is a mean over them.
    """

    verdict: Verdict
    warnings: tuple[str, ...]
    best: bool
    """Whether this stage is now the best so far: it is unless it is worse, so of equals the later one is kept."""
    compared_with: str
    """start model; stage 0, as folders count."""
    prompts: int
    gain: Interval
    wins: Interval
    mean_length: float
    mean_length_before: float
    finished_share: float
    finished_share_before: float
    distinct_2: float
    distinct_2_before: float
    repetition: float
    repetition_before: float

    @property
    def baseline(self) -> str:
        """`compared_with` for readers, who count stages from 1."""
        kind, _, number = self.compared_with.partition(" ")
        return stage_title(int(number)) if kind == "stage" else self.compared_with


def judge_stage(before: Sequence[HeldoutRow], after: Sequence[HeldoutRow], compared_with: str) -> Gate:
    """Compare held-out rows of two policies, row by row; there must be one at least."""
    logps = [(new.demo_logp, old.demo_logp) for old, new in zip(before, after, strict=True)]
    gain = mean_interval([new - old for new, old in logps])
    verdict = verdict_of(gain)
    old, new = _answers(before), _answers(after)
    return Gate(
        verdict=verdict,
        warnings=_warnings(old, new),
        best=verdict != "worse",
        compared_with=compared_with,
        prompts=len(logps),
        gain=gain,
        wins=share_of_wins(logps),
        mean_length=new.mean_length,
        mean_length_before=old.mean_length,
        finished_share=new.finished_share,
        finished_share_before=old.finished_share,
        distinct_2=new.distinct_2,
        distinct_2_before=old.distinct_2,
        repetition=new.repetition,
        repetition_before=old.repetition,
    )


def verdict_of(gain: Interval) -> Verdict:
    """What an interval says about 0."""
    if not gain.known:
        return "too few held-out rows to tell"
    return "better" if gain.low > 0 else "worse" if gain.high < 0 else "no clear change"


def best_stage(gates: Sequence[Gate | None]) -> int:
    """The last stage that its gate did not call worse; where all are worse the least bad; the last without gates."""
    known = [gate for gate in gates if gate is not None]
    if len(known) < len(gates):
        return len(gates) - 1
    good = [number for number, gate in enumerate(known) if gate.best]
    # Where none is good, all were compared with the start model, so their gains can be compared.
    return good[-1] if good else max(range(len(known)), key=lambda number: known[number].gain.value)


@dataclass(frozen=True, slots=True)
class _Answers:
    mean_length: float
    finished_share: float
    distinct_2: float
    repetition: float


def _answers(rows: Sequence[HeldoutRow]) -> _Answers:
    answers = [row.response for row in rows]
    return _Answers(
        mean_length=fmean(len(answer.ids) for answer in answers),
        finished_share=fmean(answer.finished for answer in answers),
        distinct_2=distinct([answer.ids for answer in answers]),
        repetition=fmean(repetition(answer.ids) for answer in answers),
    )


def _warnings(old: _Answers, new: _Answers) -> tuple[str, ...]:
    found = []
    if not 1 / LENGTH_RATIO <= new.mean_length / old.mean_length <= LENGTH_RATIO:
        found.append(f"held-out answers have {new.mean_length:.0f} tokens on average, {old.mean_length:.0f} before")
    if new.finished_share < old.finished_share - CUT_OFF:
        found.append(f"{new.finished_share:.0%} of held-out answers end by themselves, {old.finished_share:.0%} before")
    if new.distinct_2 < COLLAPSE * old.distinct_2:
        found.append(f"answers are less varied: {new.distinct_2:.2f} distinct bigrams, {old.distinct_2:.2f} before")
    if new.repetition > old.repetition + REPETITION:
        found.append(f"answers repeat themselves: {new.repetition:.0%} of 4-grams, {old.repetition:.0%} before")
    return tuple(found)
