"""What the sample browser shows: a prompt, its demonstration, and what each policy answered, with numbers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from demotune.report.collect import Run, SampledRow
from demotune.report.evaluations import Evaluation
from demotune.runs.heldout import HeldoutRow

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
    REWARD: Metric("reward", "of this answer, by what the stage that drew it learned"),
    MARGIN: Metric("margin", "that reward of the demonstration minus that of this answer"),
    GAP: Metric("gap", "log-probability of the demonstration minus that of this answer, nats; long texts have less"),
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
    prompt: str
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
    same_start = len({run.manifest.model for run in runs}) == 1
    notes = []
    for run in runs:
        of_run = f"{run.name}, " if len(runs) > 1 else ""
        start = "start model" if same_start else f"{of_run}start model"
        _add_heldout(rows, run, of_run, start)
        heldout = any(row.heldout for stage in run.stages for row in stage.samples)
        if run.stages[0].samples and not heldout:
            notes.append(f"{run.name} has no held-out rows: its prompts here were trained on.")
        for stage in run.stages:
            who = start if stage.number == 0 else f"{of_run}stage {stage.number - 1}"
            for row in stage.samples:
                if row.heldout or not heldout:
                    _add_sample(rows, row, who)
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


def _add_heldout(rows: dict[str, Prompt], run: Run, of_run: str, start: str) -> None:
    """Answers of the start model and after each stage."""
    before = {row.key: row.demo_logp for row in run.start or ()}
    for name, row in _heldout(run, of_run, start):
        answer = Answer(row.sample_text, row.sample.finished, {LENGTH: len(row.sample.ids)})
        if name != start and row.key in before:
            answer.numbers[CHANGE] = row.demo_logp - before[row.key]
        _prompt(rows, row.key, row.prompt, row.demonstration).answers.setdefault(name, answer)


def _heldout(run: Run, of_run: str, start: str) -> Iterator[tuple[str, HeldoutRow]]:
    for row in run.start or ():
        yield start, row
    for stage in run.stages:
        for row in stage.heldout or ():
            yield f"{of_run}stage {stage.number}", row


def _add_sample(rows: dict[str, Prompt], row: SampledRow, who: str) -> None:
    """A stage's sample: the answer that is there already, or a second draw of the same policy."""
    answers = _prompt(rows, row.key, row.prompt, row.demonstration).answers
    if who in answers and answers[who].text != row.sample:
        who = f"{who}, second draw"
    numbers = answers.setdefault(who, Answer(row.sample, row.finished)).numbers
    numbers[LENGTH] = row.sample_tokens
    if row.demo_logp is not None and row.sample_logp is not None:
        numbers[GAP] = row.demo_logp - row.sample_logp
    if row.demo_reward is not None and row.sample_reward is not None:
        numbers[REWARD] = row.sample_reward
        numbers[MARGIN] = row.demo_reward - row.sample_reward


def _add_evaluation(rows: dict[str, Prompt], evaluation: Evaluation, metrics: dict[str, Metric]) -> None:
    for row in evaluation.rows:
        prompt = _prompt(rows, row.key, row.prompt, row.demonstration)
        answers = prompt.answers
        if row.rejected is not None:
            answers[f"{evaluation.name}: rejected response"] = Answer(row.rejected)
        for judge, rewards in row.rewards.items():
            metrics[f"reward by {judge}"] = Metric(f"reward by {judge}", "of this answer")
            if rewards.get("demonstration") is not None:
                prompt.numbers[f"reward by {judge}"] = rewards["demonstration"]
            if row.rejected is not None and rewards.get("rejected") is not None:
                answers[f"{evaluation.name}: rejected response"].numbers[f"reward by {judge}"] = rewards["rejected"]
        for model, found in row.models.items():
            if found.get("sample") is None:
                continue
            answer = Answer(found["sample"], bool(found.get("finished", True)))
            answers[f"{evaluation.name}: {model}"] = answer
            if found.get("sample_tokens") is not None:
                answer.numbers[LENGTH] = found["sample_tokens"]
            if found.get("demo_logp") is not None and found.get("sample_logp") is not None:
                answer.numbers[GAP] = found["demo_logp"] - found["sample_logp"]
            for judge, reward in (found.get("rewards") or {}).items():
                if reward is not None:
                    metrics[f"reward by {judge}"] = Metric(f"reward by {judge}", "of this answer")
                    answer.numbers[f"reward by {judge}"] = reward


def _prompt(rows: dict[str, Prompt], key: str, prompt: str, demonstration: str) -> Prompt:
    return rows.setdefault(key, Prompt(key, prompt, demonstration))
