"""Open a data source: a file, a folder, a folder written by `datasets`, or a dataset on the hub."""

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from demotune.common.errors import DemotuneError, one_line
from demotune.common.files import file_hash, folder_hash
from demotune.data.raw_rows import Rows
from demotune.data.readers.arrow_tables import arrow_rows, divided
from demotune.data.readers.by_suffix import SUFFIXES, file_rows, is_data_file, is_other_file, refuse_other_suffix
from demotune.data.readers.streams import unreadable

_HUB_ID = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?::(?P<split>[\w.-]+))?")


@dataclass(frozen=True, slots=True)
class Table:
    """One file or dataset: its rows share one set of columns."""

    name: str
    rows: Rows
    """Can be read once."""


@dataclass(frozen=True, slots=True)
class OpenSource:
    """The tables of a source, not yet read, and a hash of its content."""

    tables: tuple[Table, ...]
    content_hash: str
    passed_over: tuple[str, ...] = ()
    """Files of a folder that look like data and cannot be read as they are."""


def open_source(source: str, reads: Callable[[str], bool]) -> OpenSource:
    """Find the tables of a source and hash its content. `reads`: the columns that mean something, see `file_rows`.

    A file is one table. A folder is all data files in it and below, sorted by path, hidden ones left out. A folder
    written by `datasets.save_to_disk`, and anything that is no path but looks like `owner/name` or
    `owner/name:split`, is one table; without a split it is `train`.

    The hash is SHA-256 over the bytes of a file, over names and bytes of the files of a folder; for a hub dataset it
    is the fingerprint that `datasets` gives it. Raises DemotuneError when there is nothing to read.
    """
    try:
        return _open(source, Path(source), reads)
    except OSError as error:
        raise unreadable(error.filename or source, error) from error


def _open(source: str, path: Path, reads: Callable[[str], bool]) -> OpenSource:
    if path.is_file():
        return OpenSource((Table(source, file_rows(path, reads)),), file_hash(path))
    if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        return _open_saved_dataset(source, path, reads)
    if path.is_dir():
        return _open_folder(path, reads)
    refuse_missing_source(source)
    if path.exists():
        raise DemotuneError(f"{source} is neither a file nor a folder; write its content to a .jsonl file first")
    found = cast(re.Match[str], _HUB_ID.fullmatch(source))
    return _open_hub_dataset(source, found["name"], found["split"] or "train", reads)


def refuse_missing_source(source: str) -> None:
    """Raise DemotuneError where a source is no path that can be read, and not possible as a hub dataset either."""
    path = Path(source)
    if path.is_file():
        refuse_other_suffix(path)
    if not path.exists() and (is_data_file(path) or not _HUB_ID.fullmatch(source)):
        raise DemotuneError(
            f"{source} does not exist (looked for a file or folder in {Path.cwd()}); "
            "check the path, or give a hub dataset as owner/name or owner/name:split"
        )


def _open_folder(folder: Path, reads: Callable[[str], bool]) -> OpenSource:
    inside = sorted(_files_below(folder))
    files = [path for path in inside if is_data_file(path)]
    others = tuple(str(path) for path in inside if is_other_file(path))
    if not files:
        there = f"; it has {others[0]}, which must be unpacked or converted first" if others else ""
        raise DemotuneError(f"{folder} holds no data file; expected {', '.join(SUFFIXES)} (or these with .gz){there}")
    tables = tuple(Table(str(path), file_rows(path, reads)) for path in files)
    return OpenSource(tables, folder_hash(folder, files), others)


def _files_below(folder: Path) -> Iterator[Path]:
    """All files in it and below, hidden ones left out. Raises OSError for a folder that cannot be listed."""

    def give_up(error: OSError) -> None:
        raise error

    seen = set()
    for root, folders, names in os.walk(folder, onerror=give_up, followlinks=True):
        if (real := Path(root).resolve()) in seen:  # a link back
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        found = (Path(root, name) for name in names if not name.startswith("."))
        yield from (path for path in found if path.is_file())


def _open_saved_dataset(source: str, folder: Path, reads: Callable[[str], bool]) -> OpenSource:
    import datasets  # noqa: PLC0415 (seconds to import, and rarely needed)

    # Named by state.json: `datasets` keeps its caches, which are no content, in the same folder.
    try:
        if (folder / "dataset_dict.json").is_file():
            folder = _saved_split(folder)
        state = json.loads((folder / "state.json").read_bytes())
        files = [folder / entry["filename"] for entry in state["_data_files"]]
        dataset = datasets.load_from_disk(str(folder))
    except DemotuneError:
        raise
    except Exception as error:  # whatever datasets and pyarrow raise for a folder that lacks a piece
        raise DemotuneError(
            f"{folder} looks like a dataset written by save_to_disk but cannot be read ({one_line(error)}); "
            "write it again, or export it with to_json"
        ) from error
    return OpenSource((Table(source, _dataset_rows(dataset, source, reads)),), folder_hash(folder, files))


def _saved_split(folder: Path) -> Path:
    splits: list[str] = json.loads((folder / "dataset_dict.json").read_bytes())["splits"]
    if "train" in splits or len(splits) == 1:
        return folder / ("train" if "train" in splits else splits[0])
    raise DemotuneError(f"{folder} has the splits {', '.join(splits)} and no train; give one, as {folder / splits[0]}")


def _open_hub_dataset(source: str, name: str, split: str, reads: Callable[[str], bool]) -> OpenSource:
    import datasets  # noqa: PLC0415 (seconds to import, and rarely needed)

    try:
        dataset = datasets.load_dataset(name, split=split)
    except Exception as error:  # network, permissions, missing split or config: each library raises its own kinds
        raise DemotuneError(
            f"{source}: there is no such file or folder in {Path.cwd()}, and loading the hub dataset {name} "
            f"(split {split}) failed: {one_line(error)}; check the spelling, or download it with "
            f"`hf download {name} --repo-type dataset --local-dir FOLDER` and give a file of that folder"
        ) from error
    return OpenSource((Table(source, _dataset_rows(dataset, source, reads)),), str(dataset._fingerprint))


def _dataset_rows(dataset: Any, source: str, reads: Callable[[str], bool]) -> Rows:
    """Rows as Arrow holds them: images and sounds, which are refused, need not be decoded for that."""
    wanted, unread = divided(dataset.column_names, reads, source)
    tables = dataset.select_columns(wanted).with_format("arrow").iter(batch_size=1024)
    batches = (batch for table in tables for batch in table.to_batches())
    return arrow_rows(batches, source, wanted, unread)
