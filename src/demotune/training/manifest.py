"""What a run began with, by content, and the refusal to go on with anything else."""

import datetime
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from demotune.common.errors import DemotuneError
from demotune.common.files import UNFINISHED, damaged, file_hash
from demotune.common.json_records import write_records
from demotune.common.machine import command_line, hardware, package_versions
from demotune.common.processes import main_process, wait_for_everyone
from demotune.common.progress import warn
from demotune.config.config_files import save_config
from demotune.config.methods import as_dict
from demotune.config.sampler import without_place
from demotune.data.rendering import content_key
from demotune.models.policy import parameter_count
from demotune.runs.file_names import CARRIED, PARTIAL, SAMPLES, START, STATE, stage_title
from demotune.runs.manifest import VERSION, Manifest, read_manifest
from demotune.runs.manifest import write_manifest as write_file
from demotune.runs.rows import RowName
from demotune.training.setup import Setup
from demotune.training.stage import output_hash


def write_manifest(setup: Setup) -> None:
    """run.yaml and the names of the rows, then manifest.json: from here on the folder holds a run."""
    if main_process():
        save_config(setup.config, setup.folder.config)
        write_records(setup.folder.rows, _row_names(setup))
        manifest = Manifest(
            version=VERSION,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            command=command_line(),
            versions=package_versions(),
            hardware=hardware(),
            parameters=parameter_count(setup.start_model),
            rows_file=file_hash(setup.folder.rows),
            **identity(setup),
        )
        write_file(setup.folder.manifest, manifest)
    wait_for_everyone()


def identity(setup: Setup) -> dict[str, Any]:
    """What makes two runs the same run: config, model and data by content, token ids, and who shares a step."""
    return {
        "config": as_dict(setup.config),
        "model": setup.start_hash,
        "data": setup.data_hashes,
        "processes": setup.processes,
        "rows": hashlib.sha256(" ".join((*setup.train.keys, *setup.heldout.keys)).encode()).hexdigest(),
    }


def _row_names(setup: Setup) -> Iterator[RowName]:
    """Each row by its key and the key of its question: which rows a model was trained on, without their texts."""
    for heldout, rows in ((False, setup.train), (True, setup.heldout)):
        for row in rows:
            yield RowName(row.key, content_key(row.question, ()), heldout)


def check_unchanged(setup: Setup) -> None:
    """Raise DemotuneError, with the difference, unless a resumed run is the run that was begun."""
    begun = read_manifest(setup.folder.manifest)
    now = json.loads(json.dumps(identity(setup)))
    changes = [
        *_differences("config", without_place(begun.config), without_place(now["config"])),
        *_differences("data", begun.data, now["data"]),
        *([f"model: the files of {setup.config.model} have changed"] if begun.model != now["model"] else []),
    ]
    if not changes and begun.rows != now["rows"]:
        changes = ["rows: tokenizer, template or library versions now give other token ids for the same data"]
    if changes:
        raise DemotuneError(
            f"{setup.folder.root} was begun with something else, so it cannot go on:\n  "
            + "\n  ".join(changes)
            + "\nundo the change, or start a new run with another --output"
        )
    if begun.rows_file != _hash_of(setup.folder.rows):
        raise _not_what_was_written(setup.folder.rows, "when the run began")
    _check_outputs(setup)
    for package, version in package_versions().items():
        if begun.versions.get(package) != version:
            warn(f"{package} was {begun.versions.get(package)} when this run began and is {version} now")


def _check_outputs(setup: Setup) -> None:
    """Each finished phase's files must be what they were when it finished."""
    for number in range(setup.config.stages):
        folder = setup.folder.stage(number)
        state_file = folder / STATE
        if folder.is_dir() and not state_file.exists():
            _refuse_lost_state(folder)
        for phase, record in setup.folder.stage_state(number).items():
            if not isinstance(record, dict) or not isinstance(record.get("outputs"), dict):
                raise damaged(state_file, f"it names no outputs of the {phase} phase")
            for name, expected in record["outputs"].items():
                if name == CARRIED and not _carried_is_needed(setup, number):
                    continue
                if _hash_of(folder / name) == expected:
                    continue
                if name == CARRIED:
                    return _train_again(setup, number)
                raise _not_what_was_written(folder / name, f"by the {phase} phase")
    return None


def _refuse_lost_state(folder: Path) -> None:
    """A stage without a state has at most its first phase's journals and output, published just before the state."""
    first = {SAMPLES, START}
    found = [file.name for file in folder.iterdir() if not file.name.endswith((PARTIAL, UNFINISHED))]
    if lost := sorted(set(found) - first):
        raise DemotuneError(
            f"{folder / 'state.json'} is missing, though the stage has {', '.join(lost[:3])}; restore it, or start a "
            "new run with another --output"
        )


def _hash_of(path: Path) -> str:
    """The hash of an output; a word where there is none."""
    return output_hash(path) if path.exists() else "missing"


def _not_what_was_written(path: Path, when: str) -> DemotuneError:
    return DemotuneError(
        f"{path}, written {when}, is {'changed' if path.exists() else 'missing'}; restore it, or start a new run with "
        "another --output"
    )


def _carried_is_needed(setup: Setup, number: int) -> bool:
    """Whether a stage that is still to be trained takes up the optimizer that stage `number` left."""
    if setup.folder.finished or number + 1 == setup.config.stages:
        return False
    return "train" not in setup.folder.stage_state(number + 1)


def _train_again(setup: Setup, number: int) -> None:
    """Undo a stage's training, and what came after: an optimizer cannot be had without the steps that made it."""
    warn(f"{setup.folder.stage(number) / CARRIED} is damaged; {stage_title(number)} is trained again")
    wait_for_everyone()  # all have read the state before it changes
    if main_process():
        shutil.rmtree(setup.folder.stage(number + 1), ignore_errors=True)
        setup.folder.forget(number, ("train", "check"))
    wait_for_everyone()


def _differences(what: str, begun: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    names = [name for name in {**begun, **now} if begun.get(name) != now.get(name)]
    return [f"{what} {name}: {begun.get(name)!r} when it began, {now.get(name)!r} now" for name in names]
