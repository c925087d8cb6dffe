"""How many processes share a run: said at its start, refused where some would have nothing to do, or less than others.

A run that goes on with another number of processes takes the same steps: what a step holds was settled when it began.
"""

from dataclasses import dataclass

from demotune.common.errors import DemotuneError
from demotune.common.launches import unmet
from demotune.common.processes import process_count, this_device
from demotune.common.progress import say, warn
from demotune.training.methods import method_of
from demotune.training.microbatches import deal, microbatches_of_step
from demotune.training.rollouts import RolloutPlan
from demotune.training.setup import Setup
from demotune.training.stage import stage_slice, with_reward

RECORDS = {"none": "demonstrations", "implicit": "pairs", "explicit": "responses"}
"""What a policy is trained on, by the kind of reward that is learned."""


def say_processes(setup: Setup) -> None:
    """How many processes there are, what an optimizer step of the policy holds, and what the launcher asked in vain."""
    for sentence in unmet(process_count(), on_cpu=this_device().type == "cpu"):
        warn(sentence)
    count, begun = process_count(), setup.processes
    step = f"{_rows_at_most(setup)} {RECORDS[setup.config.learned_reward]} a step"
    if count == begun:
        say(f"  {_processes(count)}; {step}")
    else:
        say(
            f"  begun by {_processes(begun)}, goes on with {count}: {step} as before, {_changes(setup)}; equal up to "
            "the order of sums"
        )


def refuse_idle_processes(setup: Setup) -> None:
    """Raise DemotuneError where a phase has fewer micro-batches than there are processes.

    The others would be paid for nothing.
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


def refuse_uneven_steps(setup: Setup) -> None:
    """Raise DemotuneError where the processes that go on with a run cannot share its optimizer steps in equal parts."""
    count, steps = process_count(), _steps(setup)
    if all(step.can_be_shared(count) for step in steps):
        return
    numbers = range(1, max(step.records for step in steps) + 1)
    *most, last = [str(number) for number in numbers if all(step.can_be_shared(number) for step in steps)]
    raise DemotuneError(
        f"{setup.folder.root} was begun by {_processes(setup.processes)} with "
        f"{' and '.join(f'{step.records} {step.of}' for step in steps)} a step, which {_processes(count)} cannot share "
        f"in equal parts; go on with {', '.join(most)}{' or ' if most else ''}{last}"
    )


@dataclass(frozen=True, slots=True)
class _Step:
    """An optimizer step of a phase, as the run began: how many records it has at most, of which kind, how cut."""

    of: str
    records: int
    microbatches: int

    def can_be_shared(self, processes: int) -> bool:
        """Whether each process gets as many micro-batches as any other, or as many records."""
        return self.microbatches % processes == 0 or self.records % processes == 0


def _steps(setup: Setup) -> list[_Step]:
    """The kinds of steps that a run takes, those of its policy last."""
    microbatches = microbatches_of_step(setup)
    records = setup.config.per_device_train_batch_size * microbatches
    kind = RECORDS[setup.config.learned_reward]
    if setup.config.learned_reward != "explicit":
        return [_Step(kind, records, microbatches)]
    config = with_reward(setup)
    plan = RolloutPlan.of(config, prompts=1, processes=setup.processes)
    policy = _Step(kind, plan.responses // plan.mini_batches, plan.microbatches)
    return [policy] if config.reward_kind == "linear" else [_Step("pairs", records, microbatches), policy]


def _rows_at_most(setup: Setup) -> int:
    """Most records of the policy's optimizer step, over all processes: no micro-batch has more than there are."""
    step = _steps(setup)[-1]
    if setup.config.learned_reward == "explicit":
        return step.records
    there_are = len(stage_slice(setup, 0)) * setup.samples_per_prompt
    return min(setup.config.per_device_train_batch_size, there_are) * step.microbatches


def _changes(setup: Setup) -> str:
    """How the processes that go on share the policy's step otherwise than those that began."""
    step, begun = _steps(setup)[-1], setup.processes
    dealt, before = deal(step.microbatches, process_count()), step.microbatches // begun
    changes = [f"accumulation {dealt.accumulation} instead of {before}"] if dealt.accumulation != before else []
    if dealt.parts > 1:
        changes.append(f"each micro-batch in {dealt.parts} parts")
    return ", ".join(changes)


def _processes(count: int) -> str:
    return f"{count} process{'es' if count > 1 else ''}"
