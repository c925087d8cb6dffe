"""Signals that ask a run to stop: Ctrl-C, SIGTERM (a scheduler, a shutdown), SIGHUP (the terminal was closed)."""

import math
import os
import signal
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SECONDS_TOGETHER = 3.0
"""Signals that follow each other this closely are one."""

Handler = Callable[[int, FrameType | None], None]


@contextmanager
def handled(numbers: Iterable[int], handler: Handler) -> Iterator[None]:
    """Let `handler` answer these signals; SIGHUP not where it is ignored, which is what nohup does."""

    def answer(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            _leave_lost_terminal()
        handler(number, frame)

    previous = {}
    for number in numbers:
        if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
            continue
        try:
            previous[number] = signal.signal(number, answer)
        except ValueError:  # not the main thread: signals belong to the caller
            break
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


def _leave_lost_terminal() -> None:
    """Write to the null device what went to a terminal that is gone: there every write fails, and the work with it."""
    for descriptor in (1, 2):
        with suppress(OSError):  # closed from the start
            if stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, descriptor)
                os.close(null)


@contextmanager
def stopping_like_ctrl_c() -> Iterator[None]:
    """SIGTERM and SIGHUP end the code under it as Ctrl-C does; those that a closing terminal repeats are one."""
    last = -math.inf

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal last
        before, last = last, time.monotonic()
        if last - before > SECONDS_TOGETHER:
            raise KeyboardInterrupt

    with handled((signal.SIGTERM, signal.SIGHUP), stop):
        yield
