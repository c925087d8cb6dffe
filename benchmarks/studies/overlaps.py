"""Were test prompts of the studies seen before? Searched for in everything that a start model or a method learns from.

All of it is drawn anew from its seeds, the start models' pretraining included, so that nothing has to be kept.
"""

import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import fmean

from numpy.random import default_rng

from benchmarks.studies import distant, letters, sums, toy
from benchmarks.studies.frame import SEEDS
from benchmarks.studies.run import load_study
from benchmarks.studies.world import DEMONSTRATIONS, HELDOUT, PROMPTS, World, read_examples

WORLDS = {"habit": "habit, best_of, spin", "distant": "distant", "answers": "answers"}
"""A study of each world, and all studies in it."""


@dataclass(frozen=True, slots=True)
class Found:
    """Of the test prompts, the share found in one place; means over the seeds, each of which has data of its own."""

    same: float
    reordered: float
    """The same characters in another order."""
    one_changed: float
    """One character is another one."""


@dataclass(frozen=True, slots=True)
class Search:
    """One world's test prompts, and how many of them each place holds."""

    studies: str
    prompts: int
    demonstrations: Found
    further: Found
    """Prompts without demonstrations."""
    validation: Found
    pretraining: float
    """Share that the start model's pretraining drew."""
    times: float
    """How often it drew a test prompt, on average."""


def search(name: str) -> Search:
    """Of a study's world, over all seeds."""
    world = load_study(name).world
    test = [row["prompt"] for row in world.questions("test")]
    data = [prompts_of(world, seed) for seed in range(SEEDS)]
    seen = Counter(pretraining_prompts(name))
    return Search(
        WORLDS[name],
        len(test),
        _mean([found(test, demonstrations) for demonstrations, _ in data]),
        _mean([found(test, further) for _, further in data]),
        found(test, [row["prompt"] for row in world.questions("validation")]),
        fmean(prompt in seen for prompt in test),
        fmean(seen[prompt] for prompt in test),
    )


def prompts_of(world: World, seed: int) -> tuple[list[str], list[str]]:
    """Prompts with demonstrations, those held out included, and prompts without."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        world.write_data(folder, seed)
        rows = [row for file in (DEMONSTRATIONS, HELDOUT) for row in read_examples(folder / file)]
        return [row["prompt"] for row in rows], (folder / PROMPTS).read_text("utf-8").split()


def found(test: Collection[str], training: Collection[str]) -> Found:
    """Shares of the test prompts; one that is there itself counts as a near duplicate only of others."""
    known, orders, changed = set(training), Counter(map(_sorted, set(training))), Counter(_holes(set(training)))
    return Found(
        fmean(prompt in known for prompt in test),
        fmean(orders[_sorted(prompt)] > (prompt in known) for prompt in test),
        fmean(any(changed[hole] > (prompt in known) for hole in _holes([prompt])) for prompt in test),
    )


def _mean(each: Collection[Found]) -> Found:
    return Found(
        fmean(one.same for one in each), fmean(one.reordered for one in each), fmean(one.one_changed for one in each)
    )


def _sorted(prompt: str) -> str:
    return "".join(sorted(prompt))


def _holes(prompts: Iterable[str]) -> Iterator[str]:
    """Each prompt with each of its characters left out in turn: two prompts that differ in one place share one."""
    for prompt in prompts:
        for place in range(len(prompt)):
            yield f"{prompt[:place]}_{prompt[place + 1 :]}"


def pretraining_prompts(name: str) -> Iterator[str]:
    """Every prompt that the start model of a study's world read before the study, as often as it read it."""
    if name == "answers":
        for digits, _ in islice(sums.pretraining_batches(), sums.STEPS):
            yield from ("".join(map(str, row)) for row in digits.tolist())
        return
    asked = (*distant.NEAR, *distant.FAR) if name == "distant" else (letters.ASKED,)
    first = toy.VOCABULARY[letters.LETTERS[0]]
    for count, ids, _ in islice(toy.pretraining_batches(default_rng(toy.PRETRAINING), toy.BATCH, asked), toy.STEPS):
        yield from ("".join(letters.LETTERS[one - first] for one in row) for row in ids[:, :count].tolist())
