"""Which records are trained together, and in which order: fixed once, before any of them is scored or trained."""

import itertools
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
    lengths: Sequence[int],
    *,
    batch_size: int,
    accumulation: int,
    epochs: float,
    steps: int | None,
    seed: int,
    groups: Sequence[int] | None = None,
) -> MicrobatchPlan:
    """Fix once, from the seed, which records share a micro-batch and when each micro-batch is trained.

    Records of one of the `groups`, a number for each record, stay together; without groups each record is one. Groups
    are shuffled, sorted by length within windows of 8 micro-batches (less padding), and cut by `whole_groups`. A
    micro-batch keeps its members in every pass, so that it can be scored exactly as it will be trained; its place in
    each pass is random. `steps` (optimizer steps) overrides `epochs`.
    """
    if not lengths:
        raise ValueError("there are no records to plan micro-batches for")
    rng = random.Random(seed)
    members: dict[int, list[int]] = {}
    for record, name in enumerate(range(len(lengths)) if groups is None else groups):
        members.setdefault(name, []).append(record)
    shuffled = rng.sample([*members.values()], len(members))
    windows: list[list[list[int]]] = []
    left = 0
    for group in shuffled:
        if left <= 0:
            windows.append([])
            left = 8 * batch_size
        windows[-1].append(group)
        left -= len(group)
    ordered = [
        record
        for window in windows
        for group in sorted(window, key=lambda group: max(lengths[record] for record in group))
        for record in group
    ]
    group_of = {record: number for number, group in enumerate(shuffled) for record in group}
    cut = whole_groups([group_of[record] for record in ordered], batch_size)
    units = tuple(tuple(ordered[place] for place in unit) for unit in cut)
    wanted = steps * accumulation if steps is not None else max(round(len(units) * epochs), 1)
    order = in_passes(range(len(units)), wanted, rng)
    return MicrobatchPlan(units=units, order=tuple(order), steps=-(-wanted // accumulation))


def whole_groups(groups: Sequence[int], size: int) -> list[list[int]]:
    """Places of consecutive records, cut into units of at most `size` that hold whole groups.

    `groups` has the group of each record. A larger group is cut into parts as equal as can be.
    """
    units: list[list[int]] = []
    for _, places in itertools.groupby(range(len(groups)), key=groups.__getitem__):
        group = [*places]
        for part in in_equal_parts(group, -(-len(group) // size)):
            if not units or len(units[-1]) + len(part) > size:
                units.append([])
            units[-1] += part
    return units


def in_equal_parts(rows: Sequence[Row], count: int) -> list[Sequence[Row]]:
    """Consecutive parts, whose lengths differ by at most one."""
    borders = [part * len(rows) // count for part in range(count + 1)]
    return [rows[start:end] for start, end in itertools.pairwise(borders)]


def in_passes(rows: Sequence[Row], count: int, rng: random.Random) -> list[Row]:
    """`count` rows in random passes over all of them."""
    found: list[Row] = []
    while len(found) < count:
        found += rng.sample(rows, len(rows))
    return found[:count]


def config_microbatches(
    config: RunConfig,
    lengths: Sequence[int],
    *,
    epochs: float,
    steps: int | None,
    seed: int,
    groups: Sequence[int] | None = None,
) -> MicrobatchPlan:
    """The plan for records of so many tokens, with the batch sizes of the config, over all processes."""
    return plan_microbatches(
        lengths,
        batch_size=config.per_device_train_batch_size,
        accumulation=config.gradient_accumulation_steps * process_count(),
        epochs=epochs,
        steps=steps,
        seed=seed,
        groups=groups,
    )
