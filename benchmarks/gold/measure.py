"""Measures of a trained policy, and of the reward that it or its reward model implies, on prompts of one part."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from scipy.stats import rankdata
from task import LONGEST_ANSWER, Part, bad_response, draw_prompts, gold_reward, good_response
from transformers import PreTrainedTokenizerBase

from demotune.data.rendering import Renderer
from demotune.models.policy import Policy, load_policy, load_tokenizer
from demotune.models.reference_logps import completion_logps
from demotune.models.reward import load_reward_model, padding_id, read_facts, with_padding
from demotune.models.reward_head import completion_rewards
from demotune.records import Completion, Demonstration, RenderedDemonstration, Response
from demotune.sampling import SamplingOptions, sample_responses

BATCH = 256


@dataclass(frozen=True, slots=True)
class Questions:
    """Prompts of one part with a good and a bad response to each, as the models see them."""

    prompts: tuple[str, ...]
    good: tuple[RenderedDemonstration, ...]
    bad: tuple[RenderedDemonstration, ...]
    tokenizer: PreTrainedTokenizerBase
    renderer: Renderer

    @staticmethod
    def of(model: Path, part: Part, count: int) -> "Questions":
        """The same questions for every run, rendered by the start model's tokenizer."""
        tokenizer = load_tokenizer(model)
        renderer = Renderer(tokenizer)
        prompts, rng = draw_prompts(0, part, count), random.Random(f"bad {part}")
        sides = [
            tuple(renderer.render(Demonstration(({"role": "user", "content": p},), answer, part)) for p, answer in side)
            for side in (
                [(prompt, good_response(prompt)) for prompt in prompts],
                [(prompt, bad_response(prompt, rng)) for prompt in prompts],
            )
        ]
        return Questions(tuple(prompts), *sides, tokenizer, renderer)


def measure_policy(
    questions: Questions, model: Path, origin: Path, start: Path, *, samples: int
) -> dict[str, float | None]:
    """Gold reward and the rest, from `samples` answers a prompt at temperature 1 and one greedy answer.

    `origin` is the model that the method started from: KL and implicit reward (log pi/pi_origin) are taken to it; for
    a model that is its own origin they are None. `start` is the pre-trained model.
    """
    policy = _load(model)
    answers = [answer for number in range(samples) for answer in _answers(questions, policy, number, 1.0)]
    prompts = [prompt for _ in range(samples) for prompt in questions.prompts]
    greedy = _answers(questions, policy, 0, 0.0)
    golds = _golds(questions, prompts, answers)
    drawn = _as_rows([row.prompt_ids for _ in range(samples) for row in questions.good], answers)
    tokens = sum(len(row.demo.ids) for row in questions.good)
    own, good, bad = (_logps(policy, rows) for rows in (drawn, questions.good, questions.bad))
    found: dict[str, float | None] = {
        "gold": fmean(golds),
        "exact": fmean(gold == 1 for gold in golds),
        "greedy_exact": fmean(gold == 1 for gold in _golds(questions, questions.prompts, greedy)),
        "finished": fmean(answer.finished for answer in answers),
        "nll_good": -sum(good) / tokens,
        "kl_start": _mean_difference(own, _logps(_load(start), drawn)),
        "kl_origin": None,
    }
    if origin == model:
        return found
    before = _load(origin)
    rewards = [
        [now - then for now, then in zip(logps, _logps(before, rows), strict=True)]
        for logps, rows in ((good, questions.good), (bad, questions.bad))
    ]
    return found | {"kl_origin": _mean_difference(own, _logps(before, drawn))} | judge_reward(*rewards)


def measure_reward(questions: Questions, folder: Path) -> dict[str, float | None]:
    """How well RFT's reward model tells good from bad."""
    pad_id = padding_id(questions.tokenizer, questions.renderer.stop_ids)
    reward = with_padding(
        load_reward_model(folder, dtype="float32", attn_implementation=None, device=torch.device("cpu")), pad_id
    )
    scores = [
        completion_rewards(
            reward,
            [Completion(row.prompt_ids, row.demo) for row in rows],
            pad_id=pad_id,
            bound=read_facts(folder).bound,
            batch_size=BATCH,
            bf16=False,
        )
        for rows in (questions.good, questions.bad)
    ]
    return judge_reward(*scores)


def judge_reward(good: Sequence[float], bad: Sequence[float]) -> dict[str, float | None]:
    """`reward_accuracy`: good above bad for the same prompt; `reward_auc`: over all prompts. A tie is half right."""
    wins = fmean((one > other) + 0.5 * (one == other) for one, other in zip(good, bad, strict=True))
    ranks = rankdata([*good, *bad])[: len(good)]
    auc = (ranks.sum() - len(good) * (len(good) + 1) / 2) / (len(good) * len(bad))
    return {"reward_accuracy": wins, "reward_auc": float(auc)}


def response_text(questions: Questions, answer: Response) -> str:
    return questions.renderer.decode(answer.ids)


def _load(folder: Path) -> Policy:
    return load_policy(folder, dtype="float32", attn_implementation=None, device=torch.device("cpu"))


def _answers(questions: Questions, policy: Policy, number: int, temperature: float) -> list[Response]:
    """One answer to each prompt; every policy gets the same random numbers."""
    options = SamplingOptions(LONGEST_ANSWER, questions.renderer.stop_ids, temperature=temperature)
    ids = [row.prompt_ids for row in questions.good]
    drawn = dict(sample_responses(policy, ids, range(len(ids)), number, options, slots=BATCH))
    return [drawn[row] for row in range(len(ids))]


def _golds(questions: Questions, prompts: Sequence[str], answers: Sequence[Response]) -> list[float]:
    """The gold rewards; an answer that does not end by itself earns nothing."""
    return [
        gold_reward(prompt, response_text(questions, answer)) if answer.finished else 0.0
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def _as_rows(prompts: Sequence[tuple[int, ...]], answers: Sequence[Response]) -> list[RenderedDemonstration]:
    return [RenderedDemonstration(*both, key="") for both in zip(prompts, answers, strict=True)]


def _logps(policy: Policy, rows: Sequence[RenderedDemonstration]) -> list[float]:
    completions = [Completion(row.prompt_ids, row.demo) for row in rows]
    return completion_logps(policy, completions, batch_size=BATCH, bf16=False)


def _mean_difference(one: Sequence[float], other: Sequence[float]) -> float:
    """Mean of log pi - log pi_ref over samples of pi: the KL, in nats per response."""
    return math.fsum(a - b for a, b in zip(one, other, strict=True)) / len(one)
