"""The world of the gold study: letters to sort, programs that sort them well or badly, and the gold reward.

A prompt is LENGTH letters of ALPHABET; the good response is the same letters in order. Bad responses are made by a
program as well, so of every response it is known how good it is. The start model is a small Llama that has read good
and bad responses alike and writes both.
"""

import random
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ALPHABET = "abcdefghij"
LENGTH = 6
LONGEST_ANSWER = LENGTH + 3
"""Tokens of the longest response that is sampled, the end token included."""
GOOD_IN_PRETRAINING = 0.4
SPECIALS = ("<pad>", "<end>", "<unk>", "=")
CHAT = (
    "{% for message in messages %}{{ message['content'] }}"
    "{{ '=' if message['role'] == 'user' else '<end>' }}{% endfor %}"
)

Part = Literal["pretraining", "demonstrations", "validation", "test"]
_PARTS: dict[Part, range] = {
    "pretraining": range(70),
    "demonstrations": range(70, 90),
    "validation": range(90, 95),
    "test": range(95, 100),
}


def draw_prompt(rng: random.Random, part: Part) -> str:
    """A prompt of one part; a checksum of the prompt says which part it belongs to, so parts share no prompt."""
    while True:
        prompt = "".join(rng.choices(ALPHABET, k=LENGTH))
        if zlib.crc32(prompt.encode()) % 100 in _PARTS[part] and not is_sorted(prompt):
            return prompt


def draw_prompts(seed: int, part: Part, count: int) -> list[str]:
    """`count` different prompts; those of a smaller count come first."""
    rng = random.Random(f"{part} {seed}")
    found: dict[str, None] = {}
    while len(found) < count:
        found[draw_prompt(rng, part)] = None
    return list(found)


def is_sorted(letters: str) -> bool:
    return letters == good_response(letters)


def good_response(prompt: str) -> str:
    return "".join(sorted(prompt))


def bad_response(prompt: str, rng: random.Random) -> str:
    """A mistake: neighbours swapped (once to three times), a letter lost, doubled or misread, or all in reverse."""
    good = good_response(prompt)
    while True:
        letters = list(good)
        kind = rng.choice(("swap", "swap", "lose", "double", "misread", "reverse"))
        place = rng.randrange(LENGTH)
        if kind == "swap":
            for _ in range(rng.randint(1, 3)):
                place = rng.randrange(LENGTH - 1)
                letters[place], letters[place + 1] = letters[place + 1], letters[place]
        elif kind == "lose":
            del letters[place]
        elif kind == "double":
            letters.insert(place, letters[place])
        elif kind == "misread":
            letters[place] = rng.choice(ALPHABET)
        else:
            letters.reverse()
        if "".join(letters) != good:
            return "".join(letters)


def gold_reward(prompt: str, response: str) -> float:
    """1 for the sorted letters; else 1 - edit distance / length of the longer text, so that quality is graded."""
    good = good_response(prompt)
    return 1 - edit_distance(response, good) / max(len(response), len(good))


def edit_distance(one: str, other: str) -> int:
    """Letters to insert, delete or replace (Levenshtein)."""
    row = list(range(len(other) + 1))
    for number, letter in enumerate(one, start=1):
        corner, row[0] = row[0], number
        for place, goal in enumerate(other, start=1):
            corner, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, corner + (letter != goal))
    return row[-1]


def demonstrations(seed: int, count: int, bad_share: float) -> list[dict[str, str]]:
    """Rows of prompt and completion, of which exactly `bad_share` is bad (rounded); fewer rows are a prefix of more."""
    rng = random.Random(f"responses {seed}")
    rows = []
    for number, prompt in enumerate(draw_prompts(seed, "demonstrations", count)):
        is_bad = int((number + 1) * bad_share + 1e-9) > int(number * bad_share + 1e-9)
        bad = bad_response(prompt, rng)
        rows.append({"prompt": prompt, "completion": bad if is_bad else good_response(prompt)})
    return rows


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a letter; the chat template writes `prompt=response<end>`."""
    vocabulary = {token: number for number, token in enumerate((*SPECIALS, *ALPHABET))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", unk_token="<unk>", chat_template=CHAT
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Two layers of 64 units, random."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=192,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=32,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            attn_implementation="eager",
        )
    )


def pretrain(folder: Path, steps: int, batch_size: int = 128, rate: float = 3e-3) -> None:
    """Make the start model: next-token loss on the responses to random prompts, GOOD_IN_PRETRAINING of them good.

    A plain loop, on purpose without demotune: it makes the world in which methods are compared.
    """
    rng = random.Random("pretraining")
    tokenizer = make_tokenizer()
    model = make_model(tokenizer).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    vocabulary = tokenizer.get_vocab()
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        rows = [_pretraining_row(vocabulary, rng) for _ in range(batch_size)]
        ids, labels = _padded(rows, tokenizer.pad_token_id)
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 200 == 0 or step == steps - 1:
            print(f"pretraining {step + 1}/{steps}: loss {loss.item():.3f} nats per response token", flush=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _pretraining_row(vocabulary: dict[str, int], rng: random.Random) -> list[int]:
    prompt = draw_prompt(rng, "pretraining")
    good = rng.random() < GOOD_IN_PRETRAINING
    response = good_response(prompt) if good else bad_response(prompt, rng)
    return [*(vocabulary[letter] for letter in f"{prompt}={response}"), vocabulary["<end>"]]


def _padded(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Padded on the right; labels only where the response is."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad_id)
    labels = torch.full((len(rows), width), -100)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row)
        labels[number, LENGTH + 1 : len(row)] = torch.tensor(row[LENGTH + 1 :])
    return ids, labels
