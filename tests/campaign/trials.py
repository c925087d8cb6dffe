"""Trials, run by several workers, and the table of what came of them."""

import json
import os
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Trial:
    """One thing to try. `check` returns None where all is right, else what is wrong."""

    part: str
    """The row of the table that it counts in."""
    name: str
    check: Callable[[], str | None]


@dataclass(frozen=True, slots=True)
class Result:
    part: str
    name: str
    wrong: str | None
    seconds: float


def run_trials(trials: Sequence[Trial], place: Path, workers: int) -> list[Result]:
    """All trials, every n-th by one of n forked workers. One that raises or gets lost is wrong."""
    files = [place / f"results-{os.getpid()}-{worker}.jsonl" for worker in range(workers)]
    children = {}
    for worker, file in enumerate(files):
        child = os.fork()
        if child == 0:
            try:
                _work(trials[worker::workers], file)
            finally:
                os._exit(0)
        children[child] = worker
    with Progress(transient=True) as progress:
        task = progress.add_task("trials", total=len(trials))
        while children:
            for child in list(children):
                if os.waitpid(child, os.WNOHANG)[0]:
                    children.pop(child)
            progress.update(task, completed=sum(map(_count_lines, files)))
            time.sleep(0.2)
    results = [Result(**json.loads(line)) for file in files if file.exists() for line in file.read_text().splitlines()]
    done = Counter((result.part, result.name) for result in results)
    lost = [trial for trial in trials if not done[trial.part, trial.name]]
    for file in files:
        file.unlink(missing_ok=True)
    return results + [Result(trial.part, trial.name, "no result: its worker died", 0.0) for trial in lost]


def _work(trials: Sequence[Trial], file: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with file.open("w", encoding="utf-8") as opened:
        for trial in trials:
            started = time.monotonic()
            try:
                wrong = trial.check()
            except Exception:
                wrong = "the trial itself failed: " + traceback.format_exc(limit=-3)
            result = Result(trial.part, trial.name, wrong, round(time.monotonic() - started, 2))
            opened.write(json.dumps(asdict(result)) + "\n")
            opened.flush()


def _count_lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


def show(results: Sequence[Result], console: Console) -> int:
    """The table of trials, right and wrong, then each wrong one by name. Returns how many are wrong."""
    table = Table(title="campaign")
    for heading in ("what", "trials", "right", "wrong", "seconds"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    parts = list(dict.fromkeys(result.part for result in results))
    for part in sorted(parts):
        of_part = [result for result in results if result.part == part]
        table.add_row(part, *_counts(of_part))
    table.add_section()
    table.add_row("all", *_counts(results))
    console.print(table)
    wrong = [result for result in results if result.wrong is not None]
    for result in wrong[:50]:
        console.print(f"{result.part}, {result.name}: {result.wrong}", markup=False, highlight=False)
    return len(wrong)


def _counts(results: Sequence[Result]) -> tuple[str, str, str, str]:
    wrong = sum(result.wrong is not None for result in results)
    return f"{len(results):,}", f"{len(results) - wrong:,}", str(wrong), f"{sum(r.seconds for r in results):.0f}"
