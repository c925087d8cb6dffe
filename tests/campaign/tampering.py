"""Every file of a run folder damaged in several ways: the damage is named, or the result is right all the same."""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from campaign.children import demotune
from campaign.kills import die_at, uninterrupted
from campaign.runs import command, differences, prepare
from campaign.trials import Trial

SETTINGS = ("irft-carry", "rft")
DIES_AT = {"irft-carry": 0.66, "rft": 0.76}
"""Share of the moments at which files settle after which the unfinished run dies."""
READERS = (["report", "run"], ["compare", "run"], ["score", "--reward=run", "--data={data}"])
"""What reads a finished run beside resume, one of them a trial; only asked for a message instead of a traceback."""


def tampering_trials(place: Path, seed: int, share: float = 1.0) -> Iterator[Trial]:
    """Each file of a finished and of an unfinished run, each damage; of these a random share."""
    prepare(place)
    rng = random.Random(f"tampering {seed}")
    for setting in SETTINGS:
        for state, folder in _folders(place, setting):
            for file in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"):
                for damage in DAMAGES:
                    if rng.random() < share:
                        name = file.relative_to(folder).as_posix()
                        check = _check(place, setting, folder, state, name, damage)
                        yield Trial(f"tampered, {setting}, {state}", f"{name}: {damage}", check)


def _folders(place: Path, setting: str) -> Iterator[tuple[str, Path]]:
    """A finished run, and one that died in the training of its last stage, behind a checkpoint."""
    whole, _, moments = uninterrupted(place, setting)
    yield "finished", whole
    folder = place / "unfinished" / setting
    if not folder.exists():
        demotune(command(setting, place), folder, before=lambda: die_at(int(DIES_AT[setting] * moments)))
    if not list(folder.glob("run/stages/01/*checkpoints/checkpoint-*")):
        raise RuntimeError(f"the unfinished run of {setting} has no checkpoint: choose another share of its moments")
    yield "unfinished", folder / "run"


def _check(place: Path, setting: str, folder: Path, state: str, name: str, damage: str) -> Callable[[], str | None]:
    def check() -> str | None:
        expected, _, _ = uninterrupted(place, setting)
        scene = place / "tampered" / "-".join((setting, state, name, damage)).replace("/", "_").replace(" ", "_")
        shutil.copytree(folder, scene / "run")
        rng = random.Random(str(scene.name))
        if not DAMAGES[damage](scene / "run" / name, rng):
            shutil.rmtree(scene)
            return None  # nothing to change in such a file
        useless = ("01/carried-optimizer.pt", *(["00/carried-optimizer.pt"] if state == "finished" else []))
        wrong = _resumed(scene, expected, useless)
        if state == "finished":
            shutil.rmtree(scene / "run")
            shutil.copytree(folder, scene / "run")
            DAMAGES[damage](scene / "run" / name, random.Random(str(scene.name)))
            wrong = wrong or _read(scene, place, rng)
        if wrong is None:
            shutil.rmtree(scene)
        return wrong

    return check


def _resumed(scene: Path, expected: Path, useless: tuple[str, ...]) -> str | None:
    """Refused with one message, or gone on to the same result; carried optimizers that no stage needs do not count."""
    ended = demotune(["resume", "run"], scene, page=False)
    if fault := ended.fault():
        return f"resume: {fault}"
    if ended.code != 0:
        return None if "error: " in ended.output else f"resume refuses without a message: {ended.last_lines()}"
    wrong = [wrong for wrong in differences(scene / "run", expected) if not any(name in wrong for name in useless)]
    return f"another result: {'; '.join(wrong[:3])}" if wrong else None


def _read(scene: Path, place: Path, rng: random.Random) -> str | None:
    reader = rng.choice(READERS)
    arguments = [part.format(data=place / "rows.jsonl") for part in reader]
    fault = demotune(arguments, scene).fault()
    return fault and f"{reader[0]}: {fault}"


def _flip(file: Path, rng: random.Random) -> bool:
    data = bytearray(file.read_bytes())
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        file.write_bytes(data)
    return bool(data)


def _cut(file: Path, rng: random.Random) -> bool:
    data = file.read_bytes()
    file.write_bytes(data[: rng.randrange(len(data))] if data else b"")
    return bool(data)


def _empty(file: Path, rng: random.Random) -> bool:
    had = file.stat().st_size > 0
    file.write_bytes(b"")
    return had


def _remove(file: Path, rng: random.Random) -> bool:
    file.unlink()
    return True


def _replace(file: Path, rng: random.Random) -> bool:
    """Other bytes of the same length: what a bad sector or another program leaves."""
    file.write_bytes(rng.randbytes(file.stat().st_size))
    return file.stat().st_size > 0


def _folder_instead(file: Path, rng: random.Random) -> bool:
    file.unlink()
    file.mkdir()
    return True


def _change_number(file: Path, rng: random.Random) -> bool:
    """A number in JSON becomes another one; the file stays well formed."""
    if file.suffix not in (".json", ".jsonl"):
        return False
    lines = file.read_text(encoding="utf-8").splitlines() if file.suffix == ".jsonl" else [file.read_text()]
    values = [json.loads(line) for line in lines]
    places = [(value, *found) for value in values for found in _numbers(value)]
    if not places:
        return False
    _, holder, key = rng.choice(places)
    holder[key] = holder[key] + 1
    indent = 2 if file.suffix == ".json" else None
    file.write_text("".join(json.dumps(value, indent=indent) + "\n" for value in values), encoding="utf-8")
    return True


def _numbers(value: object) -> Iterator[tuple[object, object]]:
    """Where the numbers stand: (the list or object that holds one, its index or key)."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        if isinstance(part, int | float) and not isinstance(part, bool):
            yield value, key
        yield from _numbers(part)


DAMAGES: dict[str, Callable[[Path, random.Random], bool]] = {
    "one bit flipped": _flip,
    "cut off": _cut,
    "emptied": _empty,
    "removed": _remove,
    "other bytes": _replace,
    "a folder instead": _folder_instead,
    "a number changed": _change_number,
}
"""Each changes a file; False where there was nothing to change."""
