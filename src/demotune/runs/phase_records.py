"""What state.json says of a phase that is done. `training/phase_loop.py` skips the phases that stand there."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from demotune.common.json_records import from_json


@dataclass(frozen=True, slots=True)
class DonePhase:
    """A finished phase of a stage: from which policy, what it wrote, and what it cost."""

    name: str
    policy: str
    """Content hash of the policy that the stage started from."""
    outputs: Mapping[str, str]
    """Name in the stage's folder -> hash."""
    seconds: float
    peak_memory_gib: float
    forward_tokens: int
    """Tokens that were drawn or scored without a gradient, prompts included."""
    trained_tokens: int
    facts: Mapping[str, Any]
    """The whole record, with what this phase alone has: metrics at its end, why it stopped, ..."""
    processes: int | None = None
    """That finished it; None where that was not kept."""
    steps: int = 0
    """Optimizer steps."""


def phase_of(name: str, record: Mapping[str, Any]) -> DonePhase:
    """A record of state.json. Raises ValueError where it lacks something."""
    return from_json(DonePhase, {**record, "name": name, "facts": record})
