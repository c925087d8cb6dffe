"""Gradient steps of a phase: the one way in which the trainer is set up, run, gone on with and read afterwards."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from demotune.common.processes import process_count, wait_for_everyone
from demotune.common.progress import track
from demotune.runs.file_names import CHECKPOINTS, METRICS
from demotune.training.arguments import training_arguments
from demotune.training.callbacks import (
    Checkpoints,
    RecordLastStep,
    ShowProgress,
    StopOnSignal,
    WriteMetrics,
    latest_checkpoint,
)
from demotune.training.microbatches import deal, microbatches_of_step
from demotune.training.smaller_passes import in_smaller_passes
from demotune.training.stage import Stage
from demotune.training.trainer import EarlyStop, Fit, Interrupted, PhaseTrainer


class StopAtLoss(TrainerCallback):
    """Ends the steps once a recorded training loss is below a bound.

    Before that step's checkpoint, so that a phase that is killed afterwards takes the step again and ends there again.
    """

    def __init__(self, bound: float) -> None:
        self._bound = bound

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.log_history[-1].get("loss", self._bound) < self._bound:
            raise EarlyStop(f"the loss fell below {self._bound:g} (--stop-loss)")


def metrics_of(phase: str) -> str:
    """The file of a phase's steps: METRICS of "train" and "policy", which a stage has one of; else PHASE-metrics."""
    return METRICS if phase in ("train", "policy") else f"{phase}-{METRICS}"


def checkpoints_of(phase: str) -> str:
    """The folder of a phase's checkpoints, removed when its stage is done."""
    return CHECKPOINTS if phase == "train" else f"{phase}-{CHECKPOINTS}"


def phase_of(checkpoints: Path) -> str:
    """The phase that a folder of checkpoints is of."""
    return checkpoints.name.removesuffix(CHECKPOINTS).removesuffix("-") or "train"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """What became of the steps. `history` has all records of training and judging, `tokens` are those trained on."""

    history: list[dict[str, Any]]
    steps: int
    tokens: int
    stopped: str | None
    """Why a guard rail ended the steps early."""
    stop_requested: bool

    @property
    def end(self) -> dict[str, float]:
        """Each metric averaged over the last quarter of the training records: the end without one batch's noise."""
        records = [record for record in self.history if "loss" in record]
        last = records[-max(len(records) // 4, 1) :]
        names = last[-1] if last else {}  # none where it ended before its first record
        return {name: sum(record.get(name, value) for record in last) / len(last) for name, value in names.items()}


def fit(stage: Stage, phase: str, prepare: Callable[[int | None], Fit]) -> Fitted:
    """Take the steps of a phase, from its last whole checkpoint on; where memory lacks, with smaller passes.

    `prepare` loads what is trained, given the most tokens of one pass; it is called anew for each size of passes.
    Raises Interrupted at the user's request, unless the last step was made.
    """

    def attempt(budget: int | None) -> Fitted:
        return _fit(stage, phase, prepare(budget), budget)

    return in_smaller_passes(attempt, stage.setup.config.tokens_per_microbatch, stage.free_policy)


def _fit(stage: Stage, phase: str, given: Fit, budget: int | None) -> Fitted:
    dealt = deal(given.microbatches_of_step or microbatches_of_step(stage.setup), process_count())
    config = dataclasses.replace(stage.setup.config, **given.settings, gradient_accumulation_steps=dealt.accumulation)
    if dealt.parts > 1 and not stage.setup.float32:  # what was scored in whole micro-batches is near, not equal
        given = dataclasses.replace(given, expected_first=None)
    trainer = PhaseTrainer(
        given,
        args=training_arguments(config, stage.folder / checkpoints_of(phase), given.steps, stage.seed(phase)),
        tokenizer=stage.setup.tokenizer,
        callbacks=[
            WriteMetrics(stage.folder / metrics_of(phase)),
            *([given.keep_best] if given.keep_best else []),
            *([] if given.stop_loss is None else [StopAtLoss(given.stop_loss)]),
            Checkpoints(config.save_steps),
            *stage.setup.callbacks,
        ],
        budget=budget,
        parts=dealt.parts,
    )
    take_steps(trainer)
    if given.finish is not None:
        given.finish()
    wait_for_everyone()
    if given.carry is not None:
        trainer.save_carried(stage.folder)
    return Fitted(
        history=[dict(record) for record in trainer.state.log_history],
        steps=trainer.state.global_step,
        tokens=trainer.state.num_input_tokens_seen,
        stopped=trainer.stopped,
        stop_requested=trainer.stop_requested,
    )


def take_steps(trainer: PhaseTrainer) -> None:
    """Take all steps, or go on from the last whole checkpoint.

    Raises Interrupted at the user's request, unless the last step was made or a guard rail ended the steps: then
    `trainer.stop_requested` is set. `trainer.stopped` says which guard rail did.
    """
    given, checkpoints = trainer.given, Path(str(trainer.args.output_dir))
    with track(given.title, given.steps, "steps") as tracker, StopOnSignal() as stop:
        trainer.add_callback(ShowProgress(tracker))
        trainer.add_callback(RecordLastStep())
        trainer.add_callback(stop)
        try:
            trainer.train(resume_from_checkpoint=latest_checkpoint(checkpoints))
        except EarlyStop as reason:
            trainer.stopped = str(reason)
    if stop.requested and trainer.stopped is None and trainer.state.global_step < given.steps:
        raise Interrupted
    trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    trainer.stop_requested = stop.requested
