"""An explicit reward: a model of one number, RFT's own or any sequence classifier with one label."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from torch import nn

from demotune.common.errors import DemotuneError
from demotune.common.machine import computes_in_bf16
from demotune.common.processes import this_device
from demotune.config.rft import FeatureName
from demotune.data.rendering import Renderer
from demotune.models.batches import Advance
from demotune.models.model_folder import is_adapter
from demotune.models.policy import content_hash, longest_input, resolve_model
from demotune.models.reward import (
    RewardModel,
    check_labels,
    is_reward_model,
    load_reward_model,
    padding_id,
    with_padding,
)
from demotune.models.reward_facts import RewardFacts, read_facts
from demotune.models.reward_head import completion_rewards
from demotune.models.states import followed_by
from demotune.models.tokenizers import load_tokenizer
from demotune.records import Completion
from demotune.rewards import answer_only
from demotune.rewards.answer_only import find_marker
from demotune.rewards.features import FEATURES, feature_table
from demotune.rewards.reward import Reward, all_finite
from demotune.runs.folder import RunFolder


class ScalarReward(Reward):
    """An explicit reward: a model of one number, read at the last token; R * sigmoid of it where the reward is bounded.

    `source` is a folder or hub id of a transformers sequence classifier with one label. Prompts are written by its own
    tokenizer, with `template` or the one beside the model, else the chat template. The model is loaded when
    it is first asked, and kept. Raises DemotuneError for a model with several labels or none.
    """

    passes = 1

    def __init__(
        self, source: str | Path, *, template: str | None = None, dtype: str = "float32", bf16: bool | None = None
    ) -> None:
        self._folder = resolve_model(str(source))
        _check_classifier(str(source), self._folder)
        self._facts = _known_facts(self._folder)
        self._dtype = dtype
        self._bf16 = computes_in_bf16(bf16)
        self._tokenizer = load_tokenizer(self._folder)
        self._model: RewardModel | None = None
        self.name = f"reward model {source}"
        self.hash = content_hash(self._folder)
        self.renderer = Renderer(self._tokenizer, self._facts.template if template is None else template)
        self.longest = longest_input(self._folder)
        if self.longest is not None and self._facts.question is not None:
            self.longest -= len(self._facts.question.ids)
        self._marker = find_marker(self._tokenizer, self._facts.answer_after, self.renderer.end_id)

    def without_thought(self, completion: Completion) -> Completion:
        return answer_only.without_thought(completion, self._marker)

    def rewards_of(
        self, completions: Sequence[Completion], *, batch_size: int = 16, advance: Advance = lambda _: None
    ) -> list[float]:
        """The reward of each completion, as plain transformers computes it."""
        if self._model is None:
            self._model = self._load()
        rewards = rewards_by_model(
            self._model,
            self._facts,
            [self.without_thought(row) for row in completions],
            pad_id=self._model.config.get_text_config().pad_token_id,
            batch_size=batch_size,
            bf16=self._bf16,
            advance=advance,
        )
        return all_finite(rewards, self.name)

    @property
    def feature_weights(self) -> Mapping[str, float]:
        """Of each named feature that a linear reward sees besides, per unit of it; empty for any other reward."""
        return self._facts.features

    def _load(self) -> RewardModel:
        model = load_reward_model(self._folder, dtype=self._dtype, attn_implementation=None, device=this_device())
        if model.config.get_text_config().pad_token_id is not None:
            return model  # what it was trained with decides at which token it judges
        return with_padding(model, padding_id(self._tokenizer, self.renderer.stop_ids))


def rewards_by_model(
    model: nn.Module,
    facts: RewardFacts,
    completions: Sequence[Completion],
    *,
    pad_id: int,
    batch_size: int,
    bf16: bool,
    advance: Advance = lambda _: None,
) -> list[float]:
    """What the model gives to each completion, followed by the question where there is one, and its named features."""
    asked = completions if facts.question is None else followed_by(completions, facts.question.ids)
    heads = completion_rewards(
        model, asked, pad_id=pad_id, bound=facts.bound, batch_size=batch_size, bf16=bf16, advance=advance
    )
    if not facts.features:
        return heads
    weights = cast(Mapping[FeatureName, float], facts.features)
    table = feature_table(completions, [*weights])
    return [
        head + sum(weight * number for weight, number in zip(weights.values(), numbers, strict=True))
        for head, numbers in zip(heads, table, strict=True)
    ]


def _known_facts(folder: Path) -> RewardFacts:
    """Raises DemotuneError for a feature that this version does not count."""
    facts = read_facts(folder)
    if unknown := facts.features.keys() - FEATURES.keys():
        raise DemotuneError(
            f"the reward in {folder} reads {', '.join(sorted(unknown))}, and known are {', '.join(FEATURES)}; use the "
            "version of demotune that made it"
        )
    return facts


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
