"""What the person at the keyboard sees while work goes on: a bar on a terminal, a line every few seconds in a log."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from demotune.common.processes import main_process, this_device
from demotune.common.screen import Screen, Verbatim, printable

console = Screen()
SECONDS_BETWEEN_LINES = 10.0
GIB = 2**30


def say(text: str = "", style: str | None = None) -> None:
    """Print one line for people, on the main process only; the text is shown as it is, control characters escaped."""
    if main_process():
        console.print(Verbatim(text), style=style, soft_wrap=True)


def warn(text: str) -> None:
    say(f"warning: {text}", style="yellow")


def peak_memory_gib() -> float:
    """Highest memory use of this process so far: of the accelerator where there is one, else resident memory."""
    import torch  # noqa: PLC0415 (slow: what only prints does without it)

    if this_device().type == "cuda":
        return torch.cuda.max_memory_allocated() / GIB
    status = Path("/proc/self/status")
    if status.exists():  # the system's own count, below, begins with what the parent process had
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024 / GIB
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB


def total_memory_gib() -> float:
    """What there is of the memory that `peak_memory_gib` counts."""
    import torch  # noqa: PLC0415

    if this_device().type == "cuda":
        return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / GIB
    return float(psutil.virtual_memory().total) / GIB


def minutes(seconds: float) -> str:
    """75 -> 1:15."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


class Tracker:
    """Counts finished units of one piece of work and shows the count. Made by `track`."""

    def __init__(self, what: str, total: int, unit: str) -> None:
        self.what, self.total, self.unit = printable(what), total, unit
        self.done = self.first = 0
        self.started = self.last_line = time.monotonic()
        self._bar: Progress | None = None
        if main_process() and console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(unit),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[info]}"),
                console=console,
            )
            self._task = self._bar.add_task(self.what, total=total, info="")
            self._bar.start()

    def start_at(self, done: int) -> None:
        """Units that an earlier, interrupted run had finished."""
        self.done = self.first = done
        self._show("", force=False)

    def advance(self, count: int = 1, info: str = "") -> None:
        """Count `count` more units; `info` is a short text such as the current loss."""
        self.done += count
        self._show(info, force=self.done >= self.total)

    def _show(self, info: str, force: bool) -> None:
        info = f"{info}  {peak_memory_gib():.1f} of {total_memory_gib():.0f} GiB".strip()
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, info=info)
        elif force or now - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = now
            elapsed = now - self.started
            left = elapsed / max(self.done - self.first, 1) * (self.total - self.done)
            say(f"{self.what}  {self.done}/{self.total} {self.unit}  {minutes(elapsed)}, {minutes(left)} left  {info}")
            sys.stdout.flush()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


@contextmanager
def track(what: str, total: int, unit: str) -> Iterator[Tracker]:
    """Show progress through `total` units of work, with time elapsed and left, and peak memory."""
    tracker = Tracker(what, total, unit)
    try:
        yield tracker
    finally:
        tracker.close()
