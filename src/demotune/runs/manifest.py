"""manifest.json: what a run began with, by content."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demotune.common.errors import DemotuneError
from demotune.common.files import read_json, write_record
from demotune.common.json_records import as_json, from_file

VERSION = 1
"""Of all files in a run folder together."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What makes two runs the same run (from `config` on), and how this one was begun."""

    version: int
    created: str
    """Date and time, ISO 8601, UTC."""
    command: str
    versions: Mapping[str, str]
    """Of Python and of packages."""
    hardware: Mapping[str, Any]
    parameters: int
    """Of the start model, those of an adapter's base included."""
    rows_file: str
    """Hash of rows.jsonl.gz."""
    config: Mapping[str, Any]
    """Automatic values filled in."""
    model: str
    """Content hash of the start model."""
    data: Mapping[str, str]
    """Source -> content hash."""
    processes: int
    rows: str
    """Hash of the keys of all rows, training rows first."""


def write_manifest(file: Path, manifest: Manifest) -> None:
    """From here on the folder holds a run."""
    write_record(file, as_json(manifest))


def read_manifest(file: Path) -> Manifest:
    """Raises DemotuneError where the file is not what was written, or is of another version."""
    fields = read_json(file)
    if fields.get("version") != VERSION:
        raise DemotuneError(
            f"{file} has version {fields.get('version')!r}, and this demotune reads version {VERSION}; use the one "
            "that wrote it, or run it again with another --output"
        )
    return from_file(Manifest, fields, file)
