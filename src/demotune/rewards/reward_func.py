"""A reward as TRL's GRPOTrainer calls one."""

from collections.abc import Callable, Sequence
from typing import Any

from demotune.common.errors import DemotuneError
from demotune.data.rendering.thoughts import with_thought
from demotune.records import Message
from demotune.rewards.reward import Reward

RewardFunc = Callable[..., list[float]]


def as_reward_func(reward: Reward, *, batch_size: int = 16) -> RewardFunc:
    """A function for `reward_funcs` of TRL's GRPOTrainer: what `reward.score_texts` gives, in either format of TRL.

    Its `__name__`, under which TRL logs it, is the class of the reward; set another where two are of one class. Raises
    DemotuneError for the log-ratio of an SFT run, which ranks responses but is no target for reinforcement learning.
    """
    if reward.ranks_only:
        raise DemotuneError(
            f"{reward.name} is the log-ratio of an SFT run: it ranks responses, but a policy that is trained on it "
            "collapses to what SFT made likelier; give a reward that rft or irft learned (use this one to score, to "
            "select, or for the best of several samples)"
        )

    def reward_func(
        prompts: Sequence[str | Sequence[Message]],
        completions: Sequence[str | Sequence[Message]],
        completion_ids: Sequence[Sequence[int]] | None = None,
        **kwargs: Any,
    ) -> list[float]:
        """One reward for each completion. Token ids and other columns of the data set are not looked at."""
        texts = [_text(completion, row) for row, completion in enumerate(completions)]
        return reward.score_texts(prompts, texts, batch_size=batch_size)

    reward_func.__name__ = type(reward).__name__
    return reward_func


def _text(completion: str | Sequence[Message], row: int) -> str:
    """The text of a completion; its reasoning, where the message has some, comes first."""
    if isinstance(completion, str):
        return completion
    if len(completion) != 1 or completion[0]["role"] != "assistant":
        roles = ", ".join(message["role"] for message in completion) or "no message"
        raise DemotuneError(
            f"completions[{row}] has {roles}, expected one assistant message; a reward judges one turn, without tools"
        )
    (message,) = completion
    return with_thought(message.get("reasoning_content", "").strip(), message["content"])
