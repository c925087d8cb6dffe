"""Bounds on time and memory for a chat template: a program from a model folder, which may loop or allocate forever."""

import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import FrameType

SECONDS = 10.0
"""For one conversation; an ordinary template needs about a millisecond."""
MEMORY = 2 * 2**30
"""Bytes beyond what the process has when rendering begins."""
LONGEST = 64 * 2**20
"""Characters of one rendered conversation."""


_inside: ContextVar[bool] = ContextVar("inside", default=False)


class TooSlow(BaseException):
    """Out of time. Not an Exception: Jinja swallows some of those where a template looks up a name."""


@contextmanager
def bounded() -> Iterator[None]:
    """Raises TooSlow after SECONDS, and MemoryError where the block asks for more than MEMORY bytes.

    A block inside of another is bounded by the outer one. Signals reach the main thread only, so elsewhere there is no
    time limit; memory is bounded on Linux only.
    """
    if _inside.get():
        yield
        return
    token = _inside.set(True)
    try:
        with _bounded_memory(MEMORY), _bounded_time(SECONDS):
            yield
    finally:
        _inside.reset(token)


@contextmanager
def _bounded_time(seconds: float) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(signum: int, frame: FrameType | None) -> None:
        raise TooSlow

    handler = signal.signal(signal.SIGALRM, stop)
    begun = time.monotonic()
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        # An alarm that was set before still goes off.
        left = max(left - (time.monotonic() - begun), 1e-3) if left else 0.0
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler if handler is not None else signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, left, interval)


@contextmanager
def _bounded_memory(more: int) -> Iterator[None]:
    if sys.platform != "linux":
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limits = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min([pages * resource.getpagesize() + more, *limits]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
