"""The work of one stage, the same for every contestant: token ids, sizes, and how many operations it takes.

**Useful FLOPs**, one formula for all. B weights of the model's body (without embedding and head), V x D of the head:

    sample     2 B (prompt + response - 1) + 2 V D response     each prompt read once, each token drawn once
    score      2 B (2 prompt + y + y~)     + 2 V D (y + y~)     log pi of both sides; the head on response tokens only
    train      3 times score in each epoch (backward: gradients of inputs and of weights); with LoRA 2 times

Attention's own products (small at these lengths), embedding, softmax, adapter and optimizer are left out. Work that a
contestant does beyond this (padding, logits of prompts, a reference that is scored again in each step) is not useful;
work that it saves (a prompt that is computed once for both sides) counts as done. `least` is the same with each prompt
of a pair computed once: what nobody can go below.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from demotune.data import load_demonstrations
from demotune.data.rendering import Renderer, RenderError
from demotune.models.policy import resolve_model
from demotune.models.tokenizers import generation_stop_ids, load_tokenizer
from demotune.records import Demonstration, RenderedDemonstration

GSM8K_COLUMNS = "prompt=question,response=answer"
PHASES = ("sample", "score", "train")


@dataclass(frozen=True, kw_only=True)
class Work:
    """Prompts and demonstrations as token ids, and what every contestant does with them."""

    model: str
    """A local folder; never kept in results."""
    prompts: list[list[int]]
    demos: list[list[int]]
    texts: list[dict[str, str]]
    """The same rows as text, for contestants that read files; empty where prompts had to be cut."""
    new_tokens: int
    """Tokens of every sample; nothing ends one earlier."""
    batch: int
    epochs: int
    bf16: bool
    lora: bool = False
    learning_rate: float = 5e-6
    beta: float = 0.1
    lora_r: int = 16
    lora_alpha: int = 32
    seed: int = 0

    def save(self, file: Path) -> None:
        file.write_text(json.dumps(dataclasses.asdict(self)), encoding="utf-8")

    @staticmethod
    def load(file: Path) -> "Work":
        return Work(**json.loads(file.read_text(encoding="utf-8")))

    def described(self) -> dict[str, Any]:
        """The settings, for results: no ids, no texts, no paths."""
        kept = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for name in ("prompts", "demos", "texts"):
            del kept[name]
        return kept | {
            "model": Path(self.model).name,
            "rows": len(self.prompts),
            "prompt_tokens": [min(map(len, self.prompts)), max(map(len, self.prompts))],
            "demo_tokens": [min(map(len, self.demos)), max(map(len, self.demos))],
            "steps": self.steps,
            "tokens": self.tokens(),
        }

    @property
    def steps(self) -> int:
        return self.epochs * math.ceil(len(self.prompts) / self.batch)

    def tokens(self) -> dict[str, int]:
        """Tokens of each phase: drawn; scored and trained on, where a prompt counts for both sides of its pair."""
        drawn, prompts = len(self.prompts) * self.new_tokens, sum(map(len, self.prompts))
        pairs = 2 * prompts + sum(map(len, self.demos)) + drawn
        return {"sample": drawn, "score": pairs, "train": self.epochs * pairs}

    def flops(self) -> dict[str, float]:
        """Useful FLOPs of each phase; see the head of this module."""
        return self._flops(sides=2)

    def least_flops(self) -> dict[str, float]:
        """The same with each prompt of a pair computed once."""
        return self._flops(sides=1)

    def _flops(self, sides: int) -> dict[str, float]:
        rows, prompts = len(self.prompts), sum(map(len, self.prompts))
        responses = sum(map(len, self.demos)) + rows * self.new_tokens
        size = self._size
        score = 2.0 * size.body * (sides * prompts + responses) + 2.0 * size.head * responses
        return {
            "sample": 2.0 * size.body * (prompts + rows * (self.new_tokens - 1))
            + 2.0 * size.head * rows * self.new_tokens,
            "score": score,
            "train": (2 if self.lora else 3) * self.epochs * score,
        }

    @cached_property
    def _size(self) -> "Size":
        return Size.of(Path(self.model))


@dataclass(frozen=True, slots=True)
class Size:
    """Weights of a model that take part in matrix products: of its body, and of its head."""

    body: int
    head: int

    @staticmethod
    def of(folder: Path) -> "Size":
        """Counted on a model without memory, by the config in `folder`."""
        config = AutoConfig.from_pretrained(folder)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
        outside = {id(weight): weight.numel() for weight in (head, embedding)}
        return Size(sum(weight.numel() for weight in model.parameters()) - sum(outside.values()), head.numel())


def make_work(
    model: str,
    data: str | None,
    columns: str | None,
    *,
    rows: int,
    prompt_tokens: tuple[int, int],
    demo_tokens: int,
    **settings: Any,
) -> Work:
    """The first `rows` rows of `data` (the shipped demonstrations without it) whose prompts have so many tokens.

    Demonstrations are cut to `demo_tokens`, their end token included. Where too few prompts have the right length,
    others are cut to their last tokens; then there are no texts. Raises SystemExit when there are too few rows.
    """
    folder = resolve_model(model)
    renderer = Renderer(load_tokenizer(folder), None, generation_stop_ids(folder))
    shipped = str(resources.files("demotune.cli") / "shipped" / "support_train.jsonl")
    loaded = load_demonstrations([data or shipped], columns=columns or (GSM8K_COLUMNS if data else None))
    low, high = prompt_tokens
    fitting: list[tuple[RenderedDemonstration, dict[str, str]]] = []
    others: list[RenderedDemonstration] = []
    for demonstration in loaded.rows:
        if len(fitting) == rows:
            break
        if len(found := _cut(demonstration, renderer, demo_tokens)) == 2:
            row, text = found
            if low <= len(row.prompt_ids) <= high and text:
                fitting.append((row, text))
            elif len(row.prompt_ids) > high:
                others.append(row)
    missing = rows - len(fitting)
    if missing > len(others):
        raise SystemExit(
            f"{len(fitting)} prompts have {low} to {high} tokens and {len(others)} more, {rows} are needed; give other "
            "--data, fewer --rows or other --prompt-tokens"
        )
    together = [row for row, _ in fitting] + others[:missing]
    return Work(
        model=str(folder),
        prompts=[[*row.prompt_ids[-high:]] for row in together],
        demos=[[*row.demo.ids] for row in together],
        texts=[] if missing else [text for _, text in fitting],
        **settings,
    )


def _cut(demonstration: Demonstration, renderer: Renderer, longest: int) -> tuple[RenderedDemonstration, dict] | tuple:
    """The row with its response cut, and its text (empty where it is no single question); () when it cannot be."""
    try:
        row = renderer.render(demonstration)
        for room in range(longest - 1, 0, -1):
            if len(row.demo.ids) <= longest:
                break
            text = renderer.decode(row.demo.ids[:room]).strip()
            row = renderer.render(dataclasses.replace(demonstration, response=text))
            demonstration = dataclasses.replace(demonstration, response=text)
    except RenderError:
        return ()
    if len(row.demo.ids) > longest:
        return ()
    single = len(demonstration.prompt) == 1
    text = {"prompt": demonstration.prompt[0]["content"], "completion": demonstration.response} if single else {}
    return row, text


def pairs_of(work: Work, samples: Sequence[Sequence[int]]) -> list[dict[str, list[int]]]:
    """Rows for trainers of the ecosystem: ids of prompt, chosen (demonstration) and rejected (sample)."""
    return [
        {"prompt_ids": prompt, "chosen_ids": demo, "rejected_ids": [*sample]}
        for prompt, demo, sample in zip(work.prompts, work.demos, samples, strict=True)
    ]
