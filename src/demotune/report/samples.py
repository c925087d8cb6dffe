"""What the sample browser shows: a prompt, its demonstration, and what each policy answered, with numbers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from demotune.report.messages import Message, messages_of
from demotune.report.wording import stage_name
from demotune.runs.evaluation import Evaluation
from demotune.runs.heldout import HeldoutRow
from demotune.runs.run import Run
from demotune.runs.stage_reader import SampledRow

MOST_ROWS = 500

CHANGE, REWARD, MARGIN, GAP, LENGTH = "change", "reward", "margin", "gap", "length"


@dataclass(frozen=True, slots=True)
class Metric:
    """A number of an answer. Low is the worse end of each, but long is the worse end of length."""

    short: str
    meaning: str


METRICS = {
    CHANGE: Metric(
        "likelier by", "log-probability of the demonstration under this policy minus under the start model, nats"
    ),
    REWARD: Metric("own reward", "of this answer, by the reward that its stage learned"),
    MARGIN: Metric("own margin", "that reward of the demonstration minus that of this answer"),
    GAP: Metric(
        "log-probability gap",
        "log-probability of the demonstration minus that of this answer, nats; long texts have less",
    ),
    LENGTH: Metric("tokens", "length of this answer; longest counts as worst"),
}


@dataclass(slots=True)
class Answer:
    """One response to a prompt. `numbers` are by metric key."""

    text: str
    finished: bool = True
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Prompt:
    """A row of the browser; `answers` are by who wrote them, `numbers` are the demonstration's."""

    key: str
    messages: tuple[Message, ...]
    demonstration: str
    numbers: dict[str, float] = field(default_factory=dict)
    answers: dict[str, Answer] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Browser:
    """All rows, who answers, which metrics there are, and a line on what was left out."""

    rows: tuple[Prompt, ...]
    names: tuple[str, ...]
    metrics: Mapping[str, Metric]
    note: str


def collect_samples(runs: Sequence[Run], evaluations: Sequence[Evaluation]) -> Browser:
    """Rows of runs and evaluations, joined by key. Held-out rows; of a run without any, training rows."""
    rows: dict[str, Prompt] = {}
    several = len(runs) > 1
    same_start = len({run.manifest.model for run in runs}) == 1
    notes = []
    for run in runs:
        start = "start model" if same_start else f"{run.name}, start model"
        _add_heldout(rows, run, start, several=several)
        if not run.start and run.stages[0].drew:
            notes.append(f"{run.name} has no held-out rows: its prompts here were trained on.")
        for stage in run.stages:
            who = stage_name(run.name, stage.number - 1, several=several) if stage.number else start
            for row in stage.heldout_samples if run.start else islice(stage.iter_samples(), MOST_ROWS + 1):
                _add_sample(rows, row, who, run.config.get("template"))
    metrics = dict(METRICS)
    for evaluation in evaluations:
        _add_evaluation(rows, evaluation, metrics)
    kept = tuple(rows.values())[:MOST_ROWS]
    if len(rows) > MOST_ROWS:
        notes.append(f"The first {MOST_ROWS} of {len(rows)} prompts are here; the run folder has them all.")
    found = {key for row in kept for answer in row.answers.values() for key in answer.numbers}
    return Browser(
        rows=kept,
        names=tuple(dict.fromkeys(name for row in kept for name in row.answers)),
        metrics={key: metric for key, metric in metrics.items() if key in found},
        note=" ".join(notes),
    )


def _add_heldout(rows: dict[str, Prompt], run: Run, start: str, *, several: bool) -> None:
    """Answers of the start model and after each stage."""

    def answers() -> Iterator[tuple[str, HeldoutRow]]:
        for row in run.start or ():
            yield start, row
        for stage in run.stages:
            for row in stage.heldout or ():
                yield stage_name(run.name, stage.number, several=several), row

    before = {row.key: row.demo_logp for row in run.start or ()}
    for name, row in answers():
        answer = Answer(row.sample, row.finished, {LENGTH: len(row.sample_ids)})
        if name != start and row.key in before:
            answer.numbers[CHANGE] = row.demo_logp - before[row.key]
        prompt = _prompt(rows, row.key, row.prompt, row.demonstration, run.config.get("template"))
        prompt.answers.setdefault(name, answer)


def _add_sample(rows: dict[str, Prompt], row: SampledRow, who: str, template: str | None) -> None:
    """A stage's sample: an answer that is there already, or one more draw of the same policy."""
    answers = _prompt(rows, row.key, row.prompt, row.demonstration, template).answers
    name, draw = who, 1
    while name in answers and answers[name].text != row.sample:
        draw += 1
        name = f"{who}, draw {draw}"
    numbers = answers.setdefault(name, Answer(row.sample, row.finished)).numbers
    numbers[LENGTH] = row.sample_tokens
    if row.demo_logp is not None and row.sample_logp is not None:
        numbers[GAP] = row.demo_logp - row.sample_logp
    if row.demo_reward is not None and row.sample_reward is not None:
        numbers[REWARD] = row.sample_reward
        numbers[MARGIN] = row.demo_reward - row.sample_reward


def _add_evaluation(rows: dict[str, Prompt], evaluation: Evaluation, metrics: dict[str, Metric]) -> None:
    """Answers of each model, the rejected response, and what each judge's reward gives to them."""
    rejected = f"{evaluation.name}: rejected response"

    def add_reward(judge: str, numbers: dict[str, float], reward: float | None) -> None:
        key = f"reward by {judge}"
        metrics[key] = Metric(key, "of this answer")
        if reward is not None:
            numbers[key] = reward

    for row in evaluation.rows:
        prompt = _prompt(rows, row.key, row.prompt, row.demonstration)
        if row.rejected is not None:
            prompt.answers[rejected] = Answer(row.rejected)
        for judge, rewards in row.rewards.items():
            add_reward(judge, prompt.numbers, rewards.get("demonstration"))
            if row.rejected is not None:
                add_reward(judge, prompt.answers[rejected].numbers, rewards.get("rejected"))
        for model, found in row.models.items():
            if found.get("sample") is None:
                continue
            answer = Answer(found["sample"], found["finished"], {LENGTH: found["sample_tokens"]})
            prompt.answers[f"{evaluation.name}: {model}"] = answer
            answer.numbers[GAP] = found["demo_logp"] - found["sample_logp"]
            for judge, reward in found["rewards"].items():
                add_reward(judge, answer.numbers, reward)


def _prompt(rows: dict[str, Prompt], key: str, prompt: str, demonstration: str, template: str | None = None) -> Prompt:
    if key not in rows:
        rows[key] = Prompt(key, messages_of(prompt, template), demonstration)
    return rows[key]
