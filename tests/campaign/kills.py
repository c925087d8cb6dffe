"""kill -9 at random moments of every method: a resumed run equals an uninterrupted one, bit for bit."""

import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from campaign.children import Ended, demotune
from campaign.runs import SETTINGS, command, differences, prepare
from campaign.trials import Trial

SHARE_WITH_PAGE = 0.25


def kill_trials(place: Path, count: int, seed: int, settings: tuple[str, ...] = tuple(SETTINGS)) -> Iterator[Trial]:
    """`count` trials, spread evenly over the settings; half die after a time, half where a file becomes durable."""
    prepare(place)
    for number in range(count):
        setting = settings[number % len(settings)]
        yield Trial(f"kill -9, {setting}", f"{number}", lambda s=setting, n=number: _killed(place, s, n, seed))


def uninterrupted(place: Path, setting: str) -> tuple[Path, float, int]:
    """The finished run of a setting, made once, with its seconds and the number of moments at which files settle."""
    folder = place / "whole" / setting
    facts = folder / "facts"
    if not facts.exists():
        folder.parent.mkdir(exist_ok=True)
        counter = folder.with_name(f"{setting}.count")
        ended = demotune(command(setting, place), folder, before=lambda: _count_into(counter))
        if ended.code != 0:
            raise RuntimeError(f"the run of {setting} failed without any interruption: {ended.output[-2000:]}")
        facts.write_text(f"{ended.seconds} {counter.stat().st_size}")
    seconds, moments = facts.read_text().split()
    return folder / "run", float(seconds), int(moments)


def finish(folder: Path, start: list[str], page: bool = True) -> Ended:
    """Go on with a run as a user would: resume, or the same command again where it never got to be a run."""
    begun = (folder / "run" / "manifest.json").exists()
    return demotune(["resume", "run"] if begun else start, folder, page=page)


def _killed(place: Path, setting: str, number: int, seed: int) -> str | None:
    rng = random.Random(f"{seed}/{setting}/{number}")
    expected, seconds, moments = uninterrupted(place, setting)
    folder = place / f"kill-{setting}-{number}"
    start = command(setting, place)
    page = rng.random() < SHARE_WITH_PAGE
    for _ in range(rng.choice((1, 1, 2))):
        begun = (folder / "run" / "manifest.json").exists()
        arguments = ["resume", "run"] if begun else start
        if rng.random() < 0.5:
            ended = demotune(arguments, folder, kill_after=rng.uniform(0, seconds), page=page)
        else:
            moment = rng.randint(1, moments)
            ended = demotune(arguments, folder, before=lambda n=moment: die_at(n), page=page)
        if ended.code not in (0, -signal.SIGKILL):
            return f"before the kill: {ended.fault() or ended.last_lines()}"
    ended = finish(folder, start, page)
    if ended.code != 0:
        return f"resume: exit {ended.code}: {ended.last_lines()}"
    wrong = differences(folder / "run", expected)
    if not wrong:
        shutil.rmtree(folder)
    return "; ".join(wrong[:3]) or None


def die_at(moment: int) -> None:
    """This process kills itself at the n-th moment at which a file becomes durable or takes its name."""
    seen = 0

    def notice() -> None:
        nonlocal seen
        seen += 1
        if seen == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    _trap(notice)


def _count_into(file: Path) -> None:
    """One byte a moment."""
    opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    _trap(lambda: os.write(opened, b"."))


def _trap(notice: Callable[[], object]) -> None:
    def trapped(function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            notice()
            return function(*arguments, **named)

        return call

    os.fsync = trapped(os.fsync)  # type: ignore[assignment]
    Path.replace = trapped(Path.replace)  # type: ignore[method-assign,assignment]
    Path.rename = trapped(Path.rename)  # type: ignore[method-assign,assignment]
