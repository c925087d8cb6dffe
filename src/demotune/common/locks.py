"""A file that one process holds at a time."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from demotune.common.errors import DemotuneError


@contextmanager
def held(lock: Path, in_use: Callable[[str], str]) -> Iterator[None]:
    """Hold the file for this process; the lock goes when the process goes, however it ends.

    Raises DemotuneError with the text of `in_use` where another process, whose id it gets, holds the file.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            opened.seek(0)
            raise DemotuneError(in_use(opened.read().strip() or "unknown")) from None
        opened.truncate(0)
        opened.write(str(os.getpid()))
        opened.flush()
        yield
