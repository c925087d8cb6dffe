"""What a run cost: steps, tokens, floating-point operations, time, memory; from its files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

STEP_PHASES = ("train", "reward", "policy")
MEASURING = ("start", "check")


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one run, all stages and phases; None where an older run did not count."""

    steps: int
    """Optimizer steps, of policy and reward."""
    trained_tokens: int | None
    forward_tokens: int | None
    """Tokens that were drawn or scored without a gradient."""
    flops: float | None
    seconds: float
    peak_memory_gib: float


def cost_of(manifest: Mapping[str, Any], stages: Sequence[Mapping[str, Any]]) -> Cost:
    """From manifest.json and the phase records of each stage (state.json).

    What only measures, on held-out rows, is no cost of a method and is left out.
    """
    phases = [(name, phase) for stage in stages for name, phase in stage.items() if name not in MEASURING]
    counted = all("forward_tokens" in phase for _, phase in phases)
    forward, trained = (
        sum(phase[name] for _, phase in phases) if counted else None for name in ("forward_tokens", "trained_tokens")
    )
    parameters = manifest.get("parameters")
    return Cost(
        steps=sum(phase.get("steps", 0) for name, phase in phases if name in STEP_PHASES),
        trained_tokens=trained,
        forward_tokens=forward,
        flops=(
            None
            if parameters is None or forward is None or trained is None
            else flops(parameters, forward, trained, adapter=manifest["config"]["use_peft"])
        ),
        seconds=sum(phase["seconds"] for _, phase in phases),
        peak_memory_gib=max(phase["peak_memory_gib"] for _, phase in phases),
    )


def flops(parameters: int, forward_tokens: int, trained_tokens: int, *, adapter: bool) -> float:
    """2 operations per parameter and token forward, 4 more backward; a LoRA adapter spares the weights' gradients, 2.

    Kaplan et al. 2020, arXiv 2001.08361, table 1; attention over the context is left out, as there.
    """
    return float(parameters) * (2 * forward_tokens + (4 if adapter else 6) * trained_tokens)
