"""Values of an RFT config that make no sense: each refusal says what it is and what to do."""

from typing import Any

import pytest

from demotune import DemotuneError, RFTConfig


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"reward_link": "linear"}, "a linear reward_link without reward_bound has no optimum"),
        ({"reward_bound": 1.0, "center_rewards_coefficient": 0.1}, "center_rewards_coefficient pulls rewards to 0"),
        ({"reward_bound": 0.0}, "reward_bound must be > 0, got 0.0"),
        ({"reward_learning_rate": 0.0}, "reward_learning_rate must be > 0, got 0.0"),
        ({"reward_eval_steps": 0}, "reward_eval_steps must be > 0, got 0"),
        ({"reward_patience": 0}, "reward_patience must be > 0, got 0"),
        ({"reward_epochs": 0.0}, "reward_epochs must be > 0, got 0.0"),
        ({"reward_steps": 0}, "reward_steps must be > 0, got 0"),
        ({"center_rewards_coefficient": -1.0}, "center_rewards_coefficient must be >= 0, got -1.0"),
        ({"reward_frozen_layers": -1}, "reward_frozen_layers must be >= 0, got -1"),
        ({"beta": 0.0}, "beta must be > 0, got 0.0"),
        ({"policy_epochs": 0.0}, "policy_epochs must be > 0, got 0.0"),
        ({"policy_batches": 0}, "policy_batches must be > 0, got 0"),
        ({"prompts_per_batch": 0}, "prompts_per_batch must be > 0, got 0"),
        ({"num_generations": 0}, "num_generations must be > 0, got 0"),
        ({"num_generations": 1}, "advantage rloo compares responses to one prompt, num_generations is 1"),
        ({"num_generations": 1, "advantage": "group"}, "advantage group compares responses"),
        ({"num_iterations": 0}, "num_iterations must be > 0, got 0"),
        ({"num_mini_batches": 0}, "num_mini_batches must be > 0, got 0"),
        ({"num_mini_batches": 5}, "64 responses of a batch cannot be cut into 5 equal mini-batches"),
        ({"epsilon": 0.0}, "epsilon must be > 0, got 0.0"),
        ({"lam": 0.9}, "lam belongs to gae, not rloo"),
        ({"lam": 1.1, "advantage": "gae"}, "lam must be 0 to 1, got 1.1"),
        ({"kl_target": 0.0}, "kl_target must be > 0, got 0.0"),
        ({"reward_clip": -1.0}, "reward_clip must be > 0, got -1.0"),
        ({"missing_eos_penalty": -0.5}, "missing_eos_penalty must be >= 0, got -0.5"),
        ({"stop_kl": -1.0}, "stop_kl must be >= 0, got -1.0"),
        ({"stop_length_ratio": -1.0}, "stop_length_ratio must be >= 0"),
        ({"stop_unfinished": -0.1}, "stop_unfinished must be >= 0"),
        ({"stop_reward_margin": -2.0}, "stop_reward_margin must be >= 0"),
        ({"stages": 0}, "stages must be at least 1, got 0"),
    ],
    ids=str,
)
def test_a_value_out_of_range_says_what_it_is_and_what_to_do(values: dict[str, Any], message: str) -> None:
    RFTConfig(output="x")
    with pytest.raises(DemotuneError) as refusal:
        RFTConfig(**{"output": "x", **values})
    problem, _, fix = str(refusal.value).rpartition("; ")
    assert message in problem
    assert len(fix) > 3


def test_one_response_per_prompt_is_enough_for_a_value_head() -> None:
    assert RFTConfig(output="x", num_generations=1, advantage="gae", lam=0.5).lam == 0.5
