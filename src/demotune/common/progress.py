"""Progress on the screen while work goes on: a bar on a terminal, a line every few seconds in a log."""

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from textwrap import wrap

from rich import box
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from demotune.common.memory import peak_memory_gib, total_memory_gib
from demotune.common.processes import main_process
from demotune.common.screen import Screen, Verbatim, printable

console = Screen()
SECONDS_BETWEEN_LINES = 10.0


def say(text: str = "", style: str | None = None) -> None:
    """Print one line, on the main process only: text without markup, control characters escaped."""
    if main_process():
        console.print(Verbatim(text), style=style, soft_wrap=True)


def warn(text: str) -> None:
    say(f"warning: {text}", style="yellow")


def show_table(title: str | None, headings: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int = 1) -> None:
    """Print a table: the first `texts` columns are aligned left and may be wrapped, the others right and never broken.

    Headings are broken where the table would be wider than the terminal; where that does not help, each row is printed
    as a list instead. On the main process only.
    """
    if not main_process():
        return
    cells = [(*row, *[""] * (len(headings) - len(row))) for row in rows]
    columns = [[row[place] for row in cells] for place in range(len(headings))]
    widths = [max(map(len, (heading, *column))) for heading, column in zip(headings, columns, strict=True)]
    if not _fits(widths):
        widths = [_least_width(headings[place], column, place < texts) for place, column in enumerate(columns)]
    if not _fits(widths):
        console.print(_rows_as_lists(title, headings, cells, texts))
        return
    table = _new_table(title)
    for place, (heading, width) in enumerate(zip(headings, widths, strict=True)):
        if place < texts:
            table.add_column(heading, min_width=width)
        else:  # rich would take width from any column that may be wrapped
            table.add_column("\n".join(wrap(heading, width)), justify="right", width=width, no_wrap=True)
    for row in cells:
        table.add_row(*row)
    console.print(table)


def _fits(widths: Sequence[int]) -> bool:
    """Whether columns so wide fit the terminal: with a space on both sides of a cell, and a line between two."""
    return sum(widths) + 3 * len(widths) + 1 <= console.width


def _least_width(heading: str, cells: Sequence[str], may_wrap: bool) -> int:
    """Of a column: its longest cell, or the longest word where cells may be wrapped, as headings always may."""
    words = [*heading.split(), *(chain(*map(str.split, cells)) if may_wrap else cells)]
    return max(map(len, words), default=0)


def _new_table(title: str | None, *, show_header: bool = True) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE, show_header=show_header)


def _rows_as_lists(title: str | None, headings: Sequence[str], rows: Sequence[Sequence[str]], texts: int) -> Table:
    table = _new_table(title, show_header=False)
    table.add_column(overflow="fold")
    table.add_column(no_wrap=True)
    for row in rows:
        table.add_row(" ".join(filter(None, row[:texts])), "")
        for heading, cell in zip(headings[texts:], row[texts:], strict=True):
            if cell:
                table.add_row(f"  {heading}", cell)
    return table


def minutes(seconds: float) -> str:
    """75 -> 1:15."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


class Tracker:
    """Counts finished units of one piece of work and shows the count. Made by `track`."""

    def __init__(self, what: str, total: int | None, unit: str) -> None:
        self.what, self.total, self.unit = printable(what), total, unit
        self.done = self.first = 0
        self.left: float | None = None
        """Seconds, where whoever works knows better than by finished units."""
        self.started = self.last_line = time.monotonic()
        self._bar: Progress | None = None
        if main_process() and console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(unit),
                TimeElapsedColumn(),
                TextColumn("{task.fields[left]} left  {task.fields[info]}"),
                console=console,
            )
            self._task = self._bar.add_task(self.what, total=total, left="-", info="")
            self._bar.start()

    def start_at(self, done: int) -> None:
        """Units that an earlier, interrupted run had finished."""
        self.done = self.first = done
        self._show("", force=False)

    def advance(self, count: int = 1, info: str = "") -> None:
        """Count `count` more units, perhaps none; `info` is a short text such as the current loss."""
        self.done += count
        self._show(info, force=count > 0 and self.total is not None and self.done >= self.total)

    def _show(self, info: str, force: bool) -> None:
        info = f"{info}  {peak_memory_gib():.1f} of {total_memory_gib():.0f} GiB".strip()
        now = time.monotonic()
        elapsed = now - self.started
        rest = 0 if self.total is None else self.total - self.done
        by_units = elapsed / max(self.done - self.first, 1) * rest
        left = minutes(by_units if self.left is None else self.left) if self.total is not None else "-"
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, left=left, info=info)
        elif force or now - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = now
            count, spent = f"{self.done:,}", minutes(elapsed)
            if self.total is not None:
                count, spent = f"{self.done}/{self.total}", f"{spent}, {left} left"
            say(f"{self.what}  {count} {self.unit}  {spent}  {info}")
            sys.stdout.flush()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


@contextmanager
def track(what: str, total: int | None, unit: str) -> Iterator[Tracker]:
    """Show progress through `total` units of work, with time elapsed and left, and peak memory; None: not known."""
    tracker = Tracker(what, total, unit)
    try:
        yield tracker
    finally:
        tracker.close()
