"""Which records are trained together, and in which order: fixed once, before any of them is scored or trained."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from demotune.common.processes import process_count
from demotune.config.run import RunConfig

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class MicrobatchPlan:
    """Which records are in one micro-batch (`units`) and in which order the units are trained (`order`, all passes)."""

    units: tuple[tuple[int, ...], ...]
    order: tuple[int, ...]
    steps: int


def plan_microbatches(
    lengths: Sequence[int], *, batch_size: int, accumulation: int, epochs: float, steps: int | None, seed: int
) -> MicrobatchPlan:
    """Fix once, from the seed, which records share a micro-batch and when each micro-batch is trained.

    Records are shuffled, sorted by length within windows of 8 micro-batches (less padding), and cut. A micro-batch
    keeps its members in every pass, so that it can be scored exactly as it will be trained; its place in each pass is
    random. `steps` (optimizer steps) overrides `epochs`.
    """
    if not lengths:
        raise ValueError("there are no records to plan micro-batches for")
    rng = random.Random(seed)
    shuffled = rng.sample(range(len(lengths)), len(lengths))
    window = 8 * batch_size
    grouped = [
        record
        for start in range(0, len(shuffled), window)
        for record in sorted(shuffled[start : start + window], key=lambda record: lengths[record])
    ]
    units = tuple(tuple(grouped[start : start + batch_size]) for start in range(0, len(grouped), batch_size))
    wanted = steps * accumulation if steps is not None else max(round(len(units) * epochs), 1)
    order = in_passes(range(len(units)), wanted, rng)
    return MicrobatchPlan(units=units, order=tuple(order), steps=-(-wanted // accumulation))


def in_passes(rows: Sequence[Row], count: int, rng: random.Random) -> list[Row]:
    """`count` rows in random passes over all of them."""
    found: list[Row] = []
    while len(found) < count:
        found += rng.sample(rows, len(rows))
    return found[:count]


def config_microbatches(
    config: RunConfig, lengths: Sequence[int], *, epochs: float, steps: int | None, seed: int
) -> MicrobatchPlan:
    """The plan for records of so many tokens, with the batch sizes of the config, over all processes."""
    return plan_microbatches(
        lengths,
        batch_size=config.per_device_train_batch_size,
        accumulation=config.gradient_accumulation_steps * process_count(),
        epochs=epochs,
        steps=steps,
        seed=seed,
    )
