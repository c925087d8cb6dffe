"""Which records are trained together, and in which order: fixed once, before any of them is scored or trained."""

import itertools
import math
import random
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from demotune.common.processes import process_count
from demotune.common.sequences import Mapped
from demotune.training.setup import Setup

Row = TypeVar("Row")
Numbers = NDArray[np.int64]
"""One for each record."""


class Units(Sequence[list[int]]):
    """Numbers of records, cut into micro-batches: two arrays, since a plan may hold millions of records."""

    def __init__(self, records: Numbers, sizes: Numbers) -> None:
        self._records, self._ends = records, np.cumsum(sizes)

    @classmethod
    def of(cls, units: Iterable[Sequence[int]]) -> "Units":
        """The same units, which are read once."""
        records, sizes = array("q"), array("q")
        for unit in units:
            records.extend(unit)
            sizes.append(len(unit))
        return cls(np.frombuffer(records, np.int64), np.frombuffer(sizes, np.int64))

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, place: int) -> list[int]: ...
    @overload
    def __getitem__(self, place: slice) -> list[list[int]]: ...
    def __getitem__(self, place: int | slice) -> list[int] | list[list[int]]:
        if isinstance(place, slice):
            return [self[one] for one in range(len(self))[place]]
        place = range(len(self))[place]  # an IndexError ends a loop over all
        found: list[int] = self._records[self._ends[place - 1] if place else 0 : self._ends[place]].tolist()
        return found


@dataclass(frozen=True, slots=True, eq=False)
class MicrobatchPlan:
    """Which records are in one micro-batch (`units`) and in which order the units are trained.

    `order`: numbers of units in all passes, (micro-batches,).
    """

    units: Units
    order: Numbers
    steps: int


def plan_microbatches(
    lengths: Sequence[int] | Numbers,
    *,
    batch_size: int,
    accumulation: int,
    epochs: float,
    steps: int | None,
    seed: int,
    groups: Sequence[int] | Numbers | None = None,
) -> MicrobatchPlan:
    """Fix once, from the seed, which records share a micro-batch and when each micro-batch is trained.

    Records of one of the `groups`, a number for each record, stay together; without groups each record is one. Groups
    are shuffled, sorted by length within windows of 8 micro-batches (less padding), and cut by `whole_groups`. A
    micro-batch keeps its members in every pass, so that it can be scored exactly as it will be trained; its place in
    each pass is random. `steps` (optimizer steps) overrides `epochs`.
    """
    if not len(lengths):
        raise ValueError("there are no records to plan micro-batches for")
    rng = random.Random(seed)
    # Records sorted by group, and where each group begins; groups are in the order in which they first come.
    _, first, group_of = np.unique(
        range(len(lengths)) if groups is None else groups, return_index=True, return_inverse=True
    )
    group_of = np.argsort(np.argsort(first))[group_of]
    records = np.argsort(group_of, kind="stable")
    borders = np.flatnonzero(np.diff(group_of[records], prepend=-1, append=-1))
    longest = np.maximum.reduceat(np.asarray(lengths)[records], borders[:-1])
    sizes = np.diff(borders)
    shuffled = np.array(rng.sample(range(len(sizes)), len(sizes)))
    ordered: list[Numbers] = []
    for window in _windows(sizes[shuffled], 8 * batch_size):
        own = shuffled[window]
        ordered += [
            records[borders[group] : borders[group + 1]] for group in own[np.argsort(longest[own], kind="stable")]
        ]
    order_of_records = np.concatenate(ordered)
    cut = np.array([len(unit) for unit in whole_groups(group_of[order_of_records], batch_size)])
    wanted = steps * accumulation if steps is not None else max(round(len(cut) * epochs), 1)
    order = np.array(in_passes(range(len(cut)), wanted, rng))
    return MicrobatchPlan(units=Units(order_of_records, cut), order=order, steps=-(-wanted // accumulation))


def _windows(sizes: Numbers, least: int) -> Iterator[slice]:
    """Consecutive groups that have so many records together, the last ones fewer."""
    start = left = 0
    for place, size in enumerate(sizes.tolist()):
        if place > start and left <= 0:
            yield slice(start, place)
            start = place
        if place == start:
            left = least
        left -= size
    yield slice(start, len(sizes))


class Microbatches(Mapped[list[Row]]):
    """The micro-batches of a plan in the order in which they are trained; one is put together when it is asked for."""

    def __init__(self, plan: MicrobatchPlan, records: Sequence[Row]) -> None:
        super().__init__(lambda unit: [records[number] for number in plan.units[unit]], plan.order)


def whole_groups(groups: Sequence[int] | Numbers, size: int) -> Iterator[list[int]]:
    """Places of consecutive records, cut into units of at most `size` that hold whole groups.

    `groups` has the group of each record. A larger group is cut into parts as equal as can be.
    """
    unit: list[int] = []
    for _, places in itertools.groupby(range(len(groups)), key=groups.__getitem__):
        group = [*places]
        for part in in_equal_parts(group, -(-len(group) // size)):
            if unit and len(unit) + len(part) > size:
                yield unit
                unit = []
            unit += part
    if unit:
        yield unit


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


@dataclass(frozen=True, slots=True)
class Deal:
    """How processes share an optimizer step: each micro-batch in so many `parts`, `accumulation` of them a process."""

    parts: int
    accumulation: int


def deal(microbatches: int, processes: int) -> Deal:
    """A step's micro-batches whole where each process gets as many as any other; else in the fewest parts that do."""
    common = math.gcd(microbatches, processes)
    return Deal(parts=processes // common, accumulation=microbatches // common)


def microbatches_of_step(setup: Setup) -> int:
    """Those of all processes, as the run was begun: a step holds the same records whoever goes on with it."""
    return setup.config.gradient_accumulation_steps * setup.processes


def as_dealt(units: Iterable[Sequence[Row]], microbatches: int) -> Iterator[Sequence[Row]]:
    """The units of steps of so many micro-batches as processes compute them: whole, or in parts."""
    parts = deal(microbatches, process_count()).parts
    return (part for unit in units for part in in_equal_parts(unit, parts) if part)


def config_microbatches(
    setup: Setup,
    lengths: Sequence[int] | Numbers,
    *,
    epochs: float,
    steps: int | None,
    seed: int,
    groups: Sequence[int] | Numbers | None = None,
) -> MicrobatchPlan:
    """The plan for records of so many tokens, with the batch sizes of the config, over all processes that began."""
    return plan_microbatches(
        lengths,
        batch_size=setup.config.per_device_train_batch_size,
        accumulation=microbatches_of_step(setup),
        epochs=epochs,
        steps=steps,
        seed=seed,
        groups=groups,
    )
