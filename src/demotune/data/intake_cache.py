"""Rows of token ids, kept in the user's cache: later starts, estimates and other processes read them again."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path

import demotune
from demotune.common.errors import DemotuneError, one_line
from demotune.common.files import cache_folder, first_damaged, folder_hash, hash_of, seal
from demotune.common.locks import take
from demotune.common.processes import main_process, wait_for_everyone
from demotune.common.progress import say, warn
from demotune.data.loading import source_hashes
from demotune.data.rendering import Renderer
from demotune.data.tokenising import Request, Tokenised, read_tokenised, tokenise

SEAL = "hashes.json"
"""Written last, with the hashes of the other files: a folder without it, or with another file, is made anew."""

KEPT_SECONDS = 30 * 24 * 3600
"""How long rows are kept that nobody uses."""


def tokenised(request: Request, renderer: Renderer) -> Tokenised:
    """The rows of the sources, from the cache where they are there. Raises DemotuneError as reading them does.

    The main process reads and tokenises, while the others, and other runs of the same rows, wait; then all of them map
    the same file. Where the cache cannot be written each process has its own rows, for this run only.
    """
    hashes = source_hashes(request.sources, request.columns, request.weights)
    folder = cache_folder() / "intake" / _key(request, renderer, hashes)
    try:
        with _in_turn(folder):
            if first_damaged(folder / SEAL) is None:
                found = read_tokenised(folder)
                os.utime(folder)  # used today
                say(f"  {len(found.rows):,} rows from cache ({folder})")
            else:
                (folder / SEAL).unlink(missing_ok=True)
                found = _make(request, renderer, hashes, folder)
                _forget_unused(folder.parent)
    except OSError as error:
        warn(f"rows cannot be kept in {folder} ({one_line(error)}); name another folder with DEMOTUNE_CACHE")
        with tempfile.TemporaryDirectory(prefix="demotune-intake-") as temporary:
            found = _make(request, renderer, hashes, Path(temporary))  # stays mapped when its name is gone
    renderer.count(found.counts.remarks)
    return found


def _make(request: Request, renderer: Renderer, hashes: dict[str, str], folder: Path) -> Tokenised:
    files = tokenise(request, renderer, folder)
    found = read_tokenised(folder)
    if found.counts.hashes != hashes:
        raise DemotuneError(f"{', '.join(request.sources)}: changed while it was read; start again when it is written")
    seal(folder / SEAL, files)
    return found


def _forget_unused(cached: Path) -> None:
    """Remove what was not used for a month. Whoever has it mapped keeps it."""
    for folder in cached.iterdir():
        if time.time() - folder.stat().st_mtime > KEPT_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _in_turn(folder: Path) -> Iterator[None]:
    """One process at a time, the main one first. The lock of a process that is killed is gone with it.

    The others wait for the lock and not at a barrier, which has a time limit.
    """
    if not main_process():
        wait_for_everyone()
    descriptor = None
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder, os.O_RDONLY)
            take(descriptor, lambda: say("  waiting for another run, which reads the same rows"))
        finally:
            if main_process():
                wait_for_everyone()
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _key(request: Request, renderer: Renderer, hashes: dict[str, str]) -> str:
    """A hash of everything that the rows and their notes depend on, this package's code included."""
    known = {"code": hash_of_code(), "renderer": renderer.fingerprint(), "request": asdict(request), "data": hashes}
    return hash_of(known)[:32]


@cache
def hash_of_code() -> str:
    package = Path(demotune.__file__).parent
    return folder_hash(package, sorted([package / "records.py", *(package / "data").rglob("*.py")]))
