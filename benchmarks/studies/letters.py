"""The letters of the toy worlds: prompts, responses of the start model and of experts, and what a program counts.

A prompt is the asked letters, ASKED of them unless a study says otherwise; a response has LENGTH letters. The second
task is to reverse REVERSED letters.
"""

import itertools
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.random import Generator, default_rng
from numpy.typing import NDArray

from benchmarks.studies.world import DEMONSTRATIONS, HELDOUT, PROMPTS, Part, write_examples

LETTERS = "abcdefghijklmnop"
HABIT = "z"
ASKED = 4
MOST_ASKED = 8
LENGTH = 12
HABIT_RATE = 0.05
"""Share of the start model's letters that are the habit: 46% of its responses have one."""
MENTION_RATE = 0.1
"""Share of its letters that are an asked one on purpose."""
FAVOURITES = 4
"""Letters that may fluently follow each letter."""
FLUENCY = 0.8
REVERSE = ">"
"""Begins a prompt of the second task: answer with the prompt's letters in reverse."""
REVERSED = 6
Rows = NDArray[np.int64]
"""(N, letters) places in LETTERS + HABIT."""


@dataclass(frozen=True, slots=True)
class Quality:
    """What the program counts in a response."""

    habit_free: bool
    asked: float
    """Share of the asked letters that it has."""
    fluent: float
    """Share of its steps from letter to letter that are fluent ones."""


def quality(prompt: str, response: str) -> Quality:
    """The gold measure. A response without two letters has no step and is not fluent."""
    fluent = [_is_fluent(one, other) for one, other in itertools.pairwise(response)]
    return Quality(
        habit_free=HABIT not in response,
        asked=sum(letter in response for letter in prompt) / len(prompt),
        fluent=sum(fluent) / len(fluent) if fluent else 0.0,
    )


def gold(prompt: str, response: str) -> dict[str, float]:
    """`quality` as numbers; the goal is the mean of habit-free and asked."""
    found = quality(prompt, response)
    return {
        "goal": (found.habit_free + found.asked) / 2,
        "habit_free": float(found.habit_free),
        "asked": found.asked,
        "fluent": found.fluent,
    }


def draw_prompts(seed: int, part: Part, count: int, asked: Sequence[int] = (ASKED,)) -> list[str]:
    """`count` different prompts of one of the `asked` lengths; parts share none, and a smaller count's come first."""
    rng = default_rng([seed, 1, *(asked if asked != (ASKED,) else ())])
    found: dict[str, None] = {}
    while len(found) < count:
        prompt = _text(random_prompts(rng, 1, int(rng.choice(asked)) if len(asked) > 1 else asked[0])[0])
        if _part(prompt) == part:
            found[prompt] = None
    return list(found)


def demonstrations(seed: int, prompts: Sequence[str]) -> list[dict[str, str]]:
    """Rows of prompt and completion: fluent, all asked letters at random places, no habit."""
    rng = default_rng([seed, 2])
    asked = [np.array([LETTERS.index(letter) for letter in prompt]) for prompt in prompts]
    return [
        {"prompt": prompt, "completion": _text(response)}
        for prompt, response in zip(prompts, expert_responses(rng, asked), strict=True)
    ]


def reversals(seed: int, part: Part, count: int) -> list[dict[str, str]]:
    """Rows of the second task: `count` prompts with the right responses."""
    rng = default_rng([seed, 5])
    found: dict[str, None] = {}
    while len(found) < count:
        prompt = _text(rng.integers(len(LETTERS), size=REVERSED))
        if _part(prompt) == part:
            found[prompt] = None
    return [{"prompt": REVERSE + letters, "completion": letters[::-1]} for letters in found]


def usual_texts(seed: int, part: Part, count: int) -> list[dict[str, str]]:
    """Rows as the start model has learned to write them, but for those that show the habit: fewer than `count`."""
    prompts = draw_prompts(seed, part, count)
    asked = np.array([[LETTERS.index(letter) for letter in prompt] for prompt in prompts])
    texts = [_text(row) for row in start_responses(default_rng([seed, 6]), asked)]
    return [{"prompt": one, "completion": text} for one, text in zip(prompts, texts, strict=True) if HABIT not in text]


@cache
def questions(part: Part, asked: Sequence[int] = (ASKED,), count: int = 256) -> list[dict[str, str]]:
    """Prompts of a part with fresh demonstrations, the same for all seeds."""
    return demonstrations(0, draw_prompts(0, part, count, asked))


def write_seed(folder: Path, seed: int, *, near: Sequence[int] = (ASKED,), far: Sequence[int] = (ASKED,)) -> None:
    """A study's data of one seed: 24 demonstrations to train on, 8 held out, 512 prompts without demonstrations.

    Demonstrations ask for one of `near` letters, the prompts for one of `far`.
    """
    drawn = draw_prompts(seed, "train", 32 + 512 * (near == far), near)
    rows = demonstrations(seed, drawn[:32])
    write_examples(folder / DEMONSTRATIONS, rows[:24])
    write_examples(folder / HELDOUT, rows[24:])
    prompts = drawn[32:] if near == far else draw_prompts(seed, "train", 512, far)
    (folder / PROMPTS).write_text("\n".join(prompts) + "\n", encoding="utf-8")


def _part(prompt: str) -> Part:
    """By a checksum: a tenth of all prompts is for tests, another one for validation."""
    place = zlib.crc32(prompt.encode()) % 10
    return "test" if place == 0 else "validation" if place == 1 else "train"


def _text(row: Iterable[int]) -> str:
    return "".join((LETTERS + HABIT)[place] for place in row)


def _followers() -> Rows:
    """(letters, FAVOURITES) which letters may fluently follow each: the same in every world."""
    rng = default_rng(1234)
    return np.stack([rng.permutation(len(LETTERS))[:FAVOURITES] for _ in LETTERS])


FOLLOWERS = _followers()


def _is_fluent(one: str, other: str) -> bool:
    return one in LETTERS and other in LETTERS and LETTERS.index(other) in FOLLOWERS[LETTERS.index(one)]


def random_prompts(rng: Generator, count: int, asked: int) -> Rows:
    """(N, asked) different letters each."""
    return rng.random((count, len(LETTERS))).argsort(axis=1)[:, :asked]


def _fluent(rng: Generator, count: int) -> Rows:
    """(N, LENGTH) each letter a favourite of the one before it, but for a share of letters at random."""
    letters = rng.integers(len(LETTERS), size=(count, LENGTH))
    for place in range(1, LENGTH):
        favourite = FOLLOWERS[letters[:, place - 1], rng.integers(FAVOURITES, size=count)]
        letters[:, place] = np.where(rng.random(count) < FLUENCY, favourite, letters[:, place])
    return letters


def start_responses(rng: Generator, asked: Rows) -> Rows:
    letters = _fluent(rng, len(asked))
    mentioned = np.take_along_axis(asked, rng.integers(asked.shape[1], size=letters.shape), axis=1)
    chance = rng.random(letters.shape)
    letters = np.where(chance < MENTION_RATE, mentioned, letters)
    return np.where(chance > 1 - HABIT_RATE, len(LETTERS), letters)


def expert_responses(rng: Generator, asked: Sequence[Rows] | Rows) -> Rows:
    """(N, LENGTH) for N prompts, each (letters asked,)."""
    letters = _fluent(rng, len(asked))
    places = rng.random(letters.shape).argsort(axis=1)
    for row, each in enumerate(asked):
        letters[row, places[row, : len(each)]] = each
    return letters
