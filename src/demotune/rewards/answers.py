"""Answers to prompts, outside of any run: `demotune sample`; with a reward the best of several responses."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from demotune.common.errors import DemotuneError
from demotune.common.files import write_rows
from demotune.common.machine import has_fast_bf16
from demotune.common.processes import this_device
from demotune.common.progress import say, track
from demotune.data.rendering import Renderer, RenderError
from demotune.models.policy import generation_stop_ids, load_policy, load_tokenizer, longest_input, resolve_model
from demotune.records import Message, Response
from demotune.rewards.completions import Asked, completions_for, rewards_of_readable
from demotune.rewards.reward import Reward
from demotune.runs.run import begun_template
from demotune.sampling import InProcessSampler, Sampler, SamplingOptions


@dataclass(frozen=True, slots=True)
class Answer:
    """A response as text; unfinished when it hit the length limit."""

    text: str
    finished: bool
    reward: float | None = None
    """By which it was chosen; None where no reward chose, or where the reward could not read it."""


@dataclass(frozen=True, slots=True)
class BestOf:
    """Draw `count` responses to each prompt and keep the one that the reward likes best, finished ones first."""

    count: int
    reward: Reward

    def choose(
        self, renderer: Renderer, asked: Sequence[Asked], drawn: Sequence[Response], batch_size: int
    ) -> list[Answer]:
        """The best answer to each prompt; `drawn` are the first response to each, then the second, and so on."""
        completions = completions_for(self.reward, renderer, [*asked] * self.count, drawn)
        rewards = rewards_of_readable(self.reward, completions, batch_size=batch_size, what="score")
        answers = [
            Answer(renderer.decode(response.ids), response.finished, reward)
            for response, reward in zip(drawn, rewards, strict=True)
        ]

        def merit(given: Answer) -> tuple[bool, float]:
            return given.finished, -math.inf if given.reward is None else given.reward

        return [max(answers[row :: len(asked)], key=merit) for row in range(len(asked))]


def answer(
    model: str,
    prompts: Sequence[Sequence[Message]],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    template: str | None = None,
    seed: int = 42,
    batch_size: int = 32,
    dtype: str = "float32",
    best_of: BestOf | None = None,
) -> list[Answer]:
    """One response per conversation, in order. Raises DemotuneError for a model or prompt that cannot be used.

    The first of several responses to a prompt is the one that is drawn without `best_of`, the first two of four are
    those of two, and so on: more responses never make the best one worse.
    """
    count = 1 if best_of is None else best_of.count
    if count > 1 and (temperature == 0 or top_k == 1):
        raise DemotuneError(
            f"best of {count} needs responses that differ, and greedy ones are all alike; "
            "give a --temperature above 0 and no --top-k 1"
        )
    folder = resolve_model(model)
    template = begun_template(folder) if template is None else template
    renderer = Renderer(load_tokenizer(folder), template, generation_stop_ids(folder))
    longest = longest_input(folder)
    rendered = [_render(renderer, number, prompt, longest) for number, prompt in enumerate(prompts, start=1)]
    for remark in renderer.remarks():
        say(remark)
    options = SamplingOptions(
        max_new_tokens=max_new_tokens,
        stop_ids=renderer.stop_ids,
        vocabulary=renderer.vocabulary,
        max_length=longest,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        bf16=has_fast_bf16(this_device()),
    )
    load = partial(load_policy, folder, dtype=dtype, attn_implementation=None, device=this_device())
    drawn = drawn_in_order(InProcessSampler(load, slots=batch_size), rendered * count, seed, options, what="sample")
    if best_of is None:
        return [Answer(renderer.decode(response.ids), response.finished) for response in drawn]
    asked = [Asked(prompt, ids) for prompt, ids in zip(prompts, rendered, strict=True)]
    return best_of.choose(renderer, asked, drawn, batch_size)


def show_answers(prompts: Sequence[Sequence[Message]], answers: Sequence[Answer], output: Path | None) -> None:
    """To the screen, or as JSONL (messages, finished; with a reward also its score) to `output`."""
    if output is not None:
        write_rows(output, (_row(prompt, given) for prompt, given in zip(prompts, answers, strict=True)))
        say(f"{len(answers)} responses written to {output}")
        return
    for prompt, given in zip(prompts, answers, strict=True):
        say(f"> {prompt[-1]['content']}", style="bold")
        say(given.text + ("" if given.finished else "  [cut off at --max-new-tokens]"))
        if given.reward is not None:
            say(f"[score {given.reward:.4g}]")
        say()


def _row(prompt: Sequence[Message], given: Answer) -> dict[str, object]:
    row = {
        "prompt": list(prompt),
        "completion": [{"role": "assistant", "content": given.text}],
        "finished": given.finished,
    }
    return row if given.reward is None else row | {"score": given.reward}


def _render(renderer: Renderer, number: int, prompt: Sequence[Message], longest: int | None) -> tuple[int, ...]:
    try:
        ids = renderer.prompt_ids(prompt)
    except RenderError as error:
        raise DemotuneError(f"prompt {number} cannot be rendered: {error}") from error
    if longest is not None and len(ids) >= longest:
        raise DemotuneError(
            f"prompt {number} has {len(ids)} tokens and the model has {longest} positions, answer included; shorten it"
        )
    return ids


def drawn_in_order(
    sampler: Sampler, prompts: Sequence[Sequence[int]], seed: int, options: SamplingOptions, *, what: str
) -> list[Response]:
    """One response for each prompt, in order, each from a random stream of its own; shows progress as `what`."""
    drawn: dict[int, Response] = {}
    with track(what, len(prompts), "responses") as tracker:
        for row, response in sampler.draw(prompts, range(len(prompts)), seed, options):
            drawn[row] = response
            tracker.advance()
    return [drawn[row] for row in range(len(prompts))]
