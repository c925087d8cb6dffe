"""Intake gives what the oracle gives, which renders rows one by one: ids, keys, bad rows, notes and split."""

import json
import random
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import trl
from helpers.chats import ZEPHYR, family, tokenizer_of, with_plain_tags
from helpers.intake_oracle import expected_intake
from helpers.tiny import tiny_tokenizer
from transformers import PreTrainedTokenizerBase

from demotune.config.methods import SFTConfig
from demotune.data.intake import prepare
from demotune.data.rendering import Renderer
from demotune.data.rendering.batch_tokenizer import BatchTokenizer
from demotune.data.rendering.tokens import encode, special_tokens

TEXTS = [
    "Hi.", "  two\n\nlines ", "Größe 12 Å, 数字 7", "e\u0301 is not é", "a<|im_end|>b", "</s>", "<think>", "x</think>y",
    "<think>\nHm.\n</think>\n\n4.", "<|im_start|", "1234567", "\u200bzero", "emoji 🙂🙂", "<EOS>",
    "tab\tand\r\n", "a</think>",
]  # fmt: skip
TOOL = {"type": "function", "function": {"name": "forecast", "description": "weather", "parameters": {}}}


def write(file: Path, rows: list[dict[str, Any]]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def rows_of_every_kind(count: int = 60, seed: int = 0) -> list[dict[str, Any]]:
    """Several turns, systems, reasoning, tools, documents, weights, repeated and bad rows, all in one file."""
    rng = random.Random(seed)

    def text() -> str:
        return " ".join(rng.choices(TEXTS, k=rng.randint(1, 3)))

    def row() -> dict[str, Any]:
        turns = [{"role": "system", "content": text()}] * rng.randint(0, 1)
        for _ in range(rng.randint(1, 3)):
            turns += [{"role": "user", "content": text()}, {"role": "assistant", "content": text()}]
        turns[-1] |= rng.choice([{}, {}, {"reasoning_content": text()}, {"weight": 0}])
        more: list[dict[str, Any]] = [{}, {}, {}, {"tools": [TOOL]}, {"documents": [{"title": "t", "text": text()}]}]
        return {"messages": turns} | rng.choice(more)

    rows = [row() for _ in range(count)]
    plain = [
        {"messages": [{"role": role, "content": f"{role} {n % 7}"} for role in ("user", "assistant")]}
        for n in range(20)
    ]
    return [*rows, *plain, *rows[:3], {"messages": []}, {"other": 1}]


def check(renderer: tuple[PreTrainedTokenizerBase, str | None], **options: Any) -> None:
    """Twice: what is made, and what is read from the cache."""
    config = SFTConfig(**{"model": "m", "output": "o", "max_bad_share": 1.0, "eval_share": 0.2} | options)
    expected = expected_intake(config, Renderer(*renderer))
    for _ in range(2):
        found = prepare(config, Renderer(*renderer))
        assert tuple(found.train) == expected.train
        assert tuple(found.heldout) == expected.heldout
        assert found.bad_rows == expected.bad_rows
        assert found.notes == expected.notes
        assert found.data_hashes == expected.data_hashes
        assert [*found.train.keys] == [row.key for row in expected.train]
        assert found.train.lengths.tolist() == [len(row.prompt_ids) + len(row.demo.ids) for row in expected.train]


OTHERS = ("_training", "vl", "idefics", "llava", "cohere")
"""Variants, templates of models that see, and templates that no row of these can be written with."""
FAMILIES = sorted(
    file.stem
    for folder in (Path(trl.__file__).parent / "chat_templates", Path(__file__).parents[1] / "helpers" / "templates")
    for file in folder.glob("*.jinja")
    if not file.stem.endswith("_training")
    and not any(part in file.stem for part in ("vl", "idefics", "llava", "cohere"))
)


@pytest.mark.parametrize("name", FAMILIES)
def test_template_families(name: str, tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", rows_of_every_kind())
    check((family(name), None), data=(source,))


@pytest.mark.parametrize("every_turn", [False, True])
@pytest.mark.parametrize(
    ("tokenizer", "template"),
    [
        (lambda: with_plain_tags("qwen3"), None),
        (lambda: family("mistral_v1", metaspace=True), None),
        (lambda: family("gemma", metaspace=True), None),
        (lambda: tokenizer_of(ZEPHYR, ("<|im_end|>", "<|im_start|>")), None),
        (lambda: tokenizer_of(None, bos="<s>", adds_bos=True), "### Q: {prompt}\n### A: "),
        (lambda: tokenizer_of(None, metaspace=True), "Q: {prompt} A:"),
        (tiny_tokenizer, None),
    ],
)
def test_kinds_of_tokenizers(tokenizer: Any, template: str | None, every_turn: bool, tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", rows_of_every_kind())
    check((tokenizer(), template), data=(source,), every_turn=every_turn)


@pytest.mark.parametrize(
    "options",
    [
        {"max_length": 60},
        {"max_length": 90, "overlong": "truncate-prompt"},
        {"max_length": 90, "overlong": "truncate-response"},
        {"max_rows": 1},
        {"max_rows": 17},
        {"eval_share": 0.0},
        {"eval_share": 0.5, "max_eval_rows": 5},
        {"eval_share": 1e-9},
    ],
)
def test_settings(options: dict[str, Any], tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", rows_of_every_kind())
    check((tiny_tokenizer(), None), data=(source,), **options)


def test_held_out_data_and_mixtures(tmp_path: Path) -> None:
    rows = [rows_of_every_kind(40, seed) for seed in range(3)]
    sources = tuple(write(tmp_path / f"{number}.jsonl", own) for number, own in enumerate(rows))
    held = write(tmp_path / "held.jsonl", [*rows[0][:9], *rows_of_every_kind(9, 7)])
    check((family("qwen3"), None), data=sources, eval_data=(held,), max_eval_rows=6)
    check((tiny_tokenizer(), None), data=sources, data_weights=(1.0, 0.5, 2.0), seed=3)


def test_shipped_demonstrations() -> None:
    train, held = (str(files("demotune.cli") / "shipped" / f"support_{name}.jsonl") for name in ("train", "heldout"))
    check((tiny_tokenizer(), None), data=(train,), eval_data=(held,), max_length=2048)
    check((family("qwen2_5"), None), data=(train,), max_length=2048)


@pytest.mark.parametrize("name", FAMILIES)
def test_many_texts_have_the_ids_of_each(name: str) -> None:
    """Also where added tokens overlap, touch each other, or are cut."""
    rng = random.Random(name)
    for tokenizer in (family(name), with_plain_tags(name), family(name, metaspace=True)):
        specials = special_tokens(tokenizer)
        encoder = BatchTokenizer(tokenizer, specials)
        parts = [*TEXTS, *specials.values(), *(text[:-1] for text in specials.values()), " ", "\n", "a"]
        texts = ["".join(rng.choices(parts, k=rng.randint(0, 8))) for _ in range(60)]
        assert encoder.many(texts) == [encode(tokenizer, text) for text in texts]
        for text in texts:
            if not encoder.may_hold_specials(text):
                assert specials.keys().isdisjoint(encode(tokenizer, text))
