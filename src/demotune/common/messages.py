"""Errors of the system and of libraries as one message: path, cause, and what to do. Nothing heavy is imported."""

import errno
import gzip
import json
import os
import pickle
import re
import shlex
import sys
import threading
import traceback
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from demotune.common.errors import DemotuneError, one_line
from demotune.common.processes import launched_as_main
from demotune.common.screen import printable

DEBUG = "DEMOTUNE_DEBUG"
"""Environment variable that adds the traceback to the message."""
USER_ERROR, BUG, STOPPED, CLOSED_PIPE = 1, 3, 130, 141
"""Exit codes; 2, wrong usage of flags, is typer's."""
SECONDS_FOR_MAIN = 30.0
"""How long another process than the main one keeps an error to itself, which is likely that of the main one, too."""

_BY_ERRNO = {
    errno.ENOSPC: ("the disk is full", "free some space"),
    errno.EDQUOT: ("the disk quota is used up", "free some space"),
    errno.EFBIG: ("the file is larger than the disk or a limit allows", "raise the limit (ulimit -f)"),
    errno.EROFS: ("the disk is read-only", "name a folder that can be written"),
    errno.EACCES: ("permission denied", "change its permissions or name another path"),
    errno.EPERM: ("permission denied", "change its permissions or name another path"),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter one"),
    errno.EMFILE: ("too many files are open", "raise the limit (ulimit -n 4096)"),
    errno.ENFILE: ("too many files are open on this machine", "close other programs"),
    errno.EIO: ("input/output error of the disk", "check the disk or use another one"),
    errno.ESTALE: ("the network drive was disconnected", "connect it again"),
    errno.ENOENT: ("no such file or folder", "check the path"),
    errno.ENOTDIR: ("there is a file where a folder is expected", "move it away or name another path"),
    errno.EISDIR: ("there is a folder where a file is expected", "move it away or name another path"),
    errno.EEXIST: ("something is there already", "move it away or name another path"),
    errno.ELOOP: ("its links go in a circle", "correct the links"),
    errno.ENOMEM: ("memory is used up", "close other programs"),
}
_SYSTEM_ERROR = re.compile(r"os error (\d+)")  # as libraries written in Rust say it: safetensors, tokenizers
_TORCH_WRITES = re.compile(
    r"PytorchStreamWriter|iostream error|file write failed|inline_container\.cc:\d+\] \. unexpected pos"
)
_NO_MEMORY = re.compile(r"out of memory|allocate memory|not enough memory|bad_alloc", re.IGNORECASE)
_TORN = (EOFError, gzip.BadGzipFile, json.JSONDecodeError, pickle.UnpicklingError, UnicodeDecodeError, zlib.error)
_NETWORK = {"httpx", "requests", "urllib3", "huggingface_hub"}


@contextmanager
def errors_as_messages(run: Path | None = None) -> Iterator[None]:
    """An error inside becomes one message and an exit code, not a traceback; `run` as in `explain`."""
    try:
        yield
    except typer.Exit:
        raise
    except KeyboardInterrupt:
        raise typer.Exit(STOPPED) from None
    except BrokenPipeError:
        _drop_unwritten_output()
        raise typer.Exit(CLOSED_PIPE) from None
    except Exception as error:
        unwritten = _drop_unwritten_output()
        if os.environ.get(DEBUG):
            typer.echo(printable(traceback.format_exc()), err=True, nl=False)
        message, code = explain(error, run)
        if not launched_as_main():  # where all processes fail alike, the launcher ends the others after the main one
            threading.Event().wait(SECONDS_FOR_MAIN)
        if unwritten is not None and isinstance(error, OSError):
            message = f"what is shown cannot be written to standard output: {_BY_ERRNO.get(unwritten, ('', ''))[0]}"
        typer.echo(printable(f"error: {message}"), err=True)
        raise typer.Exit(code) from None


def _drop_unwritten_output() -> int | None:
    """The number of the error where standard output takes nothing more; the interpreter would complain at its end."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error.errno
    return None


def explain(error: Exception, run: Path | None = None) -> tuple[str, int]:
    """The message for the user, and the exit code.

    `run` is the folder of the run that the command works on: where it can be resumed, the message says how.
    """
    if isinstance(error, DemotuneError):
        return str(error), USER_ERROR
    for recognise in (_out_of_memory, _of_the_system, _torn_file, _of_the_machine):
        found = recognise(error)
        if found is not None:
            return f"{found}, then {_next(run)}", USER_ERROR
    return f"this is a bug in demotune: {one_line(error)}{_where(error)}; {DEBUG}=1 shows the traceback", BUG


def _out_of_memory(error: Exception) -> str | None:
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error))):
        return (
            f"memory is used up ({one_line(error)}); close other programs or choose smaller batches and lengths "
            "(--per-device-train-batch-size, --sample-batch-size, --batch-size, --max-length)"
        )
    return None


def _of_the_system(error: Exception) -> str | None:
    """A path that cannot be read or written, by the number that the system gave."""
    number = _system_number(error)
    if number is None:
        return None
    cause, fix = _BY_ERRNO.get(number, (os.strerror(number), "correct that"))
    path = getattr(error, "filename", None)
    path = os.fsdecode(path) if isinstance(path, str | bytes) else _path_in_hand(error)
    return f"{path}: {cause}; {fix}" if path else f"{cause} ({one_line(error)}); {fix}"


def _system_number(error: Exception) -> int | None:
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return error.errno
    if _TORCH_WRITES.search(str(error)):
        return errno.ENOSPC  # torch does not say why; a full disk is nearly always it
    found = _SYSTEM_ERROR.search(str(error))
    return int(found[1]) if found else None


def _torn_file(error: Exception) -> str | None:
    by_text = type(error).__name__ == "SafetensorError" or "PytorchStreamReader" in str(error)
    if not (by_text or isinstance(error, (*_TORN, zipfile.BadZipFile))):
        return None
    path = _path_in_hand(error)
    file = "a file" if path is None else f"a file in {path}" if os.path.isdir(path) else path  # noqa: PTH112
    return f"{file} is cut off or damaged ({one_line(error)}); write or copy it again"


def _of_the_machine(error: Exception) -> str | None:
    """Errors outside of demotune without a path or a number: a missing package, the network, the GPU."""
    if isinstance(error, ImportError):
        return f"a package is missing or broken ({one_line(error)}); install it"
    if isinstance(error, UnicodeEncodeError):
        return f"a text or a file name is no valid Unicode ({one_line(error)}); rename or correct it"
    if type(error).__module__.partition(".")[0] in _NETWORK:
        return f"the network or the hub fails ({one_line(error)}); check the connection"
    if isinstance(error, OSError):  # transformers raises these with a text of its own
        return f"{one_line(error)}; correct that"
    if type(error).__name__ == "AcceleratorError" or str(error).startswith("CUDA error"):
        return f"the GPU fails ({one_line(error)}); see that it works"
    return None


def _next(run: Path | None) -> str:
    if run is not None and (run / "manifest.json").exists():
        return f"demotune resume {shlex.quote(str(run))}"
    return "give the command again"


def _path_in_hand(error: Exception) -> str | None:
    """The path that the innermost function with one worked on: most libraries' errors do not name it."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame in reversed(frames):
        paths = [value for value in frame.f_locals.values() if isinstance(value, Path)]
        if paths:
            return str(next((path for path in paths if os.path.isfile(path)), paths[0]))  # noqa: PTH113 (never raises)
    return None


def _where(error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1:]
    return f" ({Path(last[0].filename).name}:{last[0].lineno})" if last else ""
