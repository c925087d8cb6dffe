"""How long a run of RFT will take, measured on a few tokens before its first phase."""

import dataclasses
import time
from dataclasses import dataclass
from statistics import fmean

import torch

from demotune.logprobs import autocast, sequence_logps
from demotune.packing import pack
from demotune.phases.rollouts import Layout
from demotune.phases.sample import sampling_options
from demotune.phases.stage import Stage, stage_slice, with_reward
from demotune.processes import main_process, process_count, this_device, wait_for_everyone
from demotune.progress import minutes, say
from demotune.sampling import sample_responses
from demotune.scoring import to_device

MEASURED_TOKENS = 16
"""How many tokens are drawn to measure the speed of sampling."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds per token on this machine: drawn in a full batch, in a forward pass, in a whole training step."""

    drawn: float
    forward: float
    trained: float


def say_forecast(stage: Stage) -> None:
    """Measure this machine and say how long the run will take. Early stopping and guard rails make it shorter."""
    if main_process():
        sampling, reward, policy = _seconds(stage, measure_speed(stage))
        say(
            f"this run will take about {minutes(sampling + reward + policy)}: sampling and checks {minutes(sampling)}, "
            f"reward steps {minutes(reward)}, policy steps {minutes(policy)} (from a few tokens measured just now)"
        )
    wait_for_everyone()


def measure_speed(stage: Stage) -> Speed:
    """Draw a few tokens and take the gradient of one micro-batch with the start policy."""
    config, policy = with_reward(stage.setup), stage.start_policy
    rows = sorted(stage.setup.train, key=lambda row: len(row.prompt_ids) + len(row.demo.ids))
    middle = rows[max(len(rows) // 2 - config.per_device_train_batch_size // 2, 0) :]
    batch = middle[: config.per_device_train_batch_size]
    aligned = to_device(policy, pack([row.prompt_ids for row in batch], [row.demo.ids for row in batch]))
    tokens = sum(len(row.prompt_ids) + len(row.demo.ids) for row in batch)
    for _ in range(2):  # the first pass warms up
        started = time.monotonic()
        with autocast(this_device(), stage.setup.bf16), torch.no_grad():
            sequence_logps(policy, aligned)
        forward = time.monotonic() - started
        started = time.monotonic()
        with autocast(this_device(), stage.setup.bf16):
            loss = -sequence_logps(policy, aligned).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        trained = time.monotonic() - started
    for weight in policy.parameters():
        weight.grad = None
    prompts = [row.prompt_ids for row in (rows * config.sample_batch_size)[: config.sample_batch_size]]
    options = dataclasses.replace(sampling_options(stage.setup), max_new_tokens=MEASURED_TOKENS, stop_ids=frozenset())
    started = time.monotonic()
    drawn = list(sample_responses(policy, prompts, range(len(prompts)), 0, options, slots=len(prompts)))
    seconds = time.monotonic() - started
    return Speed(
        drawn=seconds / sum(len(response.ids) for _, response in drawn),
        forward=forward / tokens,
        trained=trained / tokens,
    )


def _seconds(stage: Stage, speed: Speed) -> tuple[float, float, float]:
    """(sampling and checks, reward steps, policy steps) of all stages, if samples are as long as demonstrations."""
    config, setup = with_reward(stage.setup), stage.setup
    prompt = fmean(len(row.prompt_ids) for row in setup.train)
    response = fmean(len(row.demo.ids) for row in setup.train)
    whole, heldout = prompt + response, len(setup.heldout)
    sampling = reward = policy = 0.0
    for number in range(config.stages):
        rows = len(stage_slice(setup, number))
        layout = Layout.of(config, rows + len(setup.prompts))
        sampling += (rows + 2 * heldout) * response * speed.drawn + (rows + 2 * heldout) * 2 * whole * speed.forward
        pairs = config.per_device_train_batch_size * config.gradient_accumulation_steps * process_count()
        steps = config.reward_steps or max(rows * config.reward_epochs / pairs, 1)
        judged = (steps / config.reward_eval_steps + 1) * heldout
        reward += (steps * pairs * speed.trained + judged * speed.forward) * 2 * whole
        each = response * speed.drawn + whole * (3 * speed.forward + config.num_iterations * speed.trained)
        policy += layout.batches * layout.responses * each
    together = process_count()
    return sampling / together, reward / together, policy / together
