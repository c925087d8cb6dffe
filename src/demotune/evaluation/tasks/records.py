"""How benchmark tasks are run, and what they gave."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from demotune.common.errors import DemotuneError

DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class PresetTask:
    """One task of a leaderboard: the harness's name, the metric that counts, examples in the prompt."""

    task: str
    metric: str
    few_shots: int


PRESETS: Mapping[str, tuple[PresetTask, ...]] = {
    "open-llm-leaderboard-v1": (
        PresetTask("arc_challenge", "acc_norm", 25),
        PresetTask("hellaswag", "acc_norm", 10),
        PresetTask("mmlu", "acc", 5),
        PresetTask("truthfulqa_mc2", "acc", 0),
        PresetTask("winogrande", "acc", 5),
        PresetTask("gsm8k", "exact_match,strict-match", 5),
    )
}
"""Named sets of tasks. A set's average is over those of its tasks that were run."""


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """How tasks are run. Raises DemotuneError for a number that makes no sense."""

    task_data: tuple[Path, ...] = ()
    """Folders with a subfolder of rows per task; a task that is in none of them asks the hub."""
    limit: int | None = None
    """The first so many items of each task (of each subject in MMLU); None: all."""
    few_shots: int | None = None
    """Examples in the prompt, for all tasks; None: the preset's number, else the harness's own."""
    batch_size: int = 8
    dtype: str = "auto"
    """Precision of the weights; auto: as they were saved."""
    apply_chat_template: bool = False

    def __post_init__(self) -> None:
        for name, least in (("limit", 1), ("few_shots", 0), ("batch_size", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                flag = name.replace("_", "-")
                raise DemotuneError(f"{flag} must be {least} or more, got {value}; leave --{flag} out for its default")
        if self.dtype not in DTYPES:
            raise DemotuneError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")


@dataclass(frozen=True, slots=True)
class TaskResult:
    """One metric of one task, or of one group of tasks, as the harness reports it."""

    task: str
    metric: str
    """The harness's name; with its filter behind a comma where the task has filters: `exact_match,strict-match`."""
    value: float
    stderr: float | None
    few_shots: int | None
    """None: the tasks of the group differ."""
    items: int
    higher_is_better: bool
    version: str
    """The harness's version of the task."""


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One metric of one item. Rows of two models belong together where task, doc_id and metric are equal."""

    task: str
    """A single task: for MMLU, the subject's."""
    doc_id: int
    doc_hash: str
    """The harness's hash of the item: equal hashes, equal items."""
    metric: str
    value: float
    target: str
    logps: tuple[float, ...] | None
    """The log-probability of each choice in nats, as the harness got it; None where the model wrote an answer."""
    answer: str | None
    """What was read out of the model's text; None where it was given choices."""


@dataclass(frozen=True, slots=True)
class TaskScores:
    """A model's scores on the tasks that were asked for."""

    average: float | None
    """Mean over the tasks of the preset that were run; None without a preset."""
    missing: tuple[str, ...]
    """Tasks of the preset whose rows neither a folder nor the hub had."""
    notes: tuple[str, ...]
    """What was not as the harness or the preset has it."""
    headline: tuple[TaskResult, ...]
    """A preset's tasks with the metric that counts; all metrics of the tasks that were named themselves."""
    results: tuple[TaskResult, ...]
    """All metrics of all tasks and groups that were run: for MMLU, its subjects too."""
    rows: tuple[TaskRow, ...]
