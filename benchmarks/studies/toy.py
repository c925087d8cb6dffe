"""The toy world of the letter studies: write fluently, mention what was asked, and drop a habit.

    python -m benchmarks.studies.toy FOLDER [--seed 0] [--demonstrations 32]

A prompt is ASKED letters; a response has LENGTH letters. The start model, a Llama of 87,000 numbers made from
scratch in under a minute, writes fluently, seldom mentions an asked letter, and has a habit: every twentieth letter
is a z. A program counts how much of the asked letters a response has and whether it is free of the habit.
Demonstrations mention all asked letters and never show the habit; they are fluent like the start model. The model
has also read remarks on responses, one after the end token (how many asked letters, how many z, and two that do not
matter), so its hidden state there holds judgements, and it does not know which of them count. FOLDER gets `start/`,
an ordinary model folder, and demonstrations, validation rows, prompts without demonstrations and test rows as data
files: demotune's own commands run on them. A study may ask other numbers of letters, or have the start model learn
a second task.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator, default_rng
from transformers import LlamaForCausalLM

from benchmarks.studies.letters import (
    ASKED,
    HABIT,
    LETTERS,
    MOST_ASKED,
    REVERSE,
    REVERSED,
    Rows,
    demonstrations,
    draw_prompts,
    expert_responses,
    random_prompts,
    start_responses,
)
from benchmarks.studies.small_model import token_losses, train_start_model
from benchmarks.studies.world import write_examples

SPECIALS = ("<pad>", "<end>", "<unk>", "=", REVERSE)
REMARKS = (
    *(f"<asked {count}>" for count in range(MOST_ASKED + 1)),
    *(f"<{HABIT} {count}>" for count in range(4)),
    *(f"<early letters {count}>" for count in range(8)),
    "<falls>",
    "<rises>",
)
VOCABULARY = {token: number for number, token in enumerate((*SPECIALS, *LETTERS, HABIT, *REMARKS))}


PRETRAINING, STEPS, BATCH = (0, 3), 1500, 128
"""Of the start model: the seed of its batches, how many, and their rows."""


def pretrain(
    folder: Path,
    steps: int = STEPS,
    batch_size: int = BATCH,
    rate: float = 3e-3,
    *,
    asked: Sequence[int] = (ASKED,),
    second_task: bool = False,
) -> None:
    """Make the start model: it learns to write on its own responses, and to remark on those and on better ones.

    Each batch asks for one number of letters. With `second_task`, every step also learns half as many reversals.
    """
    rng = default_rng(PRETRAINING)
    batches = pretraining_batches(rng, batch_size, asked)

    def loss_of(model: LlamaForCausalLM) -> tuple[torch.Tensor, str]:
        letters, ids, own = next(batches)
        losses = token_losses(model, ids)
        writing, remarking = losses[own, letters:-1].mean(), losses[:, -1].mean()
        loss = writing + 0.5 * remarking
        if second_task:
            loss = loss + token_losses(model, reversal_batch(rng, batch_size // 2))[:, REVERSED + 1 :].mean()
        return loss, f"{writing:.3f} nats a token written, {remarking:.3f} a remark"

    train_start_model(folder, VOCABULARY, loss_of, steps=steps, rate=rate)


def reversal_batch(rng: Generator, count: int) -> torch.Tensor:
    """(B, T) token ids of prompt, `=`, response, end."""
    letters = rng.integers(len(LETTERS), size=(count, REVERSED)) + VOCABULARY[LETTERS[0]]
    sides = [np.full((count, 1), VOCABULARY[token]) for token in (REVERSE, "=", "<end>")]
    return torch.from_numpy(np.concatenate([sides[0], letters, sides[1], letters[:, ::-1], sides[2]], axis=1))


def pretraining_batches(
    rng: Generator, count: int, asked: Sequence[int] = (ASKED,)
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """Without end: how many letters are asked, and `pretraining_batch`."""
    while True:
        letters = int(rng.choice(asked)) if len(asked) > 1 else asked[0]
        yield letters, *pretraining_batch(rng, count, letters)


def pretraining_batch(rng: Generator, count: int, letters_asked: int = ASKED) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, T) token ids of prompt, `=`, response, end, remark; (B,) True where the response is the start model's own.

    The other half are mixtures with an expert's response, to be remarked on only.
    """
    asked = random_prompts(rng, count, letters_asked)
    letters, own = start_responses(rng, asked), np.arange(count) >= count // 2
    mixed = rng.random(letters.shape) < rng.random((count, 1))
    letters = np.where(mixed & ~own[:, None], expert_responses(rng, asked), letters)
    first = VOCABULARY[LETTERS[0]]
    columns = [
        asked + first,
        np.full((count, 1), VOCABULARY["="]),
        letters + first,
        np.full((count, 1), VOCABULARY["<end>"]),
        _remarks(rng, asked, letters)[:, None],
    ]
    return torch.from_numpy(np.concatenate(columns, axis=1)), torch.from_numpy(own)


def _remarks(rng: Generator, asked: Rows, letters: Rows) -> Rows:
    """(N,) the token of one remark on each response, of a kind drawn at random."""
    counts = {
        "<asked 0>": (asked[:, :, None] == letters[:, None]).any(axis=2).sum(axis=1),
        f"<{HABIT} 0>": (letters == len(LETTERS)).sum(axis=1).clip(max=3),
        "<early letters 0>": (letters < ASKED).sum(axis=1).clip(max=7),
        "<falls>": (letters[:, 0] < letters[:, -1]).astype(np.int64),
    }
    kinds = np.stack([VOCABULARY[token] + count for token, count in counts.items()], axis=1)
    return np.take_along_axis(kinds, rng.integers(len(counts), size=(len(asked), 1)), axis=1)[:, 0]


def write_data(folder: Path, seed: int, count: int, *, prompts: int = 512, held_out: int = 256) -> None:
    """Demonstrations and prompts of one seed; validation and test rows are the same for all seeds."""
    drawn = draw_prompts(seed, "train", count + prompts)
    write_examples(folder / f"demonstrations-{seed}.jsonl", demonstrations(seed, drawn[:count]))
    (folder / f"prompts-{seed}.txt").write_text("\n".join(drawn[count:]) + "\n", encoding="utf-8")
    for part in ("validation", "test"):
        write_examples(folder / f"{part}.jsonl", demonstrations(0, draw_prompts(0, part, held_out)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--demonstrations", type=int, default=32)
    given = parser.parse_args()
    torch.set_num_threads(1)  # a second thread costs such small matrices more than it computes
    given.folder.mkdir(parents=True, exist_ok=True)
    start = given.folder / "start"
    if not start.is_dir():
        unfinished = given.folder / "start-unfinished"
        pretrain(unfinished)
        unfinished.rename(start)
    write_data(given.folder, given.seed, given.demonstrations)


if __name__ == "__main__":
    main()
