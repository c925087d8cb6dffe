"""One model on the rows of an evaluation: log-probabilities, its own answers, and what rewards give them.

Each part is kept in a file that is named by everything that it depends on, so an interrupted evaluation goes on.
"""

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from demotune.common.errors import DemotuneError
from demotune.common.files import hash_of, read_json, write_json
from demotune.common.machine import computes_in_bf16
from demotune.common.memory import give_back_memory, peak_memory_gib
from demotune.common.processes import any_process, main_process, this_device, wait_for_everyone
from demotune.common.progress import say, track
from demotune.config.evaluation import EvaluationConfig
from demotune.config.sampler import IN_PROCESS
from demotune.data.rendering import RenderError
from demotune.evaluation.eval_set import EvalSet, RenderedRow
from demotune.evaluation.subjects import Subject
from demotune.models.policy import Policy, load_policy
from demotune.models.reference_logps import completion_logps
from demotune.records import Completion, Demonstration, RenderedDemonstration, Response
from demotune.rewards.completions import Asked, completions_for, rewards_of_readable
from demotune.rewards.reward import Reward, as_completion
from demotune.runs.file_names import PARTIAL
from demotune.runs.shared_work import journal_here, shared
from demotune.sampling import SamplingOptions, sampler_for
from demotune.sampling.kept import draw_kept


@dataclass(frozen=True, slots=True)
class Logps:
    """Log-probabilities of a row's responses, summed over their tokens, in nats."""

    demo: float
    demo_tokens: int
    rejected: float | None
    rejected_tokens: int | None


@dataclass(frozen=True, slots=True)
class Answered:
    """A model's own answer to a row's prompt."""

    response: Response
    text: str
    logp: float
    """Under the model itself, nats."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything that one model did on the rows, in their order."""

    logps: tuple[Logps, ...]
    answers: tuple[Answered, ...]
    """Empty where no answers were asked for."""
    seconds: float
    peak_memory_gib: float
    scored_tokens: int
    sampled_tokens: int


class PartCache:
    """The files of an evaluation's parts: made once, by all processes together, and found again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, name: str, depends_on: Sequence[object], make: Callable[[], list[Any]]) -> dict[str, Any]:
        """{"rows": what `make` returns, "seconds", "peak_memory_gib"}; made only where no such part exists."""
        digest = hash_of(list(depends_on))[:12]
        part = f"{name.replace('/', '_')}-{digest}"
        file = self._folder / f"{part}.json"
        if any_process(not file.exists()):
            started = time.monotonic()
            with shared(part, self._folder):
                rows = make()
            wait_for_everyone()  # all have read the journals that go now
            if main_process():
                took = {"seconds": round(time.monotonic() - started, 1), "peak_memory_gib": round(peak_memory_gib(), 2)}
                write_json(file, {"rows": rows} | took)
                for journal in self._folder.glob(f"{part}*{PARTIAL}"):
                    journal.unlink()
            wait_for_everyone()
        return read_json(file)


@dataclass(frozen=True, slots=True)
class EvalInputs:
    """What one evaluation works on."""

    config: EvaluationConfig
    subjects: tuple[Subject, ...]
    """The model, then its baselines."""
    rows: EvalSet
    parts: PartCache


def fill_in(config: EvaluationConfig) -> EvaluationConfig:
    """The config with what this machine decides."""
    return replace(config, bf16=computes_in_bf16(config.bf16))


def measure(inputs: EvalInputs, subject: Subject) -> Measured:
    """Log-probabilities of all responses and, with `config.answers`, the model's own answers under itself."""
    config, rows, parts = inputs.config, inputs.rows, inputs.parts
    lazy = _LazyModel(subject, config)
    view = rows.rendered[subject.name]
    basis = [subject.hash, _ids_hash(view), config.dtype, lazy.bf16, str(this_device())]
    logps = parts.get(f"{subject.name}-logps", [*basis, config.batch_size], lambda: _score_rows(lazy, view, config))
    answers: dict[str, Any] = {"rows": [], "seconds": 0.0, "peak_memory_gib": 0.0}
    if config.answers:
        drawing: list[object] = [
            config.max_new_tokens,
            config.temperature,
            config.seed,
            config.sample_batch_size,
            config.batch_size,
        ]
        drawing += [] if config.sampler == IN_PROCESS else ["an engine"]
        answers = parts.get(f"{subject.name}-answers", [*basis, *drawing], lambda: _draw(lazy, view, config))
    lazy.free()
    return Measured(
        logps=tuple(Logps(*row) for row in logps["rows"]),
        answers=tuple(
            Answered(Response(tuple(ids), finished), subject.renderer.decode(ids), logp)
            for ids, finished, logp in answers["rows"]
        ),
        seconds=logps["seconds"] + answers["seconds"],
        peak_memory_gib=max(part["peak_memory_gib"] for part in (logps, answers)),
        scored_tokens=sum(side.tokens for row in view for side in _sides(row)),
        sampled_tokens=sum(len(ids) for ids, _, _ in answers["rows"]),
    )


@dataclass(frozen=True, slots=True)
class Earned:
    """What a reward gives, in the order of the rows; None where the reward cannot read a response."""

    demo: tuple[float | None, ...]
    rejected: tuple[float | None, ...]
    """Empty without preference rows."""
    answers: dict[str, tuple[float | None, ...]]
    """Model name -> rewards of its answers."""


def reward_everything(inputs: EvalInputs, reward: Reward, measured: dict[str, Measured]) -> Earned:
    """The reward of every demonstration, rejected response and answer."""
    config, rows, parts = inputs.config, inputs.rows, inputs.parts
    basis = [reward.name, reward.hash, rows.hash, config.dtype, config.bf16, config.batch_size, str(this_device())]
    given = {"demonstrations": [row.demo for row in rows.rows]}
    if rows.preferences:
        given["rejected"] = [row.rejected for row in rows.rows if row.rejected]
    found = {
        side: parts.get(f"reward-{side}", basis, partial(_rewards_of_texts, reward, texts, config, side))["rows"]
        for side, texts in given.items()
    }
    answers = {}
    for subject in inputs.subjects:
        if drawn := measured[subject.name].answers:
            ids = hash_of([answer.response.ids for answer in drawn])
            make = partial(_rewards_of_answers, reward, rows, subject, drawn, config)
            answers[subject.name] = tuple(parts.get(f"reward-{subject.name}", [*basis, ids], make)["rows"])
    return Earned(tuple(found["demonstrations"]), tuple(found.get("rejected", ())), answers)


class _LazyModel:
    """A model that is loaded when first asked for: not at all where every part is there already."""

    def __init__(self, subject: Subject, config: EvaluationConfig) -> None:
        self.subject, self.name, self._dtype = subject, subject.name, config.dtype
        self._policy: Policy | None = None
        self.bf16 = bool(config.bf16)

    @property
    def policy(self) -> Policy:
        if self._policy is None:
            folder = self.subject.folder
            self._policy = load_policy(folder, dtype=self._dtype, attn_implementation=None, device=this_device())
        return self._policy

    def free(self) -> None:
        """Drop the model."""
        self._policy = None
        give_back_memory()


def _sides(row: RenderedRow) -> list[RenderedDemonstration]:
    return [row.demo] if row.rejected is None else [row.demo, row.rejected]


def _ids_hash(view: Sequence[RenderedRow]) -> str:
    """Of everything that the model reads: it says which rows these are, and by which template they were written."""
    keys = [side.key for row in view for side in _sides(row)]
    return hashlib.sha256(" ".join(keys).encode()).hexdigest()


def _logps(lazy: "_LazyModel", completions: Sequence[Completion], config: EvaluationConfig, what: str) -> list[float]:
    """Log-probabilities under the model. Raises DemotuneError where one is not finite."""
    with track(f"{lazy.name}: {what}", len(completions), "responses") as tracker:
        logps = completion_logps(
            lazy.policy, completions, batch_size=config.batch_size, bf16=lazy.bf16, advance=tracker.advance
        )
    if wrong := sum(not math.isfinite(logp) for logp in logps):
        raise DemotuneError(
            f"{lazy.name} gives {wrong} of {len(logps)} responses a log-probability that is not finite: its "
            "weights are damaged, or its numbers are too large for this precision; give --no-bf16, or another model"
        )
    return logps


def _score_rows(lazy: _LazyModel, view: Sequence[RenderedRow], config: EvaluationConfig) -> list[Any]:
    sides = [side for row in view for side in _sides(row)]
    completions = [Completion(side.prompt_ids, side.demo) for side in sides]
    logps = iter(_logps(lazy, completions, config, "log-probabilities"))
    rows = []
    for row in view:
        numbers: list[float | int | None] = [next(logps), len(row.demo.demo.ids), None, None]
        if row.rejected is not None:
            numbers[2:] = [next(logps), len(row.rejected.demo.ids)]
        rows.append(numbers)
    return rows


def _draw(lazy: _LazyModel, view: Sequence[RenderedRow], config: EvaluationConfig) -> list[Any]:
    """(ids, finished, log-probability under the model itself) of one answer to each prompt."""
    prompts = [row.demo.prompt_ids for row in view]
    options = SamplingOptions(
        max_new_tokens=config.max_new_tokens,
        max_length=lazy.subject.longest,
        stop_ids=lazy.subject.renderer.stop_ids,
        vocabulary=lazy.subject.renderer.vocabulary,
        temperature=config.temperature,
        bf16=lazy.bf16,
    )
    place, model, slots = Path(config.output), lazy.subject.folder, config.sample_batch_size
    with (
        sampler_for(
            lambda: lazy.policy, lazy.name, prompts, options, chosen=config, folder=place, model=model, slots=slots
        ) as sampler,
        track(f"{lazy.name}: answers", len(prompts), "responses") as tracker,
    ):
        expected = fmean(len(row.demo.demo.ids) for row in view)
        drawn = draw_kept(
            journal_here(), lambda: sampler, prompts, config.seed, options, tracker=tracker, expected=expected
        )
    completions = [Completion(*both) for both in zip(prompts, drawn, strict=True)]
    logps = _logps(lazy, completions, config, "log-probabilities of answers")
    return [
        (completion.response.ids, completion.response.finished, logp)
        for completion, logp in zip(completions, logps, strict=True)
    ]


def _rewards_of_texts(
    reward: Reward, texts: Sequence[Demonstration], config: EvaluationConfig, side: str
) -> list[float | None]:
    completions: list[Completion | None] = []
    for row in texts:
        try:
            completions.append(as_completion(reward, row))
        except RenderError:
            completions.append(None)
    return _score(reward, completions, config, f"{reward.name}: {side}")


def _rewards_of_answers(
    reward: Reward, rows: EvalSet, subject: Subject, drawn: Sequence[Answered], config: EvaluationConfig
) -> list[float | None]:
    views = rows.rendered[subject.name]
    asked = [
        Asked(row.demo.prompt, view.demo.prompt_ids, row.demo.context)
        for row, view in zip(rows.rows, views, strict=True)
    ]
    completions = completions_for(reward, subject.renderer, asked, [answer.response for answer in drawn])
    return _score(reward, completions, config, f"{reward.name}: answers of {subject.name}")


def _score(
    reward: Reward, completions: Sequence[Completion | None], config: EvaluationConfig, what: str
) -> list[float | None]:
    if unread := sum(completion is None for completion in completions):
        say(f"{what}: {unread} of {len(completions)} cannot be read and have no reward")
    return rewards_of_readable(reward, completions, batch_size=config.batch_size, what=what)
