"""Commands of demotune in forked children: what a user types, without the seconds that imports take."""

import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

DEADLINE = 120.0
"""Seconds after which a child is taken to hang."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended: its exit code (minus the number of the signal that killed it), and what it wrote."""

    code: int
    output: str
    seconds: float
    hung: bool = False

    @property
    def has_traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.output

    def fault(self, allowed: Sequence[int] = (0, 1, 2)) -> str | None:
        """What is wrong about any command, whatever it was asked: a hang, a traceback, an exit code of no meaning."""
        if self.hung:
            return f"hung for {self.seconds:.0f} s"
        if self.has_traceback or self.code not in allowed:
            return f"exit {self.code}: {self.last_lines()}"
        return None

    def last_lines(self, count: int = 4) -> str:
        """The end of what was written, on one line."""
        return " | ".join(line for line in self.output.strip().splitlines()[-count:])[-600:]


def demotune(
    arguments: Sequence[str],
    folder: Path,
    *,
    kill_after: float | None = None,
    before: Callable[[], None] = lambda: None,
    page: bool = True,
) -> Ended:
    """`demotune ARGUMENTS` in `folder`; killed with SIGKILL after `kill_after` seconds, if it still runs then.

    `before` runs in the child first: it may set limits or traps. Without `page` a run writes no report at its end,
    which takes as long as the run itself.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder.with_name(folder.name + ".log")
    log.touch()  # a child may be killed before it opens it
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        _become(arguments, folder, log, before, page)
    limit = DEADLINE if kill_after is None else kill_after
    code = _wait(child, started + limit)
    hung = code is None and kill_after is None
    if code is None:
        os.kill(child, signal.SIGKILL)
        code = _wait(child, started + limit + DEADLINE)
    output = log.read_text(encoding="utf-8", errors="replace")
    return Ended(-signal.SIGKILL if code is None else code, output, time.monotonic() - started, hung)


def _become(arguments: Sequence[str], folder: Path, log: Path, before: Callable[[], None], page: bool) -> None:
    """Be the command: never returns."""
    code = 70
    try:
        target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(target, stream)
        sys.stdout, sys.stderr = (os.fdopen(os.dup(stream), "w", buffering=1) for stream in (1, 2))
        os.chdir(folder)
        tqdm.set_lock(threading.RLock())  # its own is shared with all children: one killed inside it would hang them
        faulthandler.dump_traceback_later(DEADLINE - 5)  # where a child hangs stands in its log
        before()
        code = _run(arguments, page)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def _run(arguments: Sequence[str], page: bool) -> int:
    import demotune.cli.main
    import demotune.pipeline

    if not page:
        demotune.pipeline.conclude = lambda _: None
    sys.argv = ["demotune", *arguments]
    try:
        demotune.cli.main.main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def _wait(child: int, until: float) -> int | None:
    """The exit code of a child, None where it still runs at `until`."""
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until:
            return None
        time.sleep(0.005)
