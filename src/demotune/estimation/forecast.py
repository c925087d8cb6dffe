"""The estimate of a run, phase by phase; said at its start, compared with what was measured at its end."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from demotune.common.memory import GIB
from demotune.common.processes import main_process, planned_for, process_count, shards_models
from demotune.common.progress import minutes, say, show_table
from demotune.estimation.machines import Machine, measure_machine, precision_of, unknown_machine
from demotune.estimation.model_shape import read_shape
from demotune.estimation.time_and_memory import Costs
from demotune.models.policy import lora_config
from demotune.training.methods import method_of
from demotune.training.setup import Setup
from demotune.training.work import PhaseWork

TINY = 1e12
"""Fewer operations than this take seconds wherever they run: nobody needs an estimate of them."""

States = Sequence[Mapping[str, Mapping[str, Any]]]
"""Of each stage the record of each finished phase, as in its state.json."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How many processes share a run, and whether they share what is trained (FSDP2)."""

    processes: int
    sharded: bool = False


@dataclass(frozen=True, slots=True)
class Estimate:
    """A whole run on one machine."""

    costs: Costs
    work: tuple[PhaseWork, ...]

    @property
    def machine(self) -> Machine:
        return self.costs.machine

    @property
    def seconds(self) -> float:
        return sum(map(self.seconds_of, self.work))

    @property
    def flops(self) -> float:
        return sum(map(self.flops_of, self.work))

    @property
    def memory(self) -> float:
        """Bytes at the highest point of the run."""
        return max(map(self.costs.memory, self.work))

    def seconds_of(self, work: PhaseWork) -> float:
        return sum(self.costs.seconds(work).values())

    def flops_of(self, work: PhaseWork) -> float:
        return sum(self.costs.flops(work).values())


def plan_work(setup: Setup) -> list[PhaseWork]:
    """The phases of all stages, in order, over all processes."""
    method = method_of(setup.config)
    return [work for number in range(setup.config.stages) for work in method.work_of(setup, number)]


def estimate_setup(setup: Setup, machine: Machine, launch: Launch | None = None) -> Estimate:
    """What the run that was prepared will cost on `machine`, each process with one such; no weights are read.

    `launch`: not given, as this process was launched.
    """
    launch = launch or Launch(process_count(), shards_models())
    costs = Costs(
        setup.config, read_shape(setup.start_model, setup.adapter), machine, launch.processes, sharded=launch.sharded
    )
    with planned_for(launch.processes):
        return Estimate(costs, tuple(plan_work(setup)))


def estimate_here(setup: Setup) -> Estimate:
    """What it will cost on this machine, whose ceilings are measured now."""
    return estimate_setup(setup, measure_machine(precision_of(setup.config)))


def say_forecast(setup: Setup) -> Estimate | None:
    """Say how long the whole run takes and how much memory; nothing of a tiny one. On the main process only."""
    if not main_process():
        return None
    estimate = estimate_setup(setup, unknown_machine(setup.config))
    if estimate.flops < TINY:
        return None
    here = measure_machine(precision_of(setup.config))
    estimate = dataclasses.replace(estimate, costs=dataclasses.replace(estimate.costs, machine=here))
    parts: dict[str, float] = {}
    for work in estimate.work:
        parts[work.name] = parts.get(work.name, 0.0) + estimate.seconds_of(work)
    named = ", ".join(f"{name} {minutes(seconds)}" for name, seconds in parts.items())
    say(
        f"estimate for the whole run: {minutes(estimate.seconds)} and {estimate.memory / GIB:.1f} GiB ({named}), if "
        "samples are as long as demonstrations"
    )
    return estimate


def finished(estimate: Estimate, states: States) -> list[tuple[PhaseWork, Mapping[str, Any]]]:
    """The estimated phases that were finished, each with its record. Stages that were not reached are left out."""
    return [
        (work, states[work.stage][work.name])
        for work in estimate.work
        if work.stage < len(states) and work.name in states[work.stage]
    ]


def compare_with_facts(estimate: Estimate, states: States) -> dict[str, Any]:
    """For summary.json, as [estimated, measured]: seconds by phase name, tokens, peak memory; and the machine."""
    seconds: dict[str, list[float]] = {}
    tokens = [0.0, 0]
    for work, record in finished(estimate, states):
        both = seconds.setdefault(work.name, [0.0, 0.0])
        both[0] += estimate.seconds_of(work)
        both[1] += record["seconds"]
        tokens[0] += work.forward_tokens + work.trained_tokens
        tokens[1] += record["forward_tokens"] + record["trained_tokens"]
    peak = max(record["peak_memory_gib"] for state in states for record in state.values())
    machine = estimate.machine
    return {
        "seconds": {name: [round(value, 1) for value in both] for name, both in seconds.items()},
        "tokens": [round(value) for value in tokens],
        "peak_memory_gib": [round(estimate.memory / GIB, 2), peak],
        "machine": {"name": machine.name, "precision": machine.precision}
        | {name: float(f"{getattr(machine, name):.3g}") for name in ("products", "bandwidth")},
    }


def show_comparison(compared: Mapping[str, Any]) -> None:
    """A short table: phase, estimated, measured."""
    seconds = dict(compared["seconds"])
    seconds["all phases"] = [sum(both[side] for both in seconds.values()) for side in (0, 1)]
    rows = [(name, *map(minutes, both), _ratio(*both)) for name, both in seconds.items()]
    rows.append(("tokens", *(f"{side:,}" for side in compared["tokens"]), _ratio(*compared["tokens"])))
    memory = compared["peak_memory_gib"]
    rows.append(("peak memory", *(f"{side:.1f} GiB" for side in memory), _ratio(*memory)))
    show_table("estimated before the run, and measured", ("", "estimated", "measured", "measured / estimated"), rows)


def lighter(setup: Setup, machine: Machine, launch: Launch | None = None) -> dict[str, Estimate]:
    """What a run would cost with less memory: flags -> estimate, each change alone, then all together."""
    config = setup.config
    changes: dict[str, dict[str, Any]] = {}
    if not config.use_peft:
        changes["--use-peft"] = {"use_peft": True}
    if not config.activation_checkpointing:
        changes["--activation-checkpointing"] = {"activation_checkpointing": True}
    batch = config.per_device_train_batch_size
    if batch > 1:
        accumulation = config.gradient_accumulation_steps * batch
        changes[f"--per-device-train-batch-size 1 --gradient-accumulation-steps {accumulation}"] = {
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": accumulation,
        }
    if len(changes) > 1:
        changes[" ".join(changes)] = {name: value for change in changes.values() for name, value in change.items()}
    return {flags: estimate_setup(_changed(setup, change), machine, launch) for flags, change in changes.items()}


def _changed(setup: Setup, change: Mapping[str, Any]) -> Setup:
    config = dataclasses.replace(setup.config, **change)
    adapter = setup.adapter
    if config.use_peft and adapter is None:
        adapter = lora_config(config.lora_r, config.lora_alpha, config.lora_target_modules)
    return dataclasses.replace(setup, config=config, adapter=adapter)


def _ratio(estimated: float, measured: float) -> str:
    return f"{measured / estimated:.2f}" if estimated else ""
