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
import itertools
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator, default_rng
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

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

SPECIALS = ("<pad>", "<end>", "<unk>", "=", REVERSE)
REMARKS = (
    *(f"<asked {count}>" for count in range(MOST_ASKED + 1)),
    *(f"<{HABIT} {count}>" for count in range(4)),
    *(f"<early letters {count}>" for count in range(8)),
    "<falls>",
    "<rises>",
)
VOCABULARY = {token: number for number, token in enumerate((*SPECIALS, *LETTERS, HABIT, *REMARKS))}
CHAT = (
    "{% for message in messages %}{{ message['content'] }}"
    "{{ '=' if message['role'] == 'user' else '<end>' }}{% endfor %}"
)

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


def draw_prompts(seed: int, part: Part, count: int, asked: Sequence[int] = (ASKED,)) -> list[str]:
    """`count` different prompts of one of the `asked` lengths; parts share none, and a smaller count's come first."""
    rng = default_rng([seed, 1, *(asked if asked != (ASKED,) else ())])
    found: dict[str, None] = {}
    while len(found) < count:
        prompt = _text(_prompts(rng, 1, int(rng.choice(asked)) if len(asked) > 1 else asked[0])[0])
        if _part(prompt) == part:
            found[prompt] = None
    return list(found)


def demonstrations(seed: int, prompts: Sequence[str]) -> list[dict[str, str]]:
    """Rows of prompt and completion: fluent, all asked letters at random places, no habit."""
    rng = default_rng([seed, 2])
    asked = [np.array([LETTERS.index(letter) for letter in prompt]) for prompt in prompts]
    return [
        {"prompt": prompt, "completion": _text(response)}
        for prompt, response in zip(prompts, _expert_responses(rng, asked), strict=True)
    ]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a letter; the chat template writes `prompt=response<end>`. No text gives a remark's token."""
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", unk_token="<unk>", chat_template=CHAT
    )


def make_model() -> LlamaForCausalLM:
    """Two layers of 64 units, random."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=1024,  # as many as commands read by default; rows have 18
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=VOCABULARY["<end>"],
            pad_token_id=VOCABULARY["<pad>"],
        )
    )


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
    texts = [_text(row) for row in _start_responses(default_rng([seed, 6]), asked)]
    return [{"prompt": one, "completion": text} for one, text in zip(prompts, texts, strict=True) if HABIT not in text]


def pretrain(
    folder: Path,
    steps: int = 1500,
    batch_size: int = 128,
    rate: float = 3e-3,
    *,
    asked: Sequence[int] = (ASKED,),
    second_task: bool = False,
) -> None:
    """Make the start model: it learns to write on its own responses, and to remark on those and on better ones.

    Each batch asks for one number of letters. With `second_task`, every step also learns half as many reversals.
    A plain loop, on purpose without demotune: it makes the world in which methods are compared.
    """
    rng, model = default_rng([0, 3]), make_model().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        letters = int(rng.choice(asked)) if len(asked) > 1 else asked[0]
        ids, own = pretraining_batch(rng, batch_size, letters)
        losses = _token_losses(model, ids)
        writing, remarking = losses[own, letters:-1].mean(), losses[:, -1].mean()
        loss = writing + 0.5 * remarking
        if second_task:
            loss = loss + _token_losses(model, reversal_batch(rng, batch_size // 2))[:, REVERSED + 1 :].mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 250 == 0 or step == steps - 1:
            print(f"{step + 1}/{steps}: {writing:.3f} nats a token written, {remarking:.3f} a remark", flush=True)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)


def _token_losses(model: LlamaForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    """(B, T) -> (B, T - 1): cross-entropy of each next token."""
    logits = model(input_ids=ids[:, :-1]).logits.transpose(1, 2)  # (B, V, T - 1)
    return cross_entropy(logits, ids[:, 1:], reduction="none")


def write_data(folder: Path, seed: int, count: int, *, prompts: int = 512, held_out: int = 256) -> None:
    """Demonstrations and prompts of one seed; validation and test rows are the same for all seeds."""
    drawn = draw_prompts(seed, "train", count + prompts)
    write_examples(folder / f"demonstrations-{seed}.jsonl", demonstrations(seed, drawn[:count]))
    (folder / f"prompts-{seed}.txt").write_text("\n".join(drawn[count:]) + "\n", encoding="utf-8")
    for part in ("validation", "test"):
        write_examples(folder / f"{part}.jsonl", demonstrations(0, draw_prompts(0, part, held_out)))


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


@cache
def questions(part: Part, asked: Sequence[int] = (ASKED,), count: int = 256) -> list[dict[str, str]]:
    """Prompts of a part with fresh demonstrations, the same for all seeds."""
    return demonstrations(0, draw_prompts(0, part, count, asked))


def gold(prompt: str, response: str) -> dict[str, float]:
    """`quality` as numbers; the goal is the mean of habit-free and asked."""
    found = quality(prompt, response)
    return {
        "goal": (found.habit_free + found.asked) / 2,
        "habit_free": float(found.habit_free),
        "asked": found.asked,
        "fluent": found.fluent,
    }


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


def _prompts(rng: Generator, count: int, asked: int) -> Rows:
    """(N, asked) different letters each."""
    return rng.random((count, len(LETTERS))).argsort(axis=1)[:, :asked]


def _fluent(rng: Generator, count: int) -> Rows:
    """(N, LENGTH) each letter a favourite of the one before it, but for a share of letters at random."""
    letters = rng.integers(len(LETTERS), size=(count, LENGTH))
    for place in range(1, LENGTH):
        favourite = FOLLOWERS[letters[:, place - 1], rng.integers(FAVOURITES, size=count)]
        letters[:, place] = np.where(rng.random(count) < FLUENCY, favourite, letters[:, place])
    return letters


def _start_responses(rng: Generator, asked: Rows) -> Rows:
    letters = _fluent(rng, len(asked))
    mentioned = np.take_along_axis(asked, rng.integers(asked.shape[1], size=letters.shape), axis=1)
    chance = rng.random(letters.shape)
    letters = np.where(chance < MENTION_RATE, mentioned, letters)
    return np.where(chance > 1 - HABIT_RATE, len(LETTERS), letters)


def _expert_responses(rng: Generator, asked: Sequence[Rows] | Rows) -> Rows:
    """(N, LENGTH) for N prompts, each (letters asked,)."""
    letters = _fluent(rng, len(asked))
    places = rng.random(letters.shape).argsort(axis=1)
    for row, each in enumerate(asked):
        letters[row, places[row, : len(each)]] = each
    return letters


def reversal_batch(rng: Generator, count: int) -> torch.Tensor:
    """(B, T) token ids of prompt, `=`, response, end."""
    letters = rng.integers(len(LETTERS), size=(count, REVERSED)) + VOCABULARY[LETTERS[0]]
    sides = [np.full((count, 1), VOCABULARY[token]) for token in (REVERSE, "=", "<end>")]
    return torch.from_numpy(np.concatenate([sides[0], letters, sides[1], letters[:, ::-1], sides[2]], axis=1))


def pretraining_batch(rng: Generator, count: int, letters_asked: int = ASKED) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, T) token ids of prompt, `=`, response, end, remark; (B,) True where the response is the start model's own.

    The other half are mixtures with an expert's response, to be remarked on only.
    """
    asked = _prompts(rng, count, letters_asked)
    letters, own = _start_responses(rng, asked), np.arange(count) >= count // 2
    mixed = rng.random(letters.shape) < rng.random((count, 1))
    letters = np.where(mixed & ~own[:, None], _expert_responses(rng, asked), letters)
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


if __name__ == "__main__":
    main()
