"""What a stage will do, before it is done: the sizes of its rows, and the work that they make.

How long samples will be is not known: they are taken to be as long as demonstrations are on average, within
max_new_tokens and max_length. Steps that early stopping or a guard rail may spare are counted as taken.
"""

import itertools
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from demotune.common.record_arrays import RecordArrays
from demotune.common.sequences import Joined, Mapped
from demotune.models.packing import shared_tokens
from demotune.records import RenderedDemonstration
from demotune.training.drawing import sampling_options
from demotune.training.microbatches import MicrobatchPlan, Numbers
from demotune.training.setup import Setup
from demotune.training.stage import stage_slice
from demotune.training.work import Draw, Tokens, Training


@dataclass(frozen=True, slots=True)
class RowSizes:
    """Tokens of one demonstration and of the sample expected beside it."""

    prompt: int
    demo: int
    sample: float
    row: int
    """A number that no other demonstration of the plan has."""


class StagePlan:
    """One stage of a prepared run: its own rows and the held-out rows, by their sizes."""

    def __init__(self, setup: Setup, number: int, phases: Container[str]) -> None:
        """`phases` are the names of the stage's phases."""
        self.setup, self.number, self._phases = setup, number, phases
        expected = float(setup.train.response_lengths.mean())
        self._longest = min(expected, sampling_options(setup).max_new_tokens)
        self._numbers = itertools.count()
        own = stage_slice(setup, number)
        self.own, self.heldout = self.sizes_of(own), self.sizes_of(setup.heldout)
        prompts = Mapped(lambda row: row.prompt_ids, Joined(own, setup.heldout))
        self.shared = shared_tokens(prompts) if len(prompts) > 1 else 0
        """Tokens that all prompts begin with: each batch computes them once."""

    def has(self, phase: str) -> bool:
        return phase in self._phases

    def seed(self, purpose: str) -> int:
        return self.setup.seed(self.number, purpose)

    @property
    def whole_models(self) -> bool:
        """Whether policy, reference and reward are whole models, not adapters on one base."""
        return self.setup.adapter is None

    def sizes_of(self, rows: Iterable[RenderedDemonstration]) -> Sequence[RowSizes]:
        """The sizes of rows, each under a number of its own."""
        return RecordArrays(RowSizes, map(self._sizes, rows, self._numbers))

    def _sizes(self, row: RenderedDemonstration, number: int) -> RowSizes:
        prompt, longest = len(row.prompt_ids), self.setup.config.max_length - len(row.prompt_ids)
        return RowSizes(prompt, len(row.demo.ids), max(min(self._longest, longest), 1), number)

    def draws(self, rows: Sequence[RowSizes]) -> tuple[Draw, ...]:
        """A response to the prompt of each row."""
        if not rows:
            return ()
        return (
            Draw(
                rows=len(rows),
                prompt=fmean(row.prompt for row in rows),
                response=fmean(row.sample for row in rows),
                slots=min(self.setup.config.sample_batch_size, len(rows)),
                prefill=tokens_of_prompts((row.prompt for row in rows), self.shared, len(rows)),
            ),
        )

    def training(self, plan: MicrobatchPlan, tokens: Sequence[Tokens]) -> Training:
        """Gradient steps through the plan, on records of so many tokens."""
        units = RecordArrays(Tokens, (self._packed([tokens[record] for record in unit]) for unit in plan.units))
        return Training(
            tokens=_total(units[unit] for unit in plan.order),
            largest=max(units, key=lambda unit: unit.computed),
            steps=plan.steps,
            microbatches=len(plan.order),
        )

    def scored_demos(self, rows: Sequence[RowSizes]) -> Tokens:
        return self.batched(Mapped(lambda row: tokens_of_responses(row.prompt, [row.demo]), rows))

    def batched(self, rows: Sequence[Tokens]) -> Tokens:
        """Rows that are computed batch by batch."""
        size = self.setup.config.per_device_train_batch_size
        return _total(self._packed(rows[start : start + size]) for start in range(0, len(rows), size))

    def _packed(self, rows: Sequence[Tokens]) -> Tokens:
        """Rows of one batch: what all prompts begin with is computed once."""
        together = _total(rows)
        return replace(together, computed=together.computed - self.shared * (len(rows) - 1))

    @staticmethod
    def longer_sides(rows: Sequence[RowSizes]) -> Numbers:
        """Tokens of each prompt with its longer side."""
        return np.fromiter((row.prompt + round(max(row.demo, row.sample)) for row in rows), np.int64, len(rows))


def tokens_of_responses(
    prompt: float, responses: Sequence[float], *, head: bool = True, per_prompt: float | None = None
) -> Tokens:
    """Responses to one prompt, which is computed once for all of them, or once for every `per_prompt` of them."""
    times, written = len(responses) / (per_prompt or len(responses)), sum(responses)
    return Tokens(
        computed=times * prompt + written,
        positions=written if head else 0.0,
        attended=times * prompt**2 + sum(response * (prompt + response) for response in responses),
        counted=len(responses) * prompt + written,
    )


def tokens_of_pair(row: RowSizes, *, head: bool = True) -> Tokens:
    """Demonstration and sample with one prompt."""
    return tokens_of_responses(row.prompt, [row.demo, row.sample], head=head)


def tokens_of_another(prompt: float, sample: float, shared: int, *, head: bool = True) -> Tokens:
    """One more sample beside a pair that has the prompt and the demonstration already.

    `shared` is what a batch takes off for each of its rows, because all prompts begin with it: this one has no prompt.
    """
    return Tokens(
        computed=shared + sample,
        positions=sample if head else 0.0,
        attended=sample * (prompt + sample),
        counted=prompt + sample,
    )


def tokens_of_prompts(prompts: Iterable[int], common: int, rows: int) -> Tokens:
    """Each prompt once, what all of them begin with once over all, and the head once for each of `rows` responses.

    `prompts` are their lengths.
    """
    computed, attended = common, common**2
    for prompt in prompts:
        computed += prompt - common
        attended += (prompt - common) * prompt
    return Tokens(computed, rows, attended)


def _total(parts: Iterable[Tokens]) -> Tokens:
    return sum(parts, Tokens())
