"""How many processes share a run: said at its start, refused where some would have nothing to do."""

from demotune.common.errors import DemotuneError
from demotune.common.launches import unmet
from demotune.common.processes import process_count, this_device
from demotune.common.progress import say, warn
from demotune.training.methods import method_of
from demotune.training.rollouts import RolloutPlan
from demotune.training.setup import Setup
from demotune.training.stage import stage_slice, with_reward

RECORDS = {"none": "demonstrations", "implicit": "pairs", "explicit": "responses"}
"""What a policy is trained on, by the kind of reward that is learned."""


def say_processes(setup: Setup) -> None:
    """How many processes there are, what an optimizer step of the policy holds, and what the launcher asked in vain."""
    for sentence in unmet(process_count(), on_cpu=this_device().type == "cpu"):
        warn(sentence)
    count = process_count()
    records = RECORDS[setup.config.learned_reward]
    say(f"  {count} process{'es' if count > 1 else ''}; {_step(setup)} {records} a step")


def refuse_idle_processes(setup: Setup) -> None:
    """Raise DemotuneError where a phase has fewer micro-batches than there are processes.

    accelerate would give one micro-batch to several of them: the same step, paid for more than once.
    """
    processes = process_count()
    if processes == 1:
        return
    rows = len(stage_slice(setup, 0))
    if rows < processes:
        raise DemotuneError(
            f"{processes} processes share {rows} demonstrations{' of a stage' if setup.config.stages > 1 else ''}, so "
            f"some have none; start {rows} or fewer, or give more data"
        )
    for work in method_of(setup.config).work_of(setup, 0):
        if work.training is not None and work.training.microbatches < processes:
            raise DemotuneError(
                f"phase {work.name} has {work.training.microbatches} micro-batches for {processes} processes, so some "
                "have none of their own; lower --per-device-train-batch-size, take more passes, or start fewer"
            )


def _step(setup: Setup) -> int:
    """Most records of the policy's optimizer step, over all processes."""
    if setup.config.learned_reward == "explicit":
        plan = RolloutPlan.of(with_reward(setup), prompts=1)
        return plan.responses // plan.mini_batches
    config, records = setup.config, len(stage_slice(setup, 0)) * setup.samples_per_prompt
    microbatch = min(config.per_device_train_batch_size, records)
    return microbatch * config.gradient_accumulation_steps * process_count()
