"""Learning rates: transformers' schedules, with a warm-up in which every step trains."""

from collections.abc import Callable
from typing import cast

import torch
from transformers import TrainingArguments, get_scheduler
from transformers.trainer_utils import SchedulerType

from demotune.common.errors import DemotuneError

FEWEST_WITH_WARMUP = 10
"""Steps that a schedule must have for a warm-up: a tenth of fewer would be less than one step."""

THAT_WORK = "linear, cosine, cosine_with_restarts, polynomial, inverse_sqrt, constant or constant_with_warmup"

Schedule = Callable[[int], float]
"""Step, from 0 -> share of the peak rate."""


def learning_rates(arguments: TrainingArguments, steps: int) -> Schedule:
    """Share of the peak rate of each of `steps` steps.

    Of W warm-up steps, step s has (s + 1) / W; transformers gives it s / W, so that its first step trains nothing.
    From step W on the schedule is transformers'. Raises DemotuneError for a schedule that needs settings of its
    own, and for one under which no step would train.
    """
    name = SchedulerType(arguments.lr_scheduler_type)
    warmup = 0 if steps < FEWEST_WITH_WARMUP or name is SchedulerType.CONSTANT else arguments.get_warmup_steps(steps)
    rest = _transformers_schedule(name, arguments.learning_rate, warmup, steps)

    def share(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return rest(step) if step < steps else 0.0  # asked for after the last step, when nothing is trained any more

    if not any(arguments.learning_rate * share(step) > 0 for step in range(steps)):
        raise DemotuneError(
            f"no step of {steps} would have a learning rate above 0 (lr_scheduler_type {name.value}, warmup_steps "
            f"{arguments.warmup_steps:g}), so nothing would be trained; set another --lr-scheduler-type"
        )
    return share


def _transformers_schedule(name: SchedulerType, peak: float, warmup: int, steps: int) -> Schedule:
    nothing = torch.optim.SGD([torch.zeros(1)], lr=peak)  # transformers makes a schedule only for an optimizer
    try:
        made = get_scheduler(name, optimizer=nothing, num_warmup_steps=warmup, num_training_steps=steps)
    except (TypeError, ValueError) as error:  # it asks for settings of its own, or for a higher rate
        raise DemotuneError(f"lr_scheduler_type {name.value} cannot be used here ({error}); take {THAT_WORK}") from None
    return cast(Schedule, made.lr_lambdas[0])
