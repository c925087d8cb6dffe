"""Measures of a policy on a part's prompts: what the program counts, likelihood of fresh demonstrations, entropy."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from benchmarks.studies.world import Example, World
from demotune.data.rendering import Renderer
from demotune.models.batches import pack_sides
from demotune.models.logprobs import autocast, response_logps
from demotune.models.policy import Policy, load_policy
from demotune.models.tokenizers import generation_stop_ids, load_tokenizer
from demotune.records import Completion, Demonstration, Response
from demotune.sampling import SamplingOptions, sample_responses

SLOTS = 512
BATCH = 128


@dataclass(frozen=True, slots=True)
class Found:
    """What was found of one setting; see `frame.Row`."""

    measures: Mapping[str, float]
    seconds: float
    answers: int = 1
    samples: int | None = None
    """Answers to each prompt; None: as many as the study asks for."""
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Numbers:
    """Of each completion under a policy at a temperature, summed over its tokens, in nats."""

    logps: list[float]
    entropies: list[float]
    tokens: int


@dataclass(frozen=True, slots=True)
class Reader:
    """The texts of a world as a model's token ids."""

    renderer: Renderer
    longest: int
    bf16: bool

    @staticmethod
    def of(world: World, folder: Path) -> "Reader":
        return Reader(Renderer(load_tokenizer(folder), None, generation_stop_ids(folder)), world.longest, world.bf16)

    def demonstrations(self, rows: Sequence[Example]) -> list[Completion]:
        rendered = [
            self.renderer.render(Demonstration(({"role": "user", "content": row["prompt"]},), row["completion"], ""))
            for row in rows
        ]
        return [Completion(row.prompt_ids, row.demo) for row in rendered]

    def text(self, response: Response) -> str:
        return self.renderer.decode(response.ids)


def load(folder: Path) -> Policy:
    return load_policy(folder, dtype="float32", attn_implementation=None, device=torch.device("cpu"))


def draw(  # noqa: PLR0917
    policy: Policy, reader: Reader, prompts: Sequence[tuple[int, ...]], seed: int, temperature: float, samples: int
) -> list[list[Response]]:
    """`samples` responses to each prompt; every policy gets the same random numbers."""
    options = SamplingOptions(
        reader.longest, reader.renderer.stop_ids, temperature=temperature, bf16=reader.bf16,
        vocabulary=reader.renderer.vocabulary,
    )  # fmt: skip
    asked = [prompt for prompt in prompts for _ in range(samples)]
    drawn = dict(sample_responses(policy, asked, range(len(asked)), seed, options, slots=SLOTS))
    return [[drawn[row * samples + number] for number in range(samples)] for row in range(len(prompts))]


@contextmanager
def tempered(policy: Policy, temperature: float) -> Iterator[None]:
    """The policy's logits divided by the temperature."""
    head = policy.get_output_embeddings()
    hook = head.register_forward_hook(lambda _, __, logits: logits / temperature)
    try:
        yield
    finally:
        hook.remove()


def numbers_of(policy: Policy, completions: Sequence[Completion], temperature: float, bf16: bool) -> Numbers:
    logps: list[float] = []
    entropies: list[float] = []
    with torch.no_grad(), tempered(policy, temperature), autocast(torch.device("cpu"), bf16):
        for first in range(0, len(completions), BATCH):
            rows = completions[first : first + BATCH]
            found = response_logps(policy, pack_sides([(row.prompt_ids, row.response.ids) for row in rows]))
            logps += found.summed().tolist()
            entropies += found.entropy.sum(dim=-1).tolist()
    return Numbers(logps, entropies, sum(len(row.response.ids) for row in completions))


def nll_per_token(policy: Policy, completions: Sequence[Completion], temperature: float, bf16: bool) -> float:
    found = numbers_of(policy, completions, temperature, bf16)
    return -math.fsum(found.logps) / found.tokens


def gold_means(world: World, reader: Reader, prompts: Sequence[str], answers: Sequence[Response]) -> dict[str, float]:
    """Mean of each count over answers; one that was cut off is read as far as it goes."""
    counts = [world.gold(prompt, reader.text(answer)) for prompt, answer in zip(prompts, answers, strict=True)]
    return {name: fmean(float(count[name]) for count in counts) for name in counts[0]} | {
        "finished": fmean(answer.finished for answer in answers)
    }


def policy_measures(
    world: World,
    policy: Policy,
    reader: Reader,
    rows: Sequence[Example],
    *,
    seed: int,
    samples: int,
    temperature: float = 1.0,
    general: Sequence[Example] = (),
    near: Sequence[Example] = (),
) -> dict[str, float]:
    """All measures at a temperature. `nll` is per token of fresh demonstrations, `entropy` per response; in nats.

    Of `near` prompts the counts alone, under names of their own; of `general` data the likelihood at temperature 1.
    """
    demonstrations = reader.demonstrations(rows)
    drawn = draw(policy, reader, [row.prompt_ids for row in demonstrations], seed, temperature, samples)
    own = [
        Completion(row.prompt_ids, answer)
        for row, answers in zip(demonstrations, drawn, strict=True)
        for answer in answers
    ]
    found = gold_means(
        world, reader, [row["prompt"] for row in rows for _ in range(samples)], [row.response for row in own]
    )
    found |= {
        "nll": nll_per_token(policy, demonstrations, temperature, reader.bf16),
        "entropy": fmean(numbers_of(policy, own, temperature, reader.bf16).entropies),
        "temperature": temperature,
    }
    if near:
        asked = reader.demonstrations(near)
        answers = [one for (one,) in draw(policy, reader, [row.prompt_ids for row in asked], seed, temperature, 1)]
        counts = gold_means(world, reader, [row["prompt"] for row in near], answers)
        found |= {f"near_{name}": value for name, value in counts.items()}
    if general:
        found["general_nll"] = nll_per_token(policy, reader.demonstrations(general), 1.0, reader.bf16)
        found["kept"] = -found["general_nll"]
    return found
