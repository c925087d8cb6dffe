"""A reward on texts, and inside TRL's GRPOTrainer: what TRL logs is what `score_texts` gives."""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from datasets import Dataset
from helpers.rewards import ask, save_reward, turn
from helpers.tiny import save_tiny, tiny_model, tiny_tokenizer
from trl import GRPOConfig, GRPOTrainer

from demotune import (
    DemotuneError,
    ImplicitReward,
    Reward,
    ScalarReward,
    SFTConfig,
    as_reward_func,
    load_reward,
    run,
)
from demotune.data.rendering import Renderer
from demotune.records import Completion
from demotune.rewards.reward import as_completion

PROMPTS = ["hello", "what is two three?", "hello one two"]
RESPONSES = ["the answer is one", "two", "three " * 9]


@pytest.fixture(scope="module")
def reward(tmp_path_factory: pytest.TempPathFactory) -> ScalarReward:
    return ScalarReward(save_reward(tmp_path_factory.mktemp("reward")), bf16=False)


class Letters(Reward):
    """A reward of one's own: the number of tokens of the response."""

    name, hash, passes, longest = "letters", "0", 1, 40

    def __init__(self) -> None:
        self.renderer = Renderer(tiny_tokenizer())

    def rewards_of(self, completions: Any, *, batch_size: int = 16, advance: Any = lambda _: None) -> list[float]:
        return [float(len(completion.response.ids)) for completion in completions]


# Texts ---------------------------------------------------------------------------------------------------------------


def test_texts_are_read_as_finished_responses(reward: ScalarReward) -> None:
    """Text or messages, the same; each as one turn that ends with the end-of-turn token."""
    rows = [as_completion(reward, turn(prompt, text)) for prompt, text in zip(PROMPTS, RESPONSES, strict=True)]
    expected = reward.rewards_of(rows)
    assert reward.score_texts(PROMPTS, RESPONSES) == expected
    assert reward.score_texts([ask(prompt) for prompt in PROMPTS], RESPONSES) == expected
    assert max(expected) - min(expected) > 0.1  # or this test shows nothing
    assert all(row.response.ids[-1] == reward.renderer.end_id for row in rows)
    assert reward.score_texts([], []) == []


def test_the_log_ratio_of_an_sft_run_ranks_and_is_refused_for_reinforcement_learning(tmp_path: Path) -> None:
    where = {"model": str(save_tiny(tmp_path / "start")), "output": str(tmp_path / "sft")}
    rows = [{"prompt": prompt, "completion": text} for prompt, text in zip(PROMPTS, RESPONSES, strict=True)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    run(
        SFTConfig(
            data=(str(tmp_path / "rows.jsonl"),), max_steps=1, max_length=128, eval_share=0.0, bf16=False, **where
        )
    )
    found = load_reward(tmp_path / "sft", bf16=False)
    assert len(found.score_texts(PROMPTS, RESPONSES)) == 3
    with pytest.raises(DemotuneError, match=r"log-ratio of an SFT run: it ranks responses, but a policy .* collapses"):
        as_reward_func(found)


def test_an_implicit_reward_of_texts(tmp_path: Path) -> None:
    models = [save_tiny(tmp_path / str(seed), seed) for seed in (1, 0)]
    reward = ImplicitReward(*models, 0.3, bf16=False)
    rows: list[Completion] = [as_completion(reward, turn(p, r)) for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    assert reward.score_texts(PROMPTS, RESPONSES) == pytest.approx(reward.rewards_of(rows), abs=1e-6)


def test_a_reward_of_ones_own_scores_texts_too() -> None:
    """z, z and the end of the turn."""
    assert Letters().score_texts(["a", "b"], ["zz", ""]) == [3.0, 1.0]


@pytest.mark.parametrize(
    ("prompts", "responses", "expected"),
    [
        (["a", "b"], ["c"], "2 prompts and 1 responses; give one prompt for each response"),
        ("a", ["c"], r"prompts is one text, expected a list; give prompts=\[text\]"),
        (["a"], "c", r"responses is one text, expected a list; give responses=\[text\]"),
        (["a", "b"], ["c", None], r"responses\[1\] is of type NoneType, expected text"),
        (["a", "  "], ["c", "d"], r"prompts\[1\] is no prompt \(the user turn is .*give text, or a list of messages"),
        (["a", [{"role": "user"}]], ["c", "d"], r"prompts\[1\] is no prompt .*prompts\[1\]\[0\]"),
        (["a", [*ask("a"), {"role": "assistant", "content": "b"}]], ["c", "d"], r"prompts\[1\] is no prompt"),
        (["a", 7], ["c", "d"], r"prompts\[1\] is no prompt .*expected a list of messages"),
        (["a", "b"], ["c", "z" * 50], r"row 1 \(prompts\[1\], responses\[1\]\) cannot be read: over-long"),
        (["a", "b"], ["c", "<|im_end|>"], r"row 1 .* cannot be read: control token in response"),
    ],
)
def test_a_text_that_cannot_be_read_is_named(prompts: Any, responses: Any, expected: str) -> None:
    with pytest.raises(DemotuneError, match=expected):
        Letters().score_texts(prompts, responses)


# TRL's form ----------------------------------------------------------------------------------------------------------


def test_both_formats_of_trl(reward: ScalarReward) -> None:
    function = as_reward_func(reward)
    expected = reward.score_texts(PROMPTS, RESPONSES)
    assert function(prompts=PROMPTS, completions=RESPONSES) == expected
    replies = [[{"role": "assistant", "content": text}] for text in RESPONSES]
    chats = [ask(prompt) for prompt in PROMPTS]
    assert function(prompts=chats, completions=replies, completion_ids=[[1]] * 3, other=["x"] * 3) == expected
    assert function.__name__ == "ScalarReward"


def test_reasoning_of_a_reply_is_read_in_front_of_it(reward: ScalarReward) -> None:
    reply = [{"role": "assistant", "content": "one", "reasoning_content": "two"}]
    (found,) = as_reward_func(reward)(prompts=[ask("a")], completions=[reply])
    assert found == reward.score_texts(["a"], ["<think>\ntwo\n</think>\n\none"])[0]
    assert found != reward.score_texts(["a"], ["one"])[0]


def test_replies_of_several_turns_are_refused(reward: ScalarReward) -> None:
    turns = [{"role": "assistant", "content": "a"}, {"role": "tool", "content": "b"}]
    with pytest.raises(DemotuneError, match=r"completions\[0\] has assistant, tool, expected one assistant message"):
        as_reward_func(reward)(prompts=[ask("a")], completions=[turns])


def remembering(function: Callable[..., list[float]], calls: list[tuple[list[Any], list[Any]]]) -> Any:
    def remembered(prompts: list[Any], completions: list[Any], **kwargs: Any) -> list[float]:
        calls.append((prompts, completions))
        return function(prompts=prompts, completions=completions, **kwargs)

    remembered.__name__ = function.__name__
    return remembered


@pytest.mark.parametrize("conversational", [False, True])
def test_trl_logs_what_score_texts_gives(reward: ScalarReward, tmp_path: Path, conversational: bool) -> None:
    """Two steps of GRPO on a tiny model."""
    torch.manual_seed(0)
    calls: list[tuple[list[Any], list[Any]]] = []
    texts = [f"say {number}" for number in range(4)]
    trainer = GRPOTrainer(
        model=tiny_model(),
        reward_funcs=remembering(as_reward_func(reward), calls),
        args=GRPOConfig(
            str(tmp_path), max_steps=2, per_device_train_batch_size=4, num_generations=2, max_completion_length=6,
            logging_steps=1, report_to="none", bf16=False, use_cpu=True, save_strategy="no", disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list([{"prompt": ask(text) if conversational else text} for text in texts]),
        processing_class=tiny_tokenizer(),
    )  # fmt: skip
    trainer.train()
    logged = [row["rewards/ScalarReward/mean"] for row in trainer.state.log_history if "loss" in row]
    assert (len(logged), len(calls)) == (2, 2)
    for (prompts, completions), mean in zip(calls, logged, strict=True):
        replies = [one[0]["content"] for one in completions] if conversational else completions
        assert mean == pytest.approx(fmean(reward.score_texts(prompts, replies)), abs=1e-5)
    assert logged[0] != logged[1]
