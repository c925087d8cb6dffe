"""A file that one process holds at a time."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NoReturn

from demotune.common.errors import DemotuneError


def take(opened: IO[str] | int, busy: Callable[[], object] = lambda: None) -> None:
    """Lock an open file until it is closed; where another process holds it, call `busy`, then wait."""
    with suppress(BlockingIOError):
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    busy()
    fcntl.flock(opened, fcntl.LOCK_EX)


@contextmanager
def held(lock: Path, in_use: Callable[[str], str]) -> Iterator[None]:
    """Hold the file for this process; the lock goes when the process goes, however it ends.

    Raises DemotuneError with the text of `in_use` where another process, whose id it gets, holds the file.
    """

    def refuse() -> NoReturn:
        opened.seek(0)
        raise DemotuneError(in_use(opened.read().strip() or "unknown"))

    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+") as opened:
        take(opened, refuse)
        opened.truncate(0)
        opened.write(str(os.getpid()))
        opened.flush()
        yield
