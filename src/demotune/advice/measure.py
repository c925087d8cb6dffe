"""Measure: draw responses, fit the quick reward, score demonstrations."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from demotune.advice.headroom import Answers, States, by_prompt, equal_share, fit_reward
from demotune.advice.measurements import Likelihood, Measurements, Prompts
from demotune.advice.probe import attach_probe
from demotune.advice.subject import Subject
from demotune.common.errors import DemotuneError
from demotune.common.files import hash_of
from demotune.common.progress import track
from demotune.common.statistics import independent_difference, prompts_for_share, prompts_for_win_rate, ratio_interval
from demotune.common.statistics.intervals import Ratio
from demotune.models.policy import Policy
from demotune.models.reference_logps import completion_logps
from demotune.records import Completion, RenderedDemonstration, Response
from demotune.rewards.linear import Columns, Floats, LinearReward
from demotune.runs.phase_journal import PhaseJournal
from demotune.sampling import InProcessSampler
from demotune.sampling.kept import draw_kept
from demotune.training.setup import derive_seed

POINTS = 0.05
"""The difference in win rate that `rows_for_win_rate` is about."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """All responses of the model."""

    train: tuple[Answers, ...]
    heldout: tuple[Answers, ...]
    prompts: tuple[Completion, ...]
    """Greedy answers to prompts without demonstrations."""


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Measurements, with the samples and the reward that they were made of."""

    measurements: Measurements
    drawn: Drawn
    reward: LinearReward | None
    states: States


def measure(subject: Subject, journals: Path) -> Found:
    """Everything that the rules look at. The same subject gives the same numbers.

    journals: a folder for responses that are drawn, so that an interrupted command draws none of them twice.
    """
    drawn = draw(subject, journals)
    states = _states(subject, drawn)
    fitted = fit_reward(drawn.train, drawn.heldout, states)
    reward, found = fitted or (None, None)
    accuracy = 0.5 if found is None else found.accuracy.value
    measurements = Measurements(
        demonstrations=subject.demonstrations,
        train_rows=len(subject.train),
        heldout_rows=len(subject.heldout),
        heldout_prompts=len({row.prompt_ids for row in subject.heldout}),
        samples_per_prompt=subject.config.samples_per_prompt,
        equal=equal_share(drawn.heldout),
        equal_in_training=equal_share(drawn.train),
        reward=found,
        likelihood=_likelihood(subject),
        prompts=_prompts(drawn, reward, states) if drawn.prompts else None,
        rows_for_accuracy=prompts_for_share(accuracy),
        rows_for_win_rate=prompts_for_win_rate(POINTS, _tied(drawn.heldout)),
    )
    return Found(measurements, drawn, reward, states)


def draw(subject: Subject, journals: Path) -> Drawn:
    """Samples at temperature 1 for all rows, greedy answers to held-out prompts and to those without demonstrations."""
    count, rows = subject.config.samples_per_prompt, [*subject.train, *subject.heldout]
    sampled = _draw(subject, [row.prompt_ids for row in rows] * count, 1.0, journals, "samples")
    asked = [*(row.prompt_ids for row in subject.heldout), *subject.prompts]
    greedy = _draw(subject, asked, 0.0, journals, "greedy answers")
    samples = [tuple(sampled[number :: len(rows)]) for number in range(len(rows))]
    answers = [Answers(row, own) for row, own in zip(rows, samples, strict=True)]
    known = len(subject.train)
    heldout = zip(answers[known:], greedy, strict=False)
    return Drawn(
        train=tuple(answers[:known]),
        heldout=tuple(Answers(one.row, one.samples, own) for one, own in heldout),
        prompts=tuple(map(Completion, subject.prompts, greedy[len(subject.heldout) :])),
    )


def _draw(
    subject: Subject, prompts: Sequence[tuple[int, ...]], temperature: float, journals: Path, what: str
) -> Sequence[Response]:
    """One response for each prompt, in order; the journal is named by everything that a response depends on."""
    seed, options = derive_seed(subject.config.seed, 0, f"advice {what}"), subject.options(temperature)
    depends_on = [subject.hash, prompts, seed, options.max_new_tokens, options.max_length, options.bf16]
    digest = hash_of([*depends_on, subject.config.dtype])[:12]
    journal = PhaseJournal(journals, f"{what.replace(' ', '-')}-{digest}")
    sampler = InProcessSampler(lambda: subject.policy, slots=subject.config.sample_batch_size)
    with track(what, len(prompts), "responses") as tracker:
        return draw_kept(journal, lambda: sampler, prompts, seed, options, tracker=tracker)


def _states(subject: Subject, drawn: Drawn) -> States:
    """The hidden state at the end of each different response."""
    answers = [completion for one in (*drawn.train, *drawn.heldout) for completion in one.completions]
    distinct = list(dict.fromkeys([*answers, *drawn.prompts]))
    with track("states", len(distinct), "responses") as tracker:
        table = Columns().of(
            subject.policy, distinct, pad_id=subject.pad_id, bf16=subject.bf16, advance=tracker.advance
        )
    return States(dict(zip(distinct, table, strict=True)))


def _likelihood(subject: Subject) -> Likelihood:
    """Before and after a short SFT, which leaves the model as it was."""
    train = _costs(subject, subject.policy, subject.train, "log-probabilities")
    before = _costs(subject, subject.policy, subject.heldout, "held-out log-probabilities")
    probe, rows = attach_probe(subject)
    after = _costs(subject, probe, subject.heldout, "held-out log-probabilities after it")
    probe.unload()
    tokens = _tokens(subject.heldout)
    per_token = Ratio.of(train, _tokens(subject.train)), Ratio.of(before, tokens)
    return Likelihood(
        train=per_token[0].interval(),
        heldout=per_token[1].interval(),
        gap=independent_difference(per_token[1], per_token[0]),
        fall=ratio_interval([old - new for old, new in zip(before, after, strict=True)], tokens),
        probe_rows=rows,
    )


def _tokens(rows: Sequence[RenderedDemonstration]) -> list[float]:
    return [float(len(row.demo.ids)) for row in rows]


def _costs(subject: Subject, policy: Policy, rows: Sequence[RenderedDemonstration], what: str) -> list[float]:
    """Negative log-likelihood of each demonstration, in nats. Raises DemotuneError where one is not finite."""
    demonstrations = [Completion(row.prompt_ids, row.demo) for row in rows]
    with track(what, len(rows), "rows") as tracker:
        logps = completion_logps(
            policy, demonstrations, batch_size=subject.config.batch_size, bf16=subject.bf16, advance=tracker.advance
        )
    if wrong := sum(not math.isfinite(logp) for logp in logps):
        raise DemotuneError(
            f"{subject.config.model} gives {wrong} of {len(logps)} responses a log-probability that is not finite: its "
            "weights are damaged, or its numbers are too large for this precision; give --no-bf16, or another model"
        )
    return [-logp for logp in logps]


def _prompts(drawn: Drawn, reward: LinearReward | None, states: States) -> Prompts:
    if reward is None:
        return Prompts(len(drawn.prompts), None)
    known = [Completion(one.row.prompt_ids, one.greedy) for one in drawn.heldout if one.greedy is not None]
    there = _rewards(reward, drawn.prompts, states)
    here = by_prompt(_rewards(reward, known, states), [completion.prompt_ids for completion in known])
    both = (Ratio.of(values, [1.0] * len(values)) for values in (there, here))
    return Prompts(len(there), independent_difference(*both))


def _rewards(reward: LinearReward, completions: Sequence[Completion], states: States) -> list[float]:
    columns: list[Floats] = [states.table[completion] for completion in completions]
    return [float(reward.score(column[None])[0]) for column in columns]


def _tied(heldout: Sequence[Answers]) -> float:
    """Share of held-out prompts whose first two samples are the same."""
    return sum(one.samples[0].ids == one.samples[1].ids for one in heldout) / len(heldout)
