"""The harness's tasks in memory, with their rows checked before any model is loaded."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets

from demotune.common.errors import DemotuneError, first_line
from demotune.evaluation.tasks.data import SUBJECT_FOLDERS, TaskFiles, harness_index, single_tasks, write_task_files
from demotune.models.policy import hide_library_bars


class NoTaskDataError(DemotuneError):
    """A task's rows are in no folder, and the hub did not give them."""


@dataclass(frozen=True, slots=True)
class LoadedTasks:
    """Tasks of the harness, ready to be run."""

    manager: Any
    """The harness's TaskManager of these tasks alone; one of all its tasks takes seconds to make."""
    loaded: Mapping[str, Sequence[Any]]
    """Per name that was asked for: the harness's task, or its group, or the tasks of a tag."""
    missing: tuple[str, ...]
    """Optional names whose rows neither a folder nor the hub had."""
    notes: tuple[str, ...]
    """What is not as the harness has it, and why a name is missing."""

    def singles(self) -> Iterator[Any]:
        """All tasks with rows of their own."""
        for members in self.loaded.values():
            for member in members:
                yield from member.get_all_tasks() if hasattr(member, "get_all_tasks") else [member]


@contextmanager
def load_tasks(
    few_shots: Mapping[str, int | None], task_data: Sequence[Path], *, limit: int | None, optional: AbstractSet[str]
) -> Iterator[LoadedTasks]:
    """The tasks that are the keys of `few_shots`; the files of their rows are there until the block ends.

    Few-shots and `task_data` are those of `write_task_files`; `limit` says how many items of each task are checked.
    Raises DemotuneError for rows that do not fit, too few rows for the few-shots, and NoTaskDataError for a name whose
    rows cannot be found, unless it is in `optional` and another name has rows.
    """
    with _quiet_libraries(), TemporaryDirectory(prefix="demotune-tasks-") as folder:
        files = write_task_files(few_shots, task_data, Path(folder))
        from lm_eval.tasks import TaskManager  # noqa: PLC0415

        manager = TaskManager(include_path=folder, include_defaults=False)
        loaded: dict[str, Sequence[Any]] = {}
        failures: dict[str, str] = {}
        for name in few_shots:
            try:
                loaded[name] = _load_task(name, files, manager)
            except NoTaskDataError as error:
                if name not in optional:
                    raise
                failures[name] = str(error)
        if not loaded:
            raise NoTaskDataError(f"none of {', '.join(failures)} has rows; {next(iter(failures.values()))}")
        tasks = LoadedTasks(manager, loaded, tuple(failures), (*files.notes, *failures.values()))
        _check_tasks(tasks, files, limit)
        yield tasks


def item_texts(task: Any, limit: int | None) -> list[str]:
    """The question of each evaluated item as the harness asks it without few-shots, then the right answer."""
    texts = []
    for _, doc in task.doc_iterator(limit=limit):
        question, target = task.doc_to_text(doc), task.doc_to_target(doc)
        choices = None if task.config.doc_to_choice is None else task.doc_to_choice(doc)
        if choices is not None and isinstance(question, int):  # Winogrande: the choice is in the question
            question = choices[question]
        if choices is not None and isinstance(target, int):
            target = choices[target]
        texts.append(f"{question}{task.config.target_delimiter}{target}")
    return texts


def _load_task(name: str, files: TaskFiles, manager: Any) -> Sequence[Any]:
    try:
        found = manager.load(name)
    except ImportError as error:
        raise DemotuneError(f"task {name} needs a package that is not here: {first_line(error)}; install it") from error
    except Exception as error:  # a task's file runs code of the harness on the rows
        away = [task for task in single_tasks(name) if task not in files.local]
        if not away:
            raise _do_not_fit(name, files, error) from error
        config = harness_index()[away[0]].cfg
        source = config.get("dataset_path")
        folder, split = SUBJECT_FOLDERS.get(source, away[0]), config.get("test_split") or config.get("validation_split")
        raise NoTaskDataError(
            f"task {name} has no rows: no folder {folder} in --task-data, and the hub did not give {source} "
            f"({first_line(error)}); give --task-data DIR with {folder}/{split}.jsonl in it"
        ) from error
    groups = found.get("groups", {})
    return [groups[name]] if name in groups else list(found["tasks"].values())


def _do_not_fit(name: str, files: TaskFiles, error: Exception) -> DemotuneError:
    task = single_tasks(name)[0]
    source = files.local[task]
    return DemotuneError(
        f"the rows in {source} do not fit task {name} ({type(error).__name__}: {first_line(error)}); their columns are "
        f"{', '.join(files.columns[source])}; they must be those of {harness_index()[task].cfg.get('dataset_path')}"
    )


def _check_tasks(tasks: LoadedTasks, files: TaskFiles, limit: int | None) -> None:
    """Find before the model is loaded what the harness would stumble over after."""
    seen = set()
    for task in tasks.singles():
        name = task.task_name
        if name in seen:
            raise DemotuneError(f"task {name} is asked for twice, by itself and in a group; name one of them")
        seen.add(name)
        if name not in files.local:
            continue
        try:
            item_texts(task, limit)
        except Exception as error:
            raise _do_not_fit(name, files, error) from error
        few_shots = task.config.num_fewshot or 0
        own_row_is_left_out = task.fewshot_cfg.split == task.config.test_split  # the harness's rule
        needed = few_shots + int(own_row_is_left_out)
        if few_shots and len(task.sampler.df) < needed:
            raise DemotuneError(
                f"task {name} with {few_shots} few-shots needs {needed} rows to draw them from, "
                f"{files.local[name]} has {len(task.sampler.df)}; add rows, or ask for fewer few-shots"
            )


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Warnings and the harness's own progress bars, no more."""
    logger = logging.getLogger("lm_eval")
    level, bars = logger.level, datasets.are_progress_bars_disabled()
    logger.setLevel(logging.WARNING)
    datasets.disable_progress_bars()
    hide_library_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()
