"""What a run began with, by content, and the refusal to go on with anything else."""

import datetime
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from demotune.config import as_dict
from demotune.config_files import save_config
from demotune.errors import DemotuneError
from demotune.files import file_hash, write_json, write_rows
from demotune.machine import command_line, hardware, package_versions
from demotune.models import content_hash, parameter_count
from demotune.processes import main_process, process_count, wait_for_everyone
from demotune.progress import warn
from demotune.rendering import content_key
from demotune.setup import Setup


def write_manifest(setup: Setup) -> None:
    """run.yaml and the names of the rows, then manifest.json: from here on the folder holds a run."""
    if main_process():
        save_config(setup.config, setup.folder.config)
        write_rows(setup.folder.rows, _row_names(setup))
        about = {
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": command_line(),
            "versions": package_versions(),
            "hardware": hardware(),
            "parameters": parameter_count(setup.start_model),
        }
        write_json(setup.folder.manifest, about | identity(setup))
    wait_for_everyone()


def identity(setup: Setup) -> dict[str, Any]:
    """What makes two runs the same run: config, model and data by content, token ids, and who shares a step."""
    return {
        "config": as_dict(setup.config),
        "model": setup.start_hash,
        "data": setup.data_hashes,
        "processes": process_count(),
        "rows": hashlib.sha256(" ".join(row.key for row in (*setup.train, *setup.heldout)).encode()).hexdigest(),
    }


def _row_names(setup: Setup) -> Iterator[dict[str, object]]:
    """Each row by its key and the key of its prompt: which rows a model was trained on, without the rows themselves."""
    for heldout, rows in ((False, setup.train), (True, setup.heldout)):
        for row in rows:
            yield {"key": row.key, "prompt": content_key(row.prompt_ids, ()), "heldout": heldout}


def check_unchanged(setup: Setup) -> None:
    """Raise DemotuneError, with the difference, unless a resumed run is the run that was begun."""
    begun = json.loads(setup.folder.manifest.read_text(encoding="utf-8"))
    now = json.loads(json.dumps(identity(setup)))
    changes = [
        *_differences("config", begun["config"], now["config"]),
        *_differences("data", begun["data"], now["data"]),
        *_differences("number of", {"processes": begun["processes"]}, {"processes": now["processes"]}),
        *([f"model: the files of {setup.config.model} have changed"] if begun["model"] != now["model"] else []),
    ]
    if not changes and begun["rows"] != now["rows"]:
        changes = ["rows: tokenizer, template or library versions now give other token ids for the same data"]
    if changes:
        raise DemotuneError(
            f"{setup.folder.root} was begun with something else, so it cannot go on:\n  "
            + "\n  ".join(changes)
            + "\nundo the change, or start a new run with another --output"
        )
    _check_outputs(setup)
    for package, version in package_versions().items():
        if begun["versions"].get(package) != version:
            warn(f"{package} was {begun['versions'].get(package)} when this run began and is {version} now")


def _check_outputs(setup: Setup) -> None:
    """Each finished phase's files must be what they were when it finished."""
    for state_file in sorted(setup.folder.root.glob("stages/*/state.json")):
        for phase, record in json.loads(state_file.read_text(encoding="utf-8")).items():
            for name, expected in record["outputs"].items():
                path = state_file.parent / name
                found = content_hash(path) if path.is_dir() else file_hash(path) if path.exists() else "missing"
                if found != expected:
                    raise DemotuneError(
                        f"{path}, written by the {phase} phase, is {'missing' if found == 'missing' else 'changed'}; "
                        "restore it, or start a new run with another --output"
                    )


def _differences(what: str, begun: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    names = [name for name in {**begun, **now} if begun.get(name) != now.get(name)]
    return [f"{what} {name}: {begun.get(name)!r} when it began, {now.get(name)!r} now" for name in names]
