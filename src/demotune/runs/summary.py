"""summary.json: the result of a run. A run that has it is finished."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demotune.common.files import write_record
from demotune.common.json_records import as_json, read_record


@dataclass(frozen=True, slots=True)
class Summary:
    """What a finished run leaves."""

    run_folder: str
    model_folder: str
    method: str
    start_nll_per_token: float | None
    """None without held-out rows."""
    reward_folder: str | None
    """None for methods whose reward is implicit."""
    best_stage: int
    """The stage whose model is the result."""
    stages: tuple[Mapping[str, Any], ...]
    """One a stage: `phases`, as in state.json, and `check`, as in check.json."""
    estimate: Mapping[str, Any] | None
    """What was estimated beside what was measured; None for a run too small for an estimate."""
    profile: Mapping[str, float] | None
    """Seconds by kind of work; None without --profile."""


def write_summary(file: Path, summary: Summary) -> None:
    """From here on the run is finished."""
    write_record(file, as_json(summary))


def read_summary(file: Path) -> Summary:
    """Raises DemotuneError where the file is not what was written."""
    return read_record(Summary, file)
