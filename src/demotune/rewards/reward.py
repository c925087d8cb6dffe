"""Rewards as one thing, explicit or implicit: by name from a run, a folder or the hub; completions in, numbers out.

A reward compares responses to one prompt. Its zero and its scale mean nothing, and across prompts it is a guess.
"""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch

from demotune.common.errors import DemotuneError
from demotune.common.machine import has_fast_bf16
from demotune.common.processes import this_device
from demotune.data.rendering import Renderer, RenderError
from demotune.models.batches import Advance
from demotune.models.files import is_adapter
from demotune.models.policy import (
    content_hash,
    generation_stop_ids,
    load_policy,
    load_tokenizer,
    longest_input,
    resolve_model,
)
from demotune.models.reference_logps import completion_logps
from demotune.models.reward import (
    RewardModel,
    check_labels,
    is_reward_model,
    load_reward_model,
    padding_id,
    read_facts,
    with_padding,
)
from demotune.models.reward_head import completion_rewards
from demotune.records import NO_CONTEXT, Completion, Context, Demonstration, Message, Response
from demotune.runs.folder import RunFolder
from demotune.runs.manifest import read_manifest


class Reward(Protocol):
    """Judges responses to prompts."""

    @property
    def name(self) -> str:
        """For people: what this is and where it lies."""

    @property
    def hash(self) -> str:
        """Of the content of everything that decides what it gives."""

    @property
    def renderer(self) -> Renderer:
        """Writes conversations as the token ids that this reward reads."""

    @property
    def longest(self) -> int | None:
        """Most tokens of prompt and response that it can read; None where there is no limit."""

    @property
    def passes(self) -> int:
        """Forward passes over each completion: `score` advances by one for each."""

    def score(
        self, completions: Sequence[Completion], *, batch_size: int = 16, advance: Advance = lambda _: None
    ) -> list[float]:
        """One number for each completion, higher is better. Raises DemotuneError where one is not finite."""


class ScalarReward:
    """An explicit reward: a model of one number, read at the last token; R * sigmoid of it where the reward is bounded.

    `source` is a folder or hub id of a transformers sequence classifier with one label. Prompts are written by its own
    tokenizer, with `template` or the one that lies beside the model, else the chat template. The model is loaded when
    it first scores, and kept. Raises DemotuneError for a model with several labels or none.
    """

    passes = 1

    def __init__(
        self, source: str | Path, *, template: str | None = None, dtype: str = "float32", bf16: bool | None = None
    ) -> None:
        self._folder = resolve_model(str(source))
        _check_classifier(str(source), self._folder)
        self._facts = read_facts(self._folder)
        self._dtype, self._bf16 = dtype, _precision(bf16)
        self._tokenizer = load_tokenizer(self._folder)
        self._model: RewardModel | None = None
        self.name = f"reward model {source}"
        self.hash = content_hash(self._folder)
        self.renderer = Renderer(self._tokenizer, self._facts.template if template is None else template)
        self.longest = longest_input(self._folder)

    def score(
        self, completions: Sequence[Completion], *, batch_size: int = 16, advance: Advance = lambda _: None
    ) -> list[float]:
        """The reward of each completion, as plain transformers computes it."""
        if self._model is None:
            self._model = self._load()
        scores = completion_rewards(
            self._model,
            completions,
            pad_id=self._model.config.get_text_config().pad_token_id,
            bound=self._facts.bound,
            batch_size=batch_size,
            bf16=self._bf16,
            advance=advance,
        )
        return _finite(scores, self.name)

    def _load(self) -> RewardModel:
        model = load_reward_model(self._folder, dtype=self._dtype, attn_implementation=None, device=this_device())
        if model.config.get_text_config().pad_token_id is not None:
            return model  # what it was trained with decides at which token it judges
        return with_padding(model, padding_id(self._tokenizer, self.renderer.stop_ids))


class ImplicitReward:
    """beta * (log pi(y|x) - log pi_ref(y|x)), summed over response tokens: the reward of SPIN and IRFT, in beta * nats.

    `policy` and `reference` are models of one tokenizer, the policy's: folders, hub ids or GGUF files. They are loaded
    one after the other in each call of `score`, so that one is in memory at a time: score many completions at once.
    """

    passes = 2

    def __init__(
        self,
        policy: str | Path,
        reference: str | Path,
        beta: float,
        *,
        template: str | None = None,
        dtype: str = "float32",
        bf16: bool | None = None,
    ) -> None:
        if not (math.isfinite(beta) and beta > 0):
            raise DemotuneError(f"beta must be > 0, got {beta}; give the beta that the policy was trained with")
        self._policy, self._reference = resolve_model(str(policy)), resolve_model(str(reference))
        tokenizer = load_tokenizer(self._policy)
        if load_tokenizer(self._reference).get_vocab() != tokenizer.get_vocab():
            raise DemotuneError(
                f"{reference} has another vocabulary than {policy}, so their log-probabilities cannot be compared; "
                "give the model that the policy was trained from as reference"
            )
        self._beta, self._dtype, self._bf16 = beta, dtype, _precision(bf16)
        self.name = f"implicit reward {beta:g} * log({policy} / {reference})"
        both = content_hash(self._policy), content_hash(self._reference)
        self.hash = hashlib.sha256(f"{beta} {both}".encode()).hexdigest()
        self.renderer = Renderer(tokenizer, template, generation_stop_ids(self._policy))
        self.longest = longest_input(self._policy)

    def score(
        self, completions: Sequence[Completion], *, batch_size: int = 16, advance: Advance = lambda _: None
    ) -> list[float]:
        """beta times the log-ratio of each completion."""
        logps, ref_logps = (
            completion_logps(self._load(folder), completions, batch_size=batch_size, bf16=self._bf16, advance=advance)
            for folder in (self._policy, self._reference)
        )
        rewards = [self._beta * (logp - ref_logp) for logp, ref_logp in zip(logps, ref_logps, strict=True)]
        return _finite(rewards, self.name)

    def _load(self, folder: Path) -> torch.nn.Module:
        return load_policy(folder, dtype=self._dtype, attn_implementation=None, device=this_device())


def load_reward(
    source: str | Path, *, template: str | None = None, dtype: str = "float32", bf16: bool | None = None
) -> Reward:
    """The reward at `source`: a finished run of rft (explicit), of irft or spin (implicit), or a reward model.

    A reward model is a folder or hub id of a sequence classifier with one label, an RFT run's reward/ among them.
    template: prompt template with {prompt} instead of the reward's own; dtype: type in which weights are held; bf16:
    compute in bfloat16 autocast, when None where the hardware has it.

    Raises DemotuneError for an unfinished run, an SFT run (it learns no reward), and anything else that is no reward.
    """
    run = RunFolder(Path(source))
    if not run.holds_run:
        return ScalarReward(source, template=template, dtype=dtype, bf16=bf16)
    if not run.finished:
        raise DemotuneError(f"{source} is an unfinished run; finish it with: demotune resume {source}")
    config = run.read_config()
    if config.reward_kind == "none":
        raise DemotuneError(
            f"{source} is an SFT run, which learns no reward; give a run of rft, irft or spin, or a reward model"
        )
    if config.reward_kind == "explicit":
        return ScalarReward(run.reward, template=template, dtype=dtype, bf16=bf16)
    _check_reference(run, config.model)
    template = config.template if template is None else template
    return ImplicitReward(run.model, config.model, config.beta, template=template, dtype=dtype, bf16=bf16)


def as_completion(
    reward: Reward,
    prompt: Sequence[Message],
    response: str,
    *,
    reasoning: str = "",
    context: Context = NO_CONTEXT,
    finished: bool = True,
    max_length: int | None = None,
) -> Completion:
    """Prompt and response as the reward reads them; a response that is not finished gets no end-of-turn token.

    Raises RenderError where they cannot be rendered, or have more tokens than max_length or the reward can read.
    """
    row = reward.renderer.render(Demonstration(tuple(prompt), response, "", reasoning, context))
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


def _precision(bf16: bool | None) -> bool:
    return has_fast_bf16(this_device()) if bf16 is None else bf16


def _check_classifier(source: str, folder: Path) -> None:
    """Refuse what has no number for each response, and say what to give instead."""
    if not is_reward_model(folder):
        run = RunFolder(Path(source).resolve().parent)
        of_run = run.config.exists() and run.model == Path(source).resolve()
        what = f"the run folder, {Path(source).parent}," if of_run else "the run folder of an irft or spin run"
        raise DemotuneError(
            f"{source} is no sequence classifier, so it gives no reward by itself; give {what} for its implicit "
            "reward, or a reward model with one label"
        )
    if not is_adapter(folder):
        check_labels(folder)


def _check_reference(run: RunFolder, reference: str) -> None:
    """The start model must be the one that the run began with: a folder may have been moved or written anew."""
    begun = read_manifest(run.manifest).model
    try:
        found = content_hash(resolve_model(reference))
    except DemotuneError as error:
        raise DemotuneError(
            f"the reward of {run.root} needs the run's start model, {reference}, and there: {error}"
        ) from error
    if found != begun:
        raise DemotuneError(
            f"the start model of {run.root}, {reference}, is not what it was when the run began, so the run's reward "
            "cannot be computed; put the old files back"
        )


def _finite(scores: list[float], name: str) -> list[float]:
    wrong = sum(not math.isfinite(score) for score in scores)
    if wrong:
        raise DemotuneError(
            f"{name} is not finite on {wrong} of {len(scores)} responses: its weights are damaged, or its numbers are "
            "too large for this precision; give --dtype float32"
        )
    return scores
