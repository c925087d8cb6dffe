"""The largest value that each number of a config may have: what is beyond is a slip, and would fail hours later."""

import math
from collections.abc import Mapping

from demotune.common.errors import DemotuneError

COUNT = 10**9
"""Of steps, rows and tokens: so many that the limit is never met."""
LARGEST: dict[str, int] = {
    **dict.fromkeys(("eval_share", "max_bad_share", "history", "top_p", "lam"), 10),  # each config checks its range
    "learning_rate": 10**3,
    "reward_learning_rate": 10**3,
    "weight_decay": 10**3,
    "warmup_steps": COUNT,
    "max_grad_norm": COUNT,
    "temperature": 10**3,
    "top_k": 10**7,
    "epsilon": 10**3,
    "beta": 10**6,
    "sft_weight": 10**6,
    "kl_target": 10**6,
    "reward_bound": 10**6,
    "reward_clip": 10**6,
    "center_rewards_coefficient": 10**6,
    "missing_eos_penalty": 10**6,
    "stop_kl": COUNT,
    "stop_length_ratio": COUNT,
    "stop_unfinished": COUNT,
    "stop_reward_margin": COUNT,
    "data_weights": COUNT,
    "stages": 10**4,
    "num_train_epochs": 10**6,
    "epochs_per_stage": 10**6,
    "reward_epochs": 10**6,
    "policy_epochs": 10**6,
    "num_iterations": 10**4,
    "max_steps": COUNT,
    "steps_per_stage": COUNT,
    "reward_steps": COUNT,
    "policy_batches": COUNT,
    "logging_steps": COUNT,
    "save_steps": COUNT,
    "reward_eval_steps": COUNT,
    "reward_patience": COUNT,
    "max_rows": COUNT,
    "max_eval_rows": COUNT,
    "limit": COUNT,
    "few_shots": 10**4,
    "max_length": 10**7,
    "max_new_tokens": 10**7,
    "tokens_per_microbatch": COUNT,
    "per_device_train_batch_size": 10**6,
    "gradient_accumulation_steps": 10**6,
    "sample_batch_size": 10**6,
    "batch_size": 10**6,
    "prompts_per_batch": 10**6,
    "num_generations": 10**6,
    "num_mini_batches": 10**6,
    "reward_frozen_layers": 10**4,
    "lora_r": 10**5,
    "lora_alpha": 10**6,
    "seed": 2**32 - 1,
}
"""Field -> largest value, that of each item where the field is a list."""
NEVER_NEGATIVE = {"seed", "few_shots"}
"""Of the other fields each config says what they must be above."""


def check_numbers(values: Mapping[str, object]) -> None:
    """Raise DemotuneError for a field in LARGEST that holds no number, none that is finite, or one out of bounds."""
    for name in LARGEST.keys() & values.keys():
        value = values[name]
        for number in value if isinstance(value, tuple) else (value,):
            if number is not None:
                _check(name, number)


def _check(name: str, number: object) -> None:
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise DemotuneError(f"{name} must be a number, got {shown(number)} ({type(number).__name__}); give a number")
    if isinstance(number, float) and not math.isfinite(number):
        raise DemotuneError(f"{name} must be a finite number, got {number}; give a number")
    largest = LARGEST[name]
    smallest = 0 if name in NEVER_NEGATIVE else -largest
    if number > largest:
        raise DemotuneError(f"{name} must be at most {largest}, got {shown(number)}; give a smaller number")
    if number < smallest:
        raise DemotuneError(f"{name} must be at least {smallest}, got {shown(number)}; give a larger number")


def shown(value: object) -> str:
    """A value for a message: cut where it is long. Python refuses to write integers of thousands of digits."""
    if isinstance(value, int) and value.bit_length() > 1000:
        return f"an integer of {value.bit_length()} bits"
    try:
        text = repr(value)
    except ValueError:  # a list that holds such an integer
        return f"a {type(value).__name__} of values"
    return text if len(text) <= 200 else f"{text[:200]}..."
