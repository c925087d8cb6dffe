"""The entries of a sweep file: what is common, and of each trial the fields that it gives itself."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demotune.common.errors import DemotuneError
from demotune.common.suggestions import did_you_mean
from demotune.config.values import shown
from demotune.config.yaml_fields import read_yaml_file

SECTIONS = ("common", "grid", "trials", "compare")


@dataclass(frozen=True)
class Entry:
    """One trial as the file gives it."""

    place: str
    """Where it stands, for messages: grid 2."""
    fields: Mapping[str, Any]
    """With `method`, and `start` where it has one."""


@dataclass(frozen=True)
class SweepFile:
    """The sections of a sweep file, grids expanded."""

    common: Mapping[str, Any]
    entries: tuple[Entry, ...]
    compare: Mapping[str, Any]


def read_sweep_file(file: Path) -> SweepFile:
    """The sections of the file. Raises DemotuneError where it is not as docs/sweeps.md describes."""
    if not file.is_file():
        raise DemotuneError(f"sweep file {file} is not there; check the path")
    found = read_yaml_file(file)
    if unknown := [name for name in found if name not in SECTIONS]:
        raise DemotuneError(
            f"{file} has no section {unknown[0]}; it has {', '.join(SECTIONS)}; "
            f"{did_you_mean(unknown[0], SECTIONS) or 'fields go into common, grid or trials'}"
        )
    entries = [
        *(entry for place, grid in _entries(found, "grid", file) for entry in _expanded(place, grid, file)),
        *(Entry(place, fields) for place, fields in _entries(found, "trials", file)),
    ]
    if not entries:
        raise DemotuneError(f"{file} has no trials; give grid or trials")
    return SweepFile(_fields(found, "common", file), tuple(entries), _fields(found, "compare", file))


def _fields(found: Mapping[str, object], section: str, file: Path) -> dict[str, Any]:
    value = found.get(section)
    if value is not None and not isinstance(value, dict):
        raise DemotuneError(f"{file}: {section} must hold fields (name: value), got {shown(value)}; write them so")
    return value or {}


def _entries(found: Mapping[str, object], section: str, file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(its place, its fields) of each entry of a list; one entry stands for a list of one."""
    value = found.get(section)
    entries = [] if value is None else value if isinstance(value, list) else [value]
    for number, entry in enumerate(entries, start=1):
        place = f"{section} {number}" if len(entries) > 1 else section
        if not isinstance(entry, dict):
            raise DemotuneError(f"{file}: {place} must hold fields (name: value), got {shown(entry)}; write them so")
        yield place, entry


def _expanded(place: str, grid: Mapping[str, Any], file: Path) -> Iterator[Entry]:
    """Every combination of the values, the last field changing fastest."""
    choices = {name: value if isinstance(value, list) else [value] for name, value in grid.items()}
    for name, values in choices.items():
        if not values:
            raise DemotuneError(f"{file}: {place} has no value of {name}; give one or several, or leave it out")
    for chosen in itertools.product(*choices.values()):
        yield Entry(place, dict(zip(choices, chosen, strict=True)))
