"""Files that appear whole or not at all.

The rule: write the output, publish it by rename, then write the state that names it. A process that dies
between any two of these finds, when it comes back, either no output or a whole one.
"""

import errno
import gzip
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from demotune.common.errors import DemotuneError

UNFINISHED = ".unfinished"
CHECKSUM = "checksum"
"""The last field of a record that can be checked."""


def cache_folder() -> Path:
    """Where converted models and tokenised rows are kept: $DEMOTUNE_CACHE, else demotune/ in the user's cache."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("DEMOTUNE_CACHE") or Path(root) / "demotune")


@contextmanager
def publish_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into; it takes the name `folder` when the block ends well. Replaces an older one."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.with_name(folder.name + UNFINISHED)
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    yield unfinished
    for file in unfinished.rglob("*"):
        flush_to_disk(file)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    flush_to_disk(folder.parent)


@contextmanager
def publish_file(file: Path) -> Iterator[Path]:
    """A path to write to; it takes the name `file` when the block ends well. Replaces an older one."""
    if file.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(file.name + UNFINISHED)
    yield unfinished
    flush_to_disk(unfinished)
    unfinished.replace(file)
    flush_to_disk(file.parent)


def write_json(file: Path, value: object) -> None:
    with publish_file(file) as unfinished:
        unfinished.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_record(file: Path, fields: Mapping[str, object]) -> None:
    """A JSON object with a checksum, which `read_json` verifies: for what a resumed run depends on."""
    write_json(file, with_checksum(json.loads(json.dumps(fields))))


def with_checksum(fields: Mapping[str, object]) -> dict[str, object]:
    """JSON fields and, as the last one, a checksum of the others."""
    return {**fields, CHECKSUM: f"{zlib.crc32(json.dumps(fields).encode()):08x}"}


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object in a file, without its checksum. Raises DemotuneError where it is damaged."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise damaged(file, str(error)) from None
    if not isinstance(found, dict):
        raise damaged(file, f"it holds {type(found).__name__}, not fields")
    checksum = found.pop(CHECKSUM, None)
    if checksum is not None and with_checksum(found)[CHECKSUM] != checksum:
        raise damaged(file, "it has changed since it was written")
    return found


def damaged(file: Path, why: str) -> DemotuneError:
    """The error for a file of ours that differs from what was written."""
    return DemotuneError(f"{file} cannot be read ({why}); restore it from a copy, or make its folder anew")


def write_rows(file: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """One JSON object a line; gzipped when the name ends in .gz (the same rows give the same bytes)."""
    packer = zlib.compressobj(9, wbits=31) if file.suffix == ".gz" else None  # 31: with gzip's header, without a date
    with publish_file(file) as unfinished, unfinished.open("wb") as opened:
        for row in rows:
            line = (json.dumps(row, ensure_ascii=False) + "\n").encode()
            opened.write(packer.compress(line) if packer else line)
        if packer:
            opened.write(packer.flush())


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Rows written by `write_rows`. Raises DemotuneError where the file is missing or damaged."""
    return list(iter_rows(file))


def iter_rows(file: Path) -> Iterator[dict[str, Any]]:
    """The same, one by one: the error, too, comes where the damage is."""
    try:
        if file.suffix == ".gz" and not file.stat().st_size:
            raise EOFError("it is empty")
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as lines:
            yield from (json.loads(line.decode()) for line in lines if line != b"\n")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise damaged(file, str(error)) from None


def seal(mark: Path, files: Iterable[Path]) -> None:
    """Write the hashes of these files to `mark`, beside or above them."""
    write_json(mark, {file.relative_to(mark.parent).as_posix(): file_hash(file) for file in sorted(files)})


def first_damaged(mark: Path) -> Path | None:
    """The first file that differs from its seal; the seal itself where that cannot be read."""
    try:
        hashes = read_json(mark)
    except DemotuneError:
        return mark
    for name, expected in hashes.items():
        file = mark.parent / name
        if not file.is_file() or file_hash(file) != expected:
            return file
    return None if hashes else mark


def file_hash(file: Path) -> str:
    """sha256 of a file's bytes."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def folder_hash(folder: Path, files: Iterable[Path] | None = None) -> str:
    """sha256 over the names and bytes of these files in a folder, in their order; None: all of them, sorted."""
    digest = hashlib.sha256()
    for file in sorted(filter(Path.is_file, folder.rglob("*"))) if files is None else files:
        digest.update(f"{file.relative_to(folder).as_posix()}\0{file_hash(file)}\n".encode())
    return digest.hexdigest()


def hash_of(value: object) -> str:
    """sha256 of a value's JSON."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


@cache
def shipped_text(package: str, name: str) -> str:
    """The text of a file that comes with a package."""
    return (resources.files(package) / name).read_text(encoding="utf-8")


def link_or_copy(source: Path, target: Path) -> None:
    """Publish a second name for a folder of files without using its space twice where the disk allows it."""
    with publish_folder(target) as unfinished:
        shutil.copytree(source, unfinished, dirs_exist_ok=True, copy_function=_link)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)


def flush_to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
