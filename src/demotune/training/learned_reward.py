"""A stage's explicit reward as a model: what it starts from, how it is loaded, and the function that it is."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import cast

from peft import PeftModel

from demotune.common.errors import DemotuneError
from demotune.config.methods import RFTConfig
from demotune.models.model_folder import is_adapter
from demotune.models.policy import merged, weight_sharing_base
from demotune.models.reward import (
    RewardModel,
    is_reward_model,
    padding_id,
    resolve_reward,
    reward_from_policy,
    saved_head_on,
    with_adapter,
    with_padding,
)
from demotune.models.reward_facts import RewardFacts, read_facts
from demotune.models.tokenizers import load_tokenizer
from demotune.records import Completion
from demotune.rewards.answer_only import AnswerMarker, answers_of
from demotune.rewards.scalar import rewards_by_model
from demotune.runs.file_names import CO_TRAINED_REWARD, REWARD
from demotune.training.setup import Setup
from demotune.training.stage import Stage, with_reward

RewardFunction = Callable[[Sequence[Completion]], list[float]]


def reward_function(stage: Stage) -> RewardFunction:
    """The reward that the stage's reward phase published, loaded; an adapter shares the base of the stage's policy."""
    return scorer(stage, load_reward(stage, stage.number), read_facts(stage.folder / REWARD))


def of_drawn(reward_of: RewardFunction, marker: AnswerMarker | None) -> RewardFunction:
    """The reward of responses as they were drawn: with `answer_after` of the answers in them."""
    return lambda completions: reward_of(answers_of(completions, marker))


def scorer(stage: Stage, reward: RewardModel, facts: RewardFacts) -> RewardFunction:
    """The rewards that a model gives, in batches of the run's size."""
    return partial(
        rewards_by_model,
        reward,
        facts,
        pad_id=reward_padding(stage.setup),
        batch_size=2 * stage.setup.config.per_device_train_batch_size,
        bf16=stage.setup.bf16,
    )


def full_facts(config: RFTConfig) -> RewardFacts:
    """Those of a reward that is trained by gradient steps."""
    return RewardFacts(
        link=config.reward_link, bound=config.reward_bound, template=config.template, answer_after=config.answer_after
    )


def reward_padding(setup: Setup) -> int:
    """The token id that this run's reward is padded with."""
    return padding_id(setup.tokenizer, setup.renderer.stop_ids)


def load_reward(stage: Stage, number: int, name: str = REWARD) -> RewardModel:
    """The reward of stage `number`, as a model. One that started from the policy shares its base with LoRA."""
    setup, folder = stage.setup, stage.setup.folder.stage(number) / name
    if on_base_of_policy(setup) and with_reward(setup).reward_kind == "linear":
        return saved_head_on(weight_sharing_base(cast(PeftModel, stage.start_policy)), folder, reward_padding(setup))
    shares = setup.adapter is not None and with_reward(setup).reward_model is None and is_adapter(folder)
    share = stage.start_policy if shares else None
    return with_padding(setup.load_reward(folder, share), reward_padding(setup))


def on_base_of_policy(setup: Setup) -> bool:
    """Whether the start model, on which a linear reward stands, is the base of the run's adapters."""
    return setup.adapter is not None and with_reward(setup).reward_model is None and not is_adapter(setup.start_model)


def start_reward(stage: Stage) -> RewardModel:
    """The previous stage's reward, with co-training as its policy steps left it.

    In stage 0 the policy under a head of zeros, or the model that the user names.
    """
    setup, config = stage.setup, with_reward(stage.setup)
    if stage.number:
        learned_on = (setup.folder.stage(stage.number - 1) / CO_TRAINED_REWARD).is_dir()
        return load_reward(stage, stage.number - 1, CO_TRAINED_REWARD if learned_on else REWARD)
    if config.reward_model is None:
        reward = reward_from_policy(stage.start_policy, reward_padding(setup))
        if setup.adapter is None:
            stage.free_policy()  # its weights are the reward's now
        return reward
    folder = named_model(setup, config.reward_model)
    if is_reward_model(folder):
        reward = setup.load_reward(folder, None)
    else:
        reward = reward_from_policy(merged(setup.load_policy_unmerged(folder)), reward_padding(setup))
    if setup.adapter is not None:
        reward = with_adapter(reward, setup.adapter, stage.seed("reward-adapter"))
    return with_padding(reward, reward_padding(setup))


def named_model(setup: Setup, source: str) -> Path:
    """The folder of the model that the user names. Raises DemotuneError where it cannot read the policy's tokens."""
    folder = resolve_reward(source)
    if load_tokenizer(folder).get_vocab() != setup.tokenizer.get_vocab():
        raise DemotuneError(
            f"reward_model {source} has another vocabulary than {setup.config.model}: it cannot read the policy's "
            "tokens. Leave --reward-model out, or rank data with it by demotune select"
        )
    return folder
