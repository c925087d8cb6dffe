"""One trial as a child process, its terminal in a log; it stops cleanly when this process is asked to stop, or dies."""

import ctypes
import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demotune.runs.folder import RunFolder
from demotune.sweep.trials import Trial

_LIBC: Any = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Ending:
    """How one attempt at a trial ended."""

    seconds: float
    error: str | None
    """The last line of its error; None where it ended well."""


def run_trial(trial: Trial, log: Path) -> Ending:
    """Begin the trial, or go on with it, and wait for its end. Nothing is run where it has finished already.

    An orphan of a sweep that was killed may still be stopping in its folder: it is waited for. Ctrl-C lets the child
    write a checkpoint, a second one kills it.
    """
    begun = time.monotonic()
    RunFolder(trial.folder).wait_until_free()
    if trial.state == "finished":
        return Ending(0.0, None)
    command = [sys.executable, "-m", "demotune", *trial.next_arguments]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as terminal:
        terminal.write(f"$ {shlex.join(['demotune', *command[3:]])}\n".encode())
        terminal.flush()
        place = terminal.tell()
        code = _wait(
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=terminal,
                stderr=subprocess.STDOUT,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
                start_new_session=True,  # Ctrl-C reaches it through us, once
                preexec_fn=_stop_when_parent_dies,  # noqa: PLW1509 (one system call, loaded before)
            )
        )
    return Ending(time.monotonic() - begun, None if code == 0 else _error(code, log, place))


def _stop_when_parent_dies() -> None:
    if hasattr(_LIBC, "prctl"):  # Linux
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait(child: "subprocess.Popen[bytes]") -> int:
    try:
        while child.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                child.wait(timeout=1.0)  # Ray's cancel does not interrupt a system call
        return child.returncode
    except KeyboardInterrupt:
        child.terminate()
        try:
            child.wait()
        except KeyboardInterrupt:
            child.kill()
            child.wait()
        raise


def _error(code: int, log: Path, place: int) -> str:
    """What this attempt wrote last to its terminal, the error if there is one; or the signal that ended it."""
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    with log.open("rb") as written:
        written.seek(place)
        lines = [line.strip() for line in written.read().decode(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or [f"exit code {code}"])[-1].removeprefix("error: ")
