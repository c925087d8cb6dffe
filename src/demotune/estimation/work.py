"""The work of each phase of a run, counted before it begins: tokens, gradient steps, models loaded and saved.

How long samples will be is not known: they are taken to be as long as demonstrations are on average, within
max_new_tokens and max_length. Steps that early stopping or a guard rail may spare are counted as taken.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from demotune.common.processes import process_count
from demotune.config.methods import IRFTConfig, RFTConfig, SFTConfig, SPINConfig, stage_count
from demotune.models.packing import shared_tokens
from demotune.records import RenderedDemonstration
from demotune.training.pairs import reference_is_start
from demotune.training.phases.sample import SFT_BATCH, sampling_options, tells_logps
from demotune.training.rollouts import Layout
from demotune.training.setup import Setup
from demotune.training.stage import chunks, stage_slice
from demotune.training.trainer import MicrobatchPlan, plan_microbatches


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens that go through a model. Numbers are floats because they are expectations."""

    computed: float = 0.0
    positions: float = 0.0
    """Where the head of the vocabulary runs."""
    attended: float = 0.0
    """Sum over tokens of how many tokens each stands with: what attention costs."""
    counted: float = 0.0
    """As a run counts them in state.json."""

    def __add__(self, other: "Tokens") -> "Tokens":
        return Tokens(
            self.computed + other.computed,
            self.positions + other.positions,
            self.attended + other.attended,
            self.counted + other.counted,
        )

    def times(self, factor: float) -> "Tokens":
        return Tokens(self.computed * factor, self.positions * factor, self.attended * factor, self.counted * factor)


@dataclass(frozen=True, slots=True)
class Draw:
    """Responses drawn `slots` at a time, token by token; where one ends, the next one begins."""

    rows: float
    prompt: float
    """Mean tokens of a prompt."""
    response: float
    """Mean tokens of a response."""
    slots: int
    prefill: Tokens
    """The prompts: each once, what all of them begin with once over all; the head gives each row its first token."""

    @property
    def decoding(self) -> Tokens:
        """The tokens of responses, one at a time; each stands with its prompt and with what came before it."""
        count = self.rows * self.response
        return Tokens(
            computed=count,
            positions=count,
            attended=count * (self.prompt + self.response / 2),
            counted=self.rows * self.prompt + count,
        )

    def times(self, factor: float) -> "Draw":
        return replace(self, rows=factor * self.rows, prefill=self.prefill.times(factor))


@dataclass(frozen=True, slots=True)
class Training:
    """Gradient steps on `tokens` in all; `largest` is the micro-batch that takes the most memory."""

    tokens: Tokens
    largest: Tokens
    steps: float
    microbatches: float

    def times(self, factor: float) -> "Training":
        return replace(
            self,
            tokens=self.tokens.times(factor),
            steps=factor * self.steps,
            microbatches=factor * self.microbatches,
        )


@dataclass(frozen=True, slots=True)
class PhaseWork:
    """One phase of one stage."""

    stage: int
    name: str
    draws: tuple[Draw, ...] = ()
    scored: Tokens = Tokens()
    training: Training | None = None
    models: int = 1
    """Whole models in memory (an adapter's twins share theirs)."""
    loads: int = 0
    saves: int = 0

    @property
    def forward_tokens(self) -> float:
        """As state.json counts them."""
        return sum(draw.decoding.counted for draw in self.draws) + self.scored.counted

    @property
    def trained_tokens(self) -> float:
        return self.training.tokens.counted if self.training else 0.0

    def as_counted(self, forward_tokens: float, trained_tokens: float) -> "PhaseWork":
        """The work of a phase that came to other numbers of tokens than expected, in proportion."""
        forward = forward_tokens / self.forward_tokens if self.forward_tokens else 0.0
        trained = trained_tokens / self.trained_tokens if self.trained_tokens else 0.0
        return replace(
            self,
            draws=tuple(draw.times(forward) for draw in self.draws),
            scored=self.scored.times(forward),
            training=self.training.times(trained) if self.training else None,
        )


@dataclass(frozen=True, slots=True)
class _Row:
    """Tokens of one demonstration and of the sample expected beside it."""

    prompt: tuple[int, ...]
    """Its token ids."""
    demo: int
    sample: float


def plan_work(setup: Setup) -> list[PhaseWork]:
    """The phases of all stages, in order, over all processes."""
    return [phase for number in range(stage_count(setup.config)) for phase in _Planner(setup, number).phases()]


class _Planner:
    """What one stage will do."""

    def __init__(self, setup: Setup, number: int) -> None:
        self._setup, self._config, self._number = setup, setup.config, number
        expected = fmean(len(row.demo.ids) for row in setup.train)
        self._longest = min(expected, sampling_options(setup).max_new_tokens)
        self._heldout = [self._row(row) for row in setup.heldout]
        own = setup.train if isinstance(setup.config, SFTConfig) else stage_slice(setup, number)
        self._own = [self._row(row) for row in own]
        self._whole = setup.adapter is None
        self._tells = tells_logps(setup)
        every = [row.prompt for row in (*self._own, *self._heldout)]
        self._shared = shared_tokens(every) if len(every) > 1 else 0

    def phases(self) -> list[PhaseWork]:
        config = self._config
        if isinstance(config, SFTConfig):
            return [self._start(draw=True), self._demonstrations(config), self._check()]
        heldout = [] if self._number else self._heldout  # later answers were drawn in the check before
        sample = self._phase("sample", draws=self._draws([*self._own, *heldout]), loads=1)
        start = [] if self._number else [self._start(draw=False)]
        steps = [self._reward(config), self._policy(config)] if isinstance(config, RFTConfig) else self._pairs(config)
        return [sample, *start, *steps, self._check()]

    def _row(self, row: RenderedDemonstration) -> _Row:
        room = self._config.max_length - len(row.prompt_ids)
        return _Row(row.prompt_ids, len(row.demo.ids), max(min(self._longest, room), 1))

    def _phase(
        self,
        name: str,
        *,
        draws: tuple[Draw, ...] = (),
        scored: Tokens = Tokens(),
        training: Training | None = None,
        models: int = 1,
        loads: int = 0,
        saves: int = 0,
    ) -> PhaseWork:
        return PhaseWork(self._number, name, draws, scored, training, models, loads, saves)

    def _start(self, *, draw: bool) -> PhaseWork:
        """Held-out demonstrations scored by the start model; SFT also draws its answers, others have drawn them."""
        draws = self._draws(self._heldout) if draw else ()
        return self._phase("start", draws=draws, scored=self._scored_demos(self._heldout), loads=len(draws))

    def _demonstrations(self, config: SFTConfig) -> PhaseWork:
        lengths = [len(row.prompt) + row.demo for row in self._own]
        plan = self._plan(lengths, config.num_train_epochs, config.max_steps, "microbatches")
        tokens = [_together(len(row.prompt), [row.demo]) for row in self._own]
        return self._phase("train", training=self._training(plan, tokens), saves=1)

    def _pairs(self, config: SPINConfig | IRFTConfig) -> list[PhaseWork]:
        """The reference's numbers, then steps. Where the reference is another model, it and the policy are loaded."""
        pairs = self._own + self._history(config)
        other = not reference_is_start(self._setup, self._number)
        plan = self._plan(_longer_sides(pairs), config.epochs_per_stage, config.steps_per_stage, "microbatches")
        training = self._training(plan, [_pair(row) for row in pairs])
        scored = self._sides(pairs) + self._sides(self._heldout, demo=other or not self._setup.float32)
        return [
            self._phase("score", scored=scored, loads=int(other)),
            self._phase("train", training=training, loads=int(other), saves=1),
        ]

    def _history(self, config: SPINConfig | IRFTConfig) -> list[_Row]:
        """Pairs of the previous stage that are trained on again: the very ones that the run will choose."""
        if not config.history or not self._number:
            return []
        previous = [self._row(row) for row in stage_slice(self._setup, self._number - 1)]
        rng = random.Random(self._setup.seed(self._number, "history"))
        return rng.sample(previous, round(config.history * len(previous)))

    def _reward(self, config: RFTConfig) -> PhaseWork:
        """Steps on pairs, judged every few steps on held-out pairs, each time published as if it were the best."""
        plan = self._plan(_longer_sides(self._own), config.reward_epochs, config.reward_steps, "reward-microbatches")
        heldout = self._batched([_pair(row, head=False) for row in self._heldout])
        judgements = 1 + -(-plan.steps // config.reward_eval_steps) if self._heldout else 0
        own = [_pair(row, head=False) for row in self._own]
        models = 2 if self._whole and self._number else 1  # in the first stage the policy becomes the reward
        return self._phase(
            "reward",
            scored=heldout.times(judgements + 1) + self._batched(own),
            training=self._training(plan, own),
            models=models,
            loads=models if self._whole else 0,
            saves=max(judgements, 1),
        )

    def _policy(self, config: RFTConfig) -> PhaseWork:
        """Draw, score by start model and reward, take steps; batch after batch.

        The policy scores, too, where drawing does not tell its numbers; for gae it gives hidden states.
        """
        prompts = [*(row.prompt for row in self._own), *self._setup.prompts]
        layout, response = Layout.of(config, len(prompts)), fmean(row.sample for row in self._own)
        size = layout.responses / layout.mini_batches / layout.microbatches  # responses of a micro-batch
        prompt, answers = fmean(map(len, prompts)), config.num_generations
        group = _together(prompt, [response] * answers, per_prompt=min(answers, size))
        beside = max(size / answers, 1.0)  # groups of a micro-batch
        group = replace(group, computed=group.computed - self._shared * (1 - 1 / beside))
        groups = layout.batches * config.prompts_per_batch
        by_head, without = 1 if self._tells else 2, 2 if config.advantage == "gae" else 1
        passes = group.times(by_head) + replace(group, positions=0.0).times(without)
        prefill = _prefill(prompts, answers * len(prompts)).times(groups / len(prompts))
        slots = min(config.sample_batch_size, layout.responses)
        models = 3 if self._whole else 1
        return self._phase(
            "policy",
            draws=(Draw(groups * answers, prompt, response, slots, prefill),),
            scored=passes.times(groups),
            training=Training(
                tokens=group.times(groups * config.num_iterations),
                largest=group.times(size / answers),
                steps=layout.steps,
                microbatches=layout.batches * layout.microbatches_per_batch,
            ),
            models=models,
            loads=models,
            saves=1,
        )

    def _check(self) -> PhaseWork:
        """Answers and scores of the trained policy; rewards of held-out pairs by what the method has for a reward."""
        rows, scored, models = self._heldout, self._scored_demos(self._heldout), 1
        if isinstance(self._config, RFTConfig):
            models = 2 if self._whole else 1
            by_reward = self._batched([_together(len(row.prompt), [row.sample], head=False) for row in rows])
            scored += replace(by_reward, counted=0.0)  # a run does not count these
        elif not isinstance(self._config, SFTConfig):
            against = 2 if self._number else 1  # this stage's reference, and from the second stage on the start model
            scored += self._sides(rows, demo=not self._setup.float32).times(against)
        loads = models if rows else 0
        return self._phase("check", draws=self._draws(rows), scored=scored, models=models, loads=loads)

    def _draws(self, rows: Sequence[_Row]) -> tuple[Draw, ...]:
        if not rows:
            return ()
        slots = SFT_BATCH if isinstance(self._config, SFTConfig) else self._config.sample_batch_size
        prompts = [row.prompt for row in rows]
        response = fmean(row.sample for row in rows)
        prefill = _prefill(prompts, len(rows))
        return (Draw(len(rows), fmean(map(len, prompts)), response, min(slots, len(rows)), prefill),)

    def _training(self, plan: MicrobatchPlan, tokens: Sequence[Tokens]) -> Training:
        units = [self._packed([tokens[record] for record in unit]) for unit in plan.units]
        return Training(
            tokens=_total(units[unit] for unit in plan.order),
            largest=max(units, key=lambda unit: unit.computed),
            steps=plan.steps,
            microbatches=len(plan.order),
        )

    def _scored_demos(self, rows: Sequence[_Row]) -> Tokens:
        return self._batched([_together(len(row.prompt), [row.demo]) for row in rows])

    def _sides(self, rows: Sequence[_Row], *, demo: bool = True) -> Tokens:
        """Both sides of pairs, or samples alone."""
        return self._batched([_pair(row) if demo else _together(len(row.prompt), [row.sample]) for row in rows])

    def _batched(self, rows: Sequence[Tokens]) -> Tokens:
        """Rows that are computed batch by batch."""
        return _total(map(self._packed, chunks(rows, self._config.per_device_train_batch_size)))

    def _packed(self, rows: Sequence[Tokens]) -> Tokens:
        """Rows of one batch: what all prompts begin with is computed once."""
        together = _total(rows)
        return replace(together, computed=together.computed - self._shared * (len(rows) - 1))

    def _plan(self, lengths: Sequence[int], epochs: float, steps: int | None, purpose: str) -> MicrobatchPlan:
        return plan_microbatches(
            lengths,
            batch_size=self._config.per_device_train_batch_size,
            accumulation=self._config.gradient_accumulation_steps * process_count(),
            epochs=epochs,
            steps=steps,
            seed=self._setup.seed(self._number, purpose),
        )


def _together(
    prompt: float, responses: Sequence[float], *, head: bool = True, per_prompt: float | None = None
) -> Tokens:
    """Responses to one prompt, which is computed once for all of them, or once for every `per_prompt` of them."""
    times, said = len(responses) / (per_prompt or len(responses)), sum(responses)
    return Tokens(
        computed=times * prompt + said,
        positions=said if head else 0.0,
        attended=times * prompt**2 + sum(response * (prompt + response) for response in responses),
        counted=len(responses) * prompt + said,
    )


def _pair(row: _Row, head: bool = True) -> Tokens:
    """Demonstration and sample with one prompt."""
    return _together(len(row.prompt), [row.demo, row.sample], head=head)


def _prefill(prompts: Sequence[Sequence[int]], rows: int) -> Tokens:
    """Each prompt once, what all of them begin with once over all, and the head once for each of `rows` responses."""
    common = shared_tokens(prompts)
    own = [len(prompt) - common for prompt in prompts]
    attended = common**2 + sum(rest * (rest + common) for rest in own)
    return Tokens(common + sum(own), rows, attended)


def _longer_sides(rows: Sequence[_Row]) -> list[int]:
    return [len(row.prompt) + round(max(row.demo, row.sample)) for row in rows]


def _total(parts: Iterable[Tokens]) -> Tokens:
    return sum(parts, Tokens())
