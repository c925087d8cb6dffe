"""Full disks: a run on too small a disk ends with one message; with more space it goes on, and its result is right."""

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from campaign.children import demotune
from campaign.kills import finish, uninterrupted
from campaign.runs import SETTINGS, command, differences, prepare
from campaign.trials import Trial

LARGE = 1 << 30


def disk_trials(place: Path, count: int, seed: int) -> Iterator[Trial]:
    """`count` disks of random sizes, all smaller than what the run needs."""
    prepare(place)
    settings = tuple(SETTINGS)
    for number in range(count):
        setting = settings[number % len(settings)]
        yield Trial("full disk", f"{setting} {number}", lambda s=setting, n=number: _filled(place, s, n, seed))


def may_mount(place: Path) -> bool:
    """Whether this process may mount a disk of its own."""
    folder = place / "mount-try"
    folder.mkdir(exist_ok=True)
    tried = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], check=False, capture_output=True
    )
    if tried.returncode == 0:
        subprocess.run(["umount", str(folder)], check=True)
    return tried.returncode == 0


def _filled(place: Path, setting: str, number: int, seed: int) -> str | None:
    rng = random.Random(f"disk {seed}/{setting}/{number}")
    expected, _, _ = uninterrupted(place, setting)
    needed = sum(file.stat().st_blocks * 512 for file in expected.rglob("*"))
    folder = place / f"disk-{setting}-{number}"
    with _disk(folder, int(rng.uniform(4096, needed * 0.9))):
        start = command(setting, place)
        ended = demotune(start, folder)
        if ended.code != 1 or ended.fault():
            return f"on a full disk: exit {ended.code}, {ended.fault() or ended.last_lines()}"
        if "the disk is full" not in ended.output or "free some space" not in ended.output:
            return f"the message does not say that the disk is full: {ended.last_lines()}"
        subprocess.run(["mount", "-o", f"remount,size={LARGE}", str(folder)], check=True)
        ended = finish(folder, start)
        if ended.code != 0:
            return f"resume: exit {ended.code}: {ended.last_lines()}"
        return "; ".join(differences(folder / "run", expected)[:3]) or None


@contextmanager
def _disk(folder: Path, size: int) -> Iterator[None]:
    """A disk of `size` bytes, in memory; gone afterwards."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        os.sync()
        subprocess.run(["umount", "-l", str(folder)], check=True)
        shutil.rmtree(folder, ignore_errors=True)
