"""Best of n in studies: responses of one policy to a part's prompts, and rewards that choose among them."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.studies.frame import Bench
from benchmarks.studies.measuring import Reader, draw, gold_means, load, numbers_of
from benchmarks.studies.training import BATCH, Trained, run_method
from benchmarks.studies.world import DEMONSTRATIONS, HELDOUT, PROMPTS, read_examples, write_examples
from demotune.common.files import publish_file
from demotune.config.methods import SFTConfig
from demotune.models.reference_logps import completion_logps
from demotune.models.reward import padding_id
from demotune.models.tokenizers import load_tokenizer
from demotune.records import Completion, Pair, Response
from demotune.rewards.implicit import ImplicitReward
from demotune.rewards.linear import Columns, LinearReward, fit_linear_reward, pair_columns
from demotune.rewards.scalar import ScalarReward

SCORED_TOGETHER = 256

Score = Callable[[Bench, Trained, Sequence[Completion]], Sequence[float]]
"""A reward of responses of an SFT model, higher is better."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """The responses to each prompt of a part."""

    prompts: list[str]
    answers: list[list[Response]]
    completions: list[Completion]
    """Of all answers, prompt by prompt."""
    surprisals: list[float]
    """-log pi of each completion at the temperature that it was drawn at, in nats."""


def drawn(bench: Bench, policy: Trained, temperature: float) -> Drawn:
    """The same for every n and every reward."""

    def make() -> Drawn:
        reader, model = Reader.of(bench.world, bench.start), load(policy.model)
        rows = bench.world.questions(bench.part)
        prompts = [row.prompt_ids for row in reader.demonstrations(rows)]
        answers = draw(model, reader, prompts, bench.seed, temperature, bench.most)
        completions = [Completion(prompt, one) for prompt, each in zip(prompts, answers, strict=True) for one in each]
        surprisals = [-logp for logp in numbers_of(model, completions, temperature, reader.bf16).logps]
        return Drawn([row["prompt"] for row in rows], answers, completions, surprisals)

    found: Drawn = bench.remember(("drawn", policy.model, temperature), make)
    return found


def best_of_measures(  # noqa: PLR0917
    bench: Bench, policy: Trained, temperature: float, n: int, name: str, score: Score
) -> dict[str, float]:
    """What the best of the first n of a prompt's responses is worth; the first of equal ones wins.

    Entropy is the mean surprisal of the chosen less log n - (n - 1) / n, the KL of best of n to the policy where no two
    responses are equally good. The likelihood of a demonstration under best of n is not known.
    """
    found = drawn(bench, policy, temperature)
    rewards: Sequence[float] = bench.remember(
        ("rewards", policy.model, temperature, name), lambda: score(bench, policy, found.completions)
    )
    table = np.array(rewards).reshape(len(found.answers), bench.most)
    best = table[:, :n].argmax(axis=1)
    chosen = [answers[place] for answers, place in zip(found.answers, best, strict=True)]
    surprisals = np.array(found.surprisals).reshape(table.shape)[np.arange(len(best)), best]
    return gold_means(bench.world, Reader.of(bench.world, bench.start), found.prompts, chosen) | {
        "entropy": float(surprisals.mean()) - (math.log(n) - (n - 1) / n),
        "temperature": temperature,
    }


def by_likelihood(bench: Bench, policy: Trained, completions: Sequence[Completion]) -> list[float]:
    """log pi of the policy itself, per token: of whole responses the shortest would win."""
    reader = Reader.of(bench.world, bench.start)
    logps = completion_logps(load(policy.model), completions, batch_size=SCORED_TOGETHER, bf16=reader.bf16)
    return [logp / len(row.response.ids) for logp, row in zip(logps, completions, strict=True)]


def by_log_ratio(bench: Bench, policy: Trained, completions: Sequence[Completion]) -> list[float]:
    """log pi_SFT / pi_start: what SFT has changed."""
    reward = ImplicitReward(policy.model, bench.start, 1.0, bf16=bench.world.bf16)
    return reward.rewards_of(completions, batch_size=SCORED_TOGETHER)


def by_chance(bench: Bench, policy: Trained, completions: Sequence[Completion]) -> list[float]:
    """Random numbers: what n alone is worth."""
    rewards: list[float] = np.random.default_rng([bench.seed, 11]).random(len(completions)).tolist()
    return rewards


def by_gold(bench: Bench, policy: Trained, completions: Sequence[Completion]) -> list[float]:
    """The program's own count, the most that a reward could do: headroom, no method."""
    reader, rows = Reader.of(bench.world, bench.start), bench.world.questions(bench.part)
    prompts = {one.prompt_ids: row["prompt"] for one, row in zip(reader.demonstrations(rows), rows, strict=True)}
    return [bench.world.gold(prompts[row.prompt_ids], reader.text(row.response))["goal"] for row in completions]


def by_reward_model(folder: Path) -> Score:
    def score(bench: Bench, policy: Trained, completions: Sequence[Completion]) -> list[float]:
        reward = ScalarReward(folder, bf16=bench.world.bf16)
        return reward.rewards_of(completions, batch_size=SCORED_TOGETHER)

    return score


def by_linear(backbone: str = "start", contrast: str = "sft", samples: int = 8) -> Score:
    """Logistic regression on hidden states of the start or the SFT model.

    Demonstrations against samples of the SFT model ("sft"), of the start model ("start"), or of both ("both").
    """

    def score(bench: Bench, policy: Trained, completions: Sequence[Completion]) -> list[float]:
        folder = bench.start if backbone == "start" else policy.model
        model, reader = load(folder), Reader.of(bench.world, bench.start)
        pad_id = _pad_id(reader, bench)
        reward = fit(bench, policy, model, contrast, samples)
        columns = reward.columns.of(model, completions, pad_id=pad_id, bf16=reader.bf16)
        return reward.score(columns).tolist()  # type: ignore[no-any-return]

    return score


def distil(bench: Bench, start: Trained, name: str, score: Score, *, n: int, rate: float, passes: int) -> Trained:
    """SFT of `start` on the best of n responses to each prompt without demonstrations; drawing counts as seconds."""
    chosen = bench.folder / f"best-of-{n}-{name}.jsonl"
    if not chosen.exists():
        begun, reader = time.process_time(), Reader.of(bench.world, bench.start)
        prompts = (bench.folder / PROMPTS).read_text("utf-8").splitlines()
        ids = [reader.renderer.prompt_ids(({"role": "user", "content": prompt},)) for prompt in prompts]
        drawn = draw(load(start.model), reader, ids, bench.seed, 1.0, n)
        rewards = score(
            bench, start, [Completion(one, each) for one, all_ in zip(ids, drawn, strict=True) for each in all_]
        )
        best = np.array(rewards).reshape(len(prompts), n).argmax(axis=1)
        rows = [
            {"prompt": prompt, "completion": reader.text(answers[place])}
            for prompt, answers, place in zip(prompts, drawn, best, strict=True)
            if reader.text(answers[place])
        ]
        seconds = time.process_time() - begun
        chosen.with_suffix(".seconds").write_text(str(seconds), encoding="utf-8")
        with publish_file(chosen) as unfinished:
            write_examples(unfinished, rows)
    spent = float(chosen.with_suffix(".seconds").read_text("utf-8"))
    fields = {
        "model": str(start.model),
        "data": (str(chosen),),
        "learning_rate": rate,
        "num_train_epochs": passes,
        "per_device_train_batch_size": 4 * BATCH,
    }
    one = run_method(bench, f"distilled-{n}-{name}-{rate:g}-{passes}", SFTConfig, fields, {})["end"]
    return Trained(one.model, start.seconds + spent + one.seconds, one.config)


def fit(bench: Bench, policy: Trained, backbone: Any, contrast: str, samples: int) -> LinearReward:
    """The linear reward of a seed's demonstrations; those held out take part, for nothing else is chosen with it."""
    reader = Reader.of(bench.world, bench.start)
    rows = reader.demonstrations(
        [row for name in (DEMONSTRATIONS, HELDOUT) for row in read_examples(bench.folder / name)]
    )
    writers = {"sft": [policy.model], "start": [bench.start], "both": [policy.model, bench.start]}[contrast]
    pairs = [
        Pair(str(number), row.prompt_ids, row.response, sample)
        for writer in writers
        for number, (row, drawn_) in enumerate(
            zip(
                rows,
                draw(load(writer), reader, [row.prompt_ids for row in rows], bench.seed, 1.0, samples),
                strict=True,
            )
        )
        for sample in drawn_
    ]
    columns = Columns()
    table = pair_columns(backbone, pairs, columns, pad_id=_pad_id(reader, bench), bf16=reader.bf16)
    return fit_linear_reward(table, None, columns)


def _pad_id(reader: Reader, bench: Bench) -> int:
    return padding_id(load_tokenizer(bench.start), reader.renderer.stop_ids)
