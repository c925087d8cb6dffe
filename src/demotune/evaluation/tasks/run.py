"""Benchmark tasks, scored by the harness (lm-eval): the same numbers as its own command, in our records.

The harness writes the prompts, asks the model and scores. This module says which tasks, on which rows, with which
model, and keeps every item's score, so that two models are compared item by item.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from numbers import Real
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from demotune.common.errors import DemotuneError
from demotune.common.files import write_json, write_rows
from demotune.common.json_records import as_json
from demotune.common.processes import process_count, this_device
from demotune.common.progress import say, warn
from demotune.evaluation.tasks.data import check_task_names
from demotune.evaluation.tasks.loading import LoadedTasks, item_texts, load_tasks
from demotune.evaluation.tasks.records import PRESETS, PresetTask, TaskOptions, TaskResult, TaskRow, TaskScores
from demotune.models.model_folder import is_adapter, reading
from demotune.models.policy import refuse_broken_policy, resolve_base
from demotune.models.tokenizers import tokenizer_folder
from demotune.runs.file_names import TASK_ROWS, TASKS


def evaluate_tasks(folder: Path, names: Sequence[str], options: TaskOptions) -> TaskScores:
    """Scores of the model or LoRA adapter in `folder` on tasks, by the harness's names, or on those of a preset.

    The same as `lm_eval run --model hf --tasks NAMES` with equal precision, batch size and few-shots, on the same rows.

    Raises DemotuneError for unknown names, rows that do not fit a task, rows that cannot be found (for a preset,
    only when that holds for all of its tasks), and a model that does not load.
    """
    refuse_several_processes()
    with _load_asked(names, options) as (tasks, preset):
        for note in tasks.notes:
            warn(note)
        from lm_eval import simple_evaluate  # noqa: PLC0415

        model = _load_model(folder, options)
        say(f"tasks of {folder}: {', '.join(tasks.loaded)}")
        found = simple_evaluate(
            model=model,
            tasks=[member for members in tasks.loaded.values() for member in members],
            task_manager=tasks.manager,
            batch_size=options.batch_size,
            limit=options.limit,
            log_samples=True,
            apply_chat_template=options.apply_chat_template,
            fewshot_as_multiturn=options.apply_chat_template,
        )
        return _scores(found, tasks, preset)


def refuse_several_processes() -> None:
    """Raise DemotuneError where several processes were started: the harness works in one."""
    if process_count() > 1:
        raise DemotuneError(
            f"tasks run in one process, {process_count()} were started; give --tasks to a command of its own, without "
            "torchrun or accelerate launch"
        )


def task_documents(names: Sequence[str], options: TaskOptions) -> dict[str, list[str]]:
    """The text of every item that `evaluate_tasks` would score, per single task.

    A text is the question without few-shots, then the right answer. A task's fixed text is part of it, such as the six
    questions before each of TruthfulQA's.
    Raises DemotuneError as `evaluate_tasks` does.
    """
    with _load_asked(names, options) as (tasks, _):
        return {task.task_name: item_texts(task, options.limit) for task in tasks.singles()}


def write_task_scores(folder: Path, scores: Mapping[str, TaskScores], options: TaskOptions) -> None:
    """Write `tasks.json` and `task-rows.jsonl.gz` to an evaluation folder; `scores` by the name of the model."""
    asked = {**asdict(options), "task_data": [str(path) for path in options.task_data]}
    models = {
        name: {field: value for field, value in as_json(replace(of_model, rows=())).items() if field != "rows"}
        for name, of_model in scores.items()
    }
    write_rows(
        folder / TASK_ROWS,
        ({"model": name, **asdict(row)} for name, of_model in scores.items() for row in of_model.rows),
    )
    harness = f"lm-eval {version('lm-eval')}"
    write_json(folder / TASKS, {"harness": harness, "options": asked, "models": models})


@contextmanager
def _load_asked(names: Sequence[str], options: TaskOptions) -> Iterator[tuple[LoadedTasks, tuple[PresetTask, ...]]]:
    """The tasks behind names and presets, and those of them that are a preset's."""
    if not names:
        raise DemotuneError(f"no task is named; give --tasks {next(iter(PRESETS))}, or the harness's name of a task")
    preset = tuple(task for name in names for task in PRESETS.get(name, ()))
    named = [name for name in names if name not in PRESETS]
    check_task_names(named, also=tuple(PRESETS))
    few_shots: dict[str, int | None] = {task.task: task.few_shots for task in preset}
    few_shots |= {name: None for name in named if name not in few_shots}
    if options.few_shots is not None:
        few_shots = dict.fromkeys(few_shots, options.few_shots)
        if preset:
            warn(f"every task has {options.few_shots} few-shots, not the preset's number")
    optional = frozenset(task.task for task in preset) - set(named)
    with load_tasks(few_shots, options.task_data, limit=options.limit, optional=optional) as tasks:
        yield tasks, preset


def _load_model(folder: Path, options: TaskOptions) -> Any:
    """The harness's model. Raises DemotuneError when the model does not load, or has no chat template to apply."""
    from lm_eval.models.huggingface import HFLM  # noqa: PLC0415

    adapter = folder if is_adapter(folder) else None
    base = resolve_base(folder) if adapter else folder
    refuse_broken_policy(folder)
    with reading(folder, "a model of the harness"):
        model = HFLM(
            pretrained=str(base),
            peft=None if adapter is None else str(adapter),
            tokenizer=str(tokenizer_folder(folder)),
            device=str(this_device()),
            dtype=options.dtype,
            batch_size=options.batch_size,
            use_safetensors=True,
        )
    tokenizer: PreTrainedTokenizerBase = model.tokenizer
    if options.apply_chat_template and not tokenizer.chat_template:
        raise DemotuneError(f"the tokenizer of {folder} has no chat template to apply; leave the chat template off")
    return model


def _scores(found: Mapping[str, Any], tasks: LoadedTasks, preset: Sequence[PresetTask]) -> TaskScores:
    results = tuple(_results(found))
    by_metric = {(result.task, result.metric): result for result in results}
    of_preset = [by_metric[task.task, task.metric] for task in preset if task.task in tasks.loaded]
    asked = set(tasks.loaded) - {task.task for task in preset}
    asked |= {member.task_name for name in asked for member in tasks.loaded[name] if hasattr(member, "task_name")}
    named = [result for result in results if result.task in asked]
    return TaskScores(
        headline=(*of_preset, *named),
        results=results,
        rows=tuple(_rows(found["samples"])),
        average=sum(result.value for result in of_preset) / len(of_preset) if of_preset else None,
        missing=tasks.missing,
        notes=tasks.notes,
    )


def _results(found: Mapping[str, Any]) -> Iterator[TaskResult]:
    for task, measures in found["results"].items():
        singles = _singles_below(task, found["group_subtasks"])
        few_shots = {found["n-shot"][single] for single in singles}
        for key, value in measures.items():
            metric, comma, filter_name = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, Real):
                continue
            stderr = measures.get(f"{metric}_stderr,{filter_name}")
            yield TaskResult(
                task=task,
                metric=_metric_name(metric, filter_name),
                value=float(value),
                stderr=float(stderr) if isinstance(stderr, Real) else None,
                few_shots=min(few_shots) if len(few_shots) == 1 else None,
                items=measures["sample_len"],
                higher_is_better=all(found["higher_is_better"][single].get(metric, True) for single in singles),
                version=str(found["versions"][task]),
            )


def _singles_below(task: str, members: Mapping[str, Sequence[str]]) -> list[str]:
    if task not in members:
        return [task]
    return [single for member in members[task] for single in _singles_below(member, members)]


def _rows(samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[TaskRow]:
    for task, of_task in samples.items():
        for sample in of_task:
            responses = sample["filtered_resps"]
            has_logps = all(isinstance(response, tuple | list) for response in responses)
            for metric in sample["metrics"]:
                if not isinstance(sample[metric], Real):  # perplexities come as pairs
                    continue
                yield TaskRow(
                    task=task,
                    doc_id=sample["doc_id"],
                    doc_hash=sample["doc_hash"],
                    metric=_metric_name(metric, sample["filter"]),
                    value=float(sample[metric]),
                    target=str(sample["target"]),
                    logps=tuple(float(response[0]) for response in responses) if has_logps else None,
                    answer=None if has_logps else str(responses[0]),
                )


def _metric_name(metric: str, filter_name: str) -> str:
    return metric if filter_name == "none" else f"{metric},{filter_name}"
