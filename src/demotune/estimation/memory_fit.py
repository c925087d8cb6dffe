"""What memory asks for before a run: micro-batches that are cut, activations that are recomputed."""

import dataclasses
from collections.abc import Sequence

from demotune.common.memory import free_bytes
from demotune.common.processes import from_main_process, process_count, this_device
from demotune.common.progress import say
from demotune.config.methods import AnyConfig
from demotune.estimation.forecast import Estimate, estimate_setup
from demotune.estimation.machines import unknown_machine
from demotune.training.setup import Setup
from demotune.training.work import PhaseWork

SHARE = 0.9
"""Of free memory that a run may plan to fill; the estimate is no promise."""


def fit_to_memory(setup: Setup, available: float | None = None) -> Setup:
    """The setup with `tokens_per_microbatch` and `activation_checkpointing` as free memory asks for; says so.

    What the user set stays. All processes take what the first one finds: the same plan everywhere. `available` is in
    bytes a process; None: 0.9 of what is free.
    """
    if available is None:
        available = SHARE * free_bytes(this_device()) / (process_count() if this_device().type == "cpu" else 1)
    config = from_main_process(lambda: _fitting(setup, available))
    if config.tokens_per_microbatch != setup.config.tokens_per_microbatch:
        say(f"  forward passes with gradients are cut to {config.tokens_per_microbatch} tokens to fit into memory")
    if config.activation_checkpointing and not setup.config.activation_checkpointing:
        say("  activations are recomputed in backward passes, because memory is short")
    return dataclasses.replace(setup, config=config)


def _fitting(setup: Setup, available: float) -> AnyConfig:
    """The first that fits of: unchanged, cut in halves, cut and recomputed; the least that there is where none does."""
    given = setup.config
    tried = given
    for recompute in [given.activation_checkpointing] if given.activation_checkpointing is not None else [False, True]:
        tried = dataclasses.replace(given, activation_checkpointing=recompute)
        estimate = estimate_setup(dataclasses.replace(setup, config=tried), unknown_machine(tried))
        budgets = budgets_of(estimate, given, int(setup.train.lengths.max()))
        for budget in budgets:
            tried = dataclasses.replace(tried, tokens_per_microbatch=budget)
            if memory_of_steps(estimate, budget) <= available:
                return tried
    return tried


def budgets_of(estimate: Estimate, given: AnyConfig, longest: int) -> Sequence[int | None]:
    """No limit, then halves of the largest micro-batch down to one row."""
    if given.tokens_per_microbatch is not None:
        return [given.tokens_per_microbatch]
    budgets: list[int | None] = [None]
    size = max((work.training.largest.computed for work in estimate.work if work.training), default=0.0)
    while (size := size / 2) >= longest:
        budgets.append(int(size))
    return budgets


def memory_of_steps(estimate: Estimate, budget: int | None) -> float:
    """Bytes of the run when its largest micro-batch has `budget` tokens."""
    return max(estimate.costs.memory(_steps(work, budget)) for work in estimate.work if work.training)


def _steps(work: PhaseWork, budget: int | None) -> PhaseWork:
    """The gradient steps of a phase with micro-batches cut. Sampling fits itself: it takes fewer slots."""
    alone, training = dataclasses.replace(work, draws=()), work.training
    if training is None or budget is None or training.largest.computed <= budget:
        return alone
    part = training.largest.times(budget / training.largest.computed)
    return dataclasses.replace(alone, training=dataclasses.replace(training, largest=part))
