"""The loop over the phases of a stage: what is done is left alone, the rest is run, written and marked."""

import time

from demotune.common.processes import main_process, wait_for_everyone
from demotune.common.progress import say, warn
from demotune.runs.file_names import stage_title
from demotune.runs.gate import Gate
from demotune.training.methods import Phase, method_of
from demotune.training.phases.sample import NothingToLearn
from demotune.training.setup import Setup
from demotune.training.stage import Stage
from demotune.training.trainer import Interrupted


def run_stage(setup: Setup, number: int) -> bool:
    """Everything that stage `number` still lacks; a finished stage costs nothing.

    False where a later stage has nothing to learn from: then the run ends with the stages before. Raises NothingToLearn
    where that is the first one.
    """
    stage, method = Stage(setup, number), method_of(setup.config)
    if stage.done("check"):
        say(f"{stage_title(number)} is done already")
    else:
        try:
            for phase in method.phases_of(setup, number):
                run_phase(stage, phase)
        except NothingToLearn as reason:
            if number == 0:
                raise
            warn(f"the run ends before {stage_title(number)}: {reason}")
            stage.free_policy()
            return False
        method.warn(stage)
    stage.free_policy()
    stage.tidy()
    _say_gate(stage)
    return True


def run_phase(stage: Stage, phase: Phase) -> None:
    """Run a phase unless it is done: its outputs are written first, then it is marked as done.

    Raises Interrupted where the user asked to stop when the phase was nearly over.
    """
    if stage.done(phase.name):
        return
    started = time.monotonic()
    outcome = phase.run(stage)
    if main_process():
        for name, write in outcome.outputs.items():
            if write is not None:
                write(stage.folder / name)
    wait_for_everyone()
    stage.mark(phase.name, started, outcome)
    if outcome.stop_requested:
        raise Interrupted


def stopped_by_gate(setup: Setup, number: int) -> bool:
    """Whether the run ends after stage `number` because the stage made things worse and the gate is to stop it."""
    return setup.config.gate == "stop" and (gate := _gate_of(setup, number)) is not None and gate.verdict == "worse"


def _gate_of(setup: Setup, number: int) -> Gate | None:
    """What the gate says of a finished stage; None without held-out rows, or when the gate is off."""
    return None if setup.config.gate == "off" else setup.folder.stage_check(number).gate


def _say_gate(stage: Stage) -> None:
    gate = _gate_of(stage.setup, stage.number)
    if gate is None:
        return
    say(
        f"gate: {_verdict_text(gate, stage.number)} nats per held-out demonstration, likelier in "
        f"{gate.wins.text()} of {gate.prompts} (95% intervals)",
        style="yellow" if gate.verdict == "worse" else None,
    )
    for warning in gate.warnings:
        warn(f"{stage.title}: {warning}")


def _verdict_text(gate: Gate, number: int) -> str:
    """The verdict with the gain that it rests on."""
    verdict, before, gain = gate.verdict, gate.baseline, gate.gain.text()
    if verdict in ("better", "worse"):
        return f"{stage_title(number)} is {verdict} than {before}: {gain}"
    if verdict == "no clear change":
        return f"no clear change from {before} to {stage_title(number)}: {gain}"
    return (
        f"{verdict} (n = {gate.prompts}) whether {stage_title(number)} is better than {before}: {gate.gain.value:.2f}"
    )
