"""Benchmark rows from local folders, for tasks that the harness (lm-eval) would fetch from the hub.

Each task gets a YAML file of a few lines that includes the harness's own and names JSONL files in place of the hub's
data set. Prompts, metrics and few-shot rules stay the harness's. The folder of YAML files is an `--include_path` of
the `lm_eval` command too.
"""

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from demotune.common.errors import DemotuneError
from demotune.common.files import write_rows
from demotune.common.suggestions import did_you_mean
from demotune.data.readers.by_suffix import file_rows
from demotune.records import BadRow

SUBJECT_FOLDERS = {"cais/mmlu": "mmlu"}
"""Hub data sets that many tasks share, one subject each: the local folder of all subjects, by `subject`."""

ONE_PIECE_HELLASWAG = {"process_docs": None, "doc_to_text": "{{context}}", "doc_to_choice": "endings"}
"""HellaSwag rows with their context in one piece, where the harness joins `activity_label`, `ctx_a` and `ctx_b`."""

EVALUATED_FIRST = ("test", "validation", "dev", "train")
FEW_SHOTS_FIRST = ("train", "dev", "validation", "test")

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TaskFiles:
    """What the YAML files for the harness say."""

    local: Mapping[str, Path]
    """Single tasks whose rows come from a local folder, and that folder. All others ask the hub."""
    columns: Mapping[Path, tuple[str, ...]]
    """The columns of each local folder."""
    notes: tuple[str, ...]
    """What is not as in the harness's own task: another split, few-shots from the evaluated rows."""


@cache
def harness_index() -> Mapping[str, Any]:
    """Every task, group and tag that the installed harness knows, by name. Takes seconds, once per process.

    Raises DemotuneError when the harness is not installed.
    """
    if find_spec("lm_eval") is None:
        raise DemotuneError("benchmark tasks need lm-eval, which is not installed; pip install 'demotune[tasks]'")
    from lm_eval.tasks import TaskManager  # noqa: PLC0415

    return dict(TaskManager().task_index)


def check_task_names(names: Sequence[str], also: Sequence[str] = ()) -> None:
    """Raises DemotuneError for a name that is not the harness's; it names near ones, of the harness or of `also`."""
    index = harness_index()
    for name in names:
        if name not in index:
            fix = did_you_mean(name, [*also, *index], most=4) or "`lm_eval ls tasks` lists all"
            raise DemotuneError(f"there is no task {name!r}; {fix}")


def single_tasks(name: str) -> tuple[str, ...]:
    """The tasks that have rows of their own behind a name: itself, or all in a group or tag."""
    index = harness_index()
    return tuple(member for member in _members(name, index) if index[member].kind.name not in ("GROUP", "TAG"))


def write_task_files(few_shots: Mapping[str, int | None], task_data: Sequence[Path], folder: Path) -> TaskFiles:
    """Write to `folder` what the harness needs to load the tasks that are the keys of `few_shots`.

    A number of few-shots holds for all tasks behind that name, None means the task's own number; the harness never
    overrides a task that fixes zero, nor does this. A task's rows are looked for in `DIR/TASK/SPLIT.jsonl` or
    `.jsonl.gz`, for each DIR in `task_data` in turn.

    Raises DemotuneError when a DIR is no folder, when a task's folder holds no rows, rows that cannot be read, or rows
    with unequal columns, and when a subject of MMLU has no rows.
    """
    for path in task_data:
        if not path.is_dir():
            raise DemotuneError(f"{path} is no folder; --task-data wants a folder with a subfolder per task")
    index = harness_index()
    local: dict[str, Path] = {}
    rows_in: dict[Path, dict[str, list[Row]]] = {}
    notes: dict[str, None] = {}
    for name, shots in few_shots.items():
        for member in _members(name, index):
            entry = index[member]
            if entry.kind.name == "TAG":
                continue
            settings: dict[str, object] = {"include": str(entry.yaml_path)}
            if entry.kind.name != "GROUP":
                if shots is not None and entry.cfg.get("num_fewshot") != 0:
                    settings["num_fewshot"] = shots
                source = _local_folder(member, entry.cfg, task_data)
                if source is not None:
                    local[member] = source
                    if source not in rows_in:
                        rows_in[source] = _read_folder(source)
                    splits = _rows_of_task(member, entry.cfg, source, rows_in[source])
                    own = {**entry.cfg, **settings}
                    changed, said = _local_settings(member, own, source, splits)
                    settings |= changed | _write_splits(splits, folder / "rows" / member)
                    notes |= dict.fromkeys(said)
            (folder / f"{member}.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    columns = {source: tuple(next(iter(splits.values()))[0]) for source, splits in rows_in.items()}
    return TaskFiles(local, columns, tuple(notes))


def _members(name: str, index: Mapping[str, Any]) -> Iterator[str]:
    """A name and all names in it, groups before their tasks."""
    yield name
    entry = index[name]
    if entry.kind.name == "TAG":
        for member in sorted(entry.tags):
            yield from _members(member, index)
    elif entry.kind.name == "GROUP":
        yield from _group_members(entry.cfg, index)


def _group_members(group: Mapping[str, Any], index: Mapping[str, Any]) -> Iterator[str]:
    children = group["task"]
    for child in children if isinstance(children, list) else [children]:
        name = child if isinstance(child, str) else child.get("group") or child["task"]
        if name in index:
            yield from _members(name, index)
        elif isinstance(child, dict) and "group" in child:  # a group that exists only inside this one
            yield from _group_members(child, index)


def _local_folder(task: str, config: Mapping[str, Any], task_data: Sequence[Path]) -> Path | None:
    names = [task]
    if config.get("dataset_path") in SUBJECT_FOLDERS:
        names.append(SUBJECT_FOLDERS[config["dataset_path"]])
    return next((path / name for path in task_data for name in names if (path / name).is_dir()), None)


def _read_folder(folder: Path) -> dict[str, list[Row]]:
    """The rows of each split; all rows of a folder have the same columns."""
    splits: dict[str, list[Row]] = {}
    columns: AbstractSet[str] | None = None
    for file in sorted(p for p in folder.iterdir() if p.name.endswith((".jsonl", ".jsonl.gz"))):
        rows: list[Row] = []
        for row in file_rows(file):
            if isinstance(row, BadRow):
                raise DemotuneError(f"{row.source} is no benchmark row: {row.reason}, {row.detail}; fix that row")
            columns = columns or row.columns.keys()
            if row.columns.keys() != columns:
                unequal = ", ".join(sorted(row.columns.keys() ^ columns))
                raise DemotuneError(f"{row.source} and the rows before it differ in columns: {unequal}; fix that row")
            rows.append(row.columns)
        if rows:
            splits[file.name.removesuffix(".gz").removesuffix(".jsonl")] = rows
    if not splits:
        raise DemotuneError(f"{folder} holds no rows; put test.jsonl, validation.jsonl, dev.jsonl or train.jsonl there")
    return splits


def _rows_of_task(
    task: str, config: Mapping[str, Any], source: Path, splits: dict[str, list[Row]]
) -> dict[str, list[Row]]:
    """All rows of the task's own folder, or those of its subject in a folder that several tasks share."""
    if source.name == task:
        return splits
    subject = config.get("dataset_name")
    mine = {split: [row for row in rows if row.get("subject") == subject] for split, rows in splits.items()}
    mine = {split: rows for split, rows in mine.items() if rows}
    if not mine:
        raise DemotuneError(
            f"{source} has no row with subject {subject!r}, which {task} needs; add these rows, or name the tasks "
            "of the subjects that are there"
        )
    return mine


def _write_splits(splits: Mapping[str, Sequence[Row]], folder: Path) -> dict[str, object]:
    """The rows as files, and the settings that name them; what `datasets` caches of them stays beside them."""
    files = {split: folder / f"{split}.jsonl" for split in splits}
    for split, rows in splits.items():
        write_rows(files[split], rows)
    data_files = {split: str(file) for split, file in files.items()}
    return {
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": data_files, "cache_dir": str(folder.parent / ".cache")},
    }


def _local_settings(
    task: str, config: Mapping[str, Any], source: Path, splits: Mapping[str, Sequence[Row]]
) -> tuple[dict[str, object], list[str]]:
    """What a task's YAML must say about local rows beside their files, and what a reader of its score should know."""
    settings, notes = choose_splits(config, frozenset(splits))
    notes = [f"{source.name}: {note}" for note in notes]
    columns = next(iter(splits.values()))[0].keys()
    if task == "hellaswag" and "context" in columns and "ctx_a" not in columns:
        settings |= ONE_PIECE_HELLASWAG
        notes.append("hellaswag: rows with their context in one piece; the score is not the leaderboard's")
    return settings, notes


def choose_splits(config: Mapping[str, Any], there: AbstractSet[str]) -> tuple[dict[str, object], list[str]]:
    """A task's split settings when only the splits in `there` exist, and notes on what differs from the harness.

    Where the harness's splits are there, nothing but the missing others changes. Otherwise rows are evaluated from
    the first of test, validation, dev, train, and few-shots drawn from the first of train, dev, validation, test that
    is not evaluated. Where the evaluated split is the only one, few-shots come from it, and never the item itself.
    """
    own: dict[str, str | None] = {
        key: config.get(key) for key in ("training_split", "validation_split", "test_split", "fewshot_split")
    }
    kept = {key: split if split in there else None for key, split in own.items()}
    settings: dict[str, object] = dict(kept)
    notes = []
    wanted = own["test_split"] or own["validation_split"]
    evaluated = kept["test_split"] or kept["validation_split"]
    if evaluated is None:
        evaluated = _first(EVALUATED_FIRST, there)
        settings["test_split"] = evaluated
    if evaluated != wanted:
        notes.append(f"evaluated on the {evaluated} split, for want of {wanted}")

    usual = own["fewshot_split"] or own["training_split"] or own["validation_split"] or own["test_split"]
    usual_is_there = usual in there and (usual != evaluated or evaluated == wanted)
    few_shots_are_listed = bool((config.get("fewshot_config") or {}).get("samples")) and own["fewshot_split"] is None
    if not usual_is_there and not few_shots_are_listed:
        others = there - {evaluated}
        settings["fewshot_split"] = _first(FEW_SHOTS_FIRST, others) if others else evaluated
        if not others:
            settings["test_split"] = evaluated  # where both are named and equal, a row is not its own few-shot
        if config.get("num_fewshot"):
            where = f"the {settings['fewshot_split']} split" if others else "the other evaluated rows"
            notes.append(f"few-shots come from {where}, for want of {usual}")
    return settings, notes


def _first(order: Sequence[str], there: AbstractSet[str]) -> str:
    return next((split for split in order if split in there), min(there))
