"""The world of the study of answers: add digits modulo 7, with or without a thought before the answer."""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator, default_rng
from transformers import LlamaForCausalLM

from benchmarks.studies.small_model import token_losses, train_start_model
from benchmarks.studies.world import DEMONSTRATIONS, HELDOUT, PROMPTS, Part, write_examples

BASE, DIGITS, LONGEST_THOUGHT = 7, 8, 10
RIGHT_KIND, MISTAKE = 1 / 3, 1 / 8
SPECIALS = ("<pad>", "<end>", "<unk>", "=", "#")
VOCABULARY = {token: number for number, token in enumerate((*SPECIALS, *map(str, range(BASE))))}


def answer_to(prompt: str) -> str:
    return str(sum(map(int, prompt)) % BASE)


def gold(prompt: str, response: str) -> dict[str, float]:
    """Right where the response has one `#` and only the sum after it."""
    thought, mark, answer = response.partition("#")
    right = bool(mark) and answer == answer_to(prompt)
    sums = np.cumsum([int(digit) for digit in prompt]) % BASE
    return {
        "goal": float(right),
        "running_sums": float(thought == "".join(map(str, sums))),
        "thought_length": float(len(thought)),
    }


def draw_prompts(rng: Generator, part: Part, count: int) -> list[str]:
    """`count` different prompts of a part: by the sum of the digits times their places, a tenth each is held out."""
    found: dict[str, None] = {}
    while len(found) < count:
        digits = rng.integers(BASE, size=DIGITS)
        place = int(digits @ np.array([3, 17, 29, 53, 71, 97, 101, 113])) % 10
        if part == ("test" if place == 0 else "validation" if place == 1 else "train"):
            found["".join(map(str, digits))] = None
    return list(found)


def _examples(prompts: Sequence[str]) -> list[dict[str, str]]:
    return [{"prompt": prompt, "completion": f"#{answer_to(prompt)}"} for prompt in prompts]


@cache
def questions(part: Part) -> list[dict[str, str]]:
    return _examples(draw_prompts(default_rng([0, 1]), part, 256))


def write_seed(folder: Path, seed: int) -> None:
    """64 demonstrations, 16 held out; no further prompts."""
    rows = _examples(draw_prompts(default_rng([seed, 2]), "train", 80))
    write_examples(folder / DEMONSTRATIONS, rows[:64])
    write_examples(folder / HELDOUT, rows[64:])
    (folder / PROMPTS).write_text("\n".join(row["prompt"] for row in rows[:64]) + "\n", encoding="utf-8")


def start_responses(rng: Generator, digits: Any) -> Any:
    """(N, DIGITS) -> (N, DIGITS + 1): what the start model reads as thought and answer."""
    count = len(digits)
    steps = digits + np.where(rng.random(digits.shape) < MISTAKE, rng.integers(1, BASE, size=digits.shape), 0)
    sums = steps.cumsum(axis=1) % BASE
    kinds = [digits, digits[:, ::-1], rng.integers(BASE, size=digits.shape)]
    other = np.stack(kinds)[rng.integers(len(kinds), size=count), np.arange(count)]
    own = rng.random(count) < RIGHT_KIND
    thoughts = np.where(own[:, None], sums, other)
    answers = np.where(own, sums[:, -1], rng.integers(BASE, size=count))
    return np.concatenate([thoughts, answers[:, None]], axis=1)


PRETRAINING, STEPS, BATCH = (0, 3), 2500, 128
"""Of the start model: the seed of its batches, how many, and their rows."""


def pretraining_batches(count: int = BATCH) -> Iterator[tuple[Any, Any]]:
    """Without end: (count, DIGITS) prompts and (count, DIGITS + 1) what is written after them."""
    rng = default_rng(PRETRAINING)
    while True:
        digits = rng.integers(BASE, size=(count, DIGITS))
        yield digits, start_responses(rng, digits)


def pretrain(folder: Path, steps: int = STEPS, batch_size: int = BATCH, rate: float = 3e-3) -> None:
    """The start model: it learns to write thoughts of its kinds, and answers after them."""
    batches = pretraining_batches(batch_size)
    zero, one = VOCABULARY["0"], np.ones((batch_size, 1), dtype=np.int64)

    def loss_of(model: LlamaForCausalLM) -> tuple[torch.Tensor, str]:
        digits, thoughts = next(batches)
        written = thoughts + zero
        sides = [digits + zero, one * VOCABULARY["="], written[:, :-1], one * VOCABULARY["#"], written[:, -1:]]
        ids = torch.from_numpy(np.concatenate([*sides, one * VOCABULARY["<end>"]], axis=1))
        loss = token_losses(model, ids)[:, DIGITS:].mean()
        return loss, f"{loss:.3f} nats a token"

    train_start_model(folder, VOCABULARY, loss_of, steps=steps, rate=rate)
