"""What a run cost: steps, tokens, floating-point operations, time, memory; from its files."""

from collections.abc import Iterable
from dataclasses import dataclass

from demotune.runs.manifest import Manifest
from demotune.runs.phase_records import DonePhase

MEASURING = ("start", "check")
"""Phases that only measure, on held-out rows: they are no cost of a method."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one run, all phases but those that only measure."""

    steps: int
    """Optimizer steps, of policy and reward."""
    trained_tokens: int
    forward_tokens: int
    """Tokens that were drawn or scored without a gradient."""
    flops: float
    seconds: float
    peak_memory_gib: float


def cost_of(manifest: Manifest, phases: Iterable[DonePhase]) -> Cost:
    """Of these phases together."""
    work = [phase for phase in phases if phase.name not in MEASURING]
    trained, forward = (sum(phase.trained_tokens for phase in work), sum(phase.forward_tokens for phase in work))
    return Cost(
        steps=sum(phase.steps for phase in work if phase.trained_tokens),
        trained_tokens=trained,
        forward_tokens=forward,
        flops=flops(manifest.parameters, forward, trained, adapter=bool(manifest.config["use_peft"])),
        seconds=sum(phase.seconds for phase in work),
        peak_memory_gib=max((phase.peak_memory_gib for phase in work), default=0.0),
    )


def flops(parameters: int, forward_tokens: int, trained_tokens: int, *, adapter: bool) -> float:
    """2 operations per parameter and token forward, 4 more backward; a LoRA adapter spares the weights' gradients, 2.

    Kaplan et al. 2020, arXiv 2001.08361, table 1; attention over the context is left out, as there.
    """
    return float(parameters) * (2 * forward_tokens + (4 if adapter else 6) * trained_tokens)
