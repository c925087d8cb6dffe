"""What a reward is: completions in, numbers out.

A reward compares responses to one prompt. Its zero and its scale mean nothing, and across prompts it is a guess.
"""

import math
from collections.abc import Sequence
from typing import Protocol

from demotune.common.errors import DemotuneError
from demotune.data import checked_prompt
from demotune.data.rendering import Renderer, RenderError
from demotune.models.batches import Advance
from demotune.records import Completion, Demonstration, Message, Response


class Reward(Protocol):
    """Judges responses to prompts. A subclass gives the five attributes and `rewards_of`, and gets `score_texts`."""

    name: str
    """What this is and where it is, to show."""
    hash: str
    """Of the content of everything that decides the rewards."""
    renderer: Renderer
    """Writes conversations as the token ids that this reward reads."""
    longest: int | None
    """Most tokens of prompt and response that it can read; None where there is no limit."""
    passes: int
    """Forward passes over each completion: `rewards_of` advances by one for each."""
    ranks_only: bool = False
    """Whether it may rank responses, but no policy may be trained on it."""

    def rewards_of(
        self, completions: Sequence[Completion], *, batch_size: int = 16, advance: Advance = lambda _: None
    ) -> list[float]:
        """One number for each completion, higher is better. Raises DemotuneError where one is not finite."""

    def without_thought(self, completion: Completion) -> Completion:
        """What of the response is judged: with `answer_after` the answer in it, else all."""
        return completion

    def score_texts(
        self, prompts: Sequence[str | Sequence[Message]], responses: Sequence[str], *, batch_size: int = 16
    ) -> list[float]:
        """One number for each response to the prompt at the same place, higher is better.

        A prompt is a text (one user turn) or a list of messages that ends with the user's turn. Each response counts
        as finished: it gets the end-of-turn token. Raises DemotuneError that names the row of a text that cannot be
        read.
        """
        for name, texts in (("prompts", prompts), ("responses", responses)):
            if isinstance(texts, str):
                raise DemotuneError(f"{name} is one text, expected a list; give {name}=[text]")
        if len(prompts) != len(responses):
            raise DemotuneError(
                f"there are {len(prompts)} prompts and {len(responses)} responses; give one prompt for each response"
            )
        completions = [_read(self, row, *both) for row, both in enumerate(zip(prompts, responses, strict=True))]
        return self.rewards_of(completions, batch_size=batch_size) if completions else []


def as_completion(
    reward: Reward, text: Demonstration, *, finished: bool = True, max_length: int | None = None
) -> Completion:
    """Prompt and response as the reward reads them; a response that is not finished gets no end-of-turn token.

    Raises RenderError where they cannot be rendered, or have more tokens than max_length or the reward can read.
    """
    row = reward.renderer.render(text)
    judged = row.demo if finished else Response(row.demo.ids[:-1], finished=False)
    if not judged.ids:
        raise RenderError("empty response", "nothing was written")
    return checked_length(reward, Completion(row.prompt_ids, judged), max_length)


def checked_length(reward: Reward, completion: Completion, max_length: int | None = None) -> Completion:
    """The completion itself. Raises RenderError where it has more tokens than max_length or the reward can read."""
    prompt, response = len(completion.prompt_ids), len(completion.response.ids)
    for what, limit in (("max_length is", max_length), ("the reward can read", reward.longest)):
        if limit is not None and prompt + response > limit:
            raise RenderError("over-long", f"{prompt} prompt + {response} response tokens, {what} {limit}")
    return completion


def all_finite(rewards: list[float], name: str) -> list[float]:
    """The rewards themselves. Raises DemotuneError where one is not a finite number."""
    wrong = sum(not math.isfinite(reward) for reward in rewards)
    if wrong:
        raise DemotuneError(
            f"{name} is not finite on {wrong} of {len(rewards)} responses: its weights are damaged, or its numbers are "
            "too large for this precision; give --dtype float32"
        )
    return rewards


def _read(reward: Reward, row: int, prompt: object, response: object) -> Completion:
    if not isinstance(response, str):
        raise DemotuneError(f"responses[{row}] is of type {type(response).__name__}, expected text; give its text")
    try:
        return as_completion(reward, Demonstration(checked_prompt(prompt, f"prompts[{row}]"), response, ""))
    except RenderError as refusal:
        raise DemotuneError(f"row {row} (prompts[{row}], responses[{row}]) cannot be read: {refusal}") from refusal
