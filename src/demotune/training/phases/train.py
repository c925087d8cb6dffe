"""TRAIN: gradient steps from pi_t to pi_{t+1}."""

import time
from collections.abc import Sequence
from typing import Any

from demotune.common.processes import main_process, process_count, wait_for_everyone
from demotune.config.methods import SFTConfig
from demotune.models.policy import save_policy
from demotune.runs.names import CARRIED, CHECKPOINTS, METRICS
from demotune.training.callbacks import Checkpoints, WriteMetrics, quiet
from demotune.training.losses import loss_at_reference
from demotune.training.objectives import Objective, PairObjective, SFTObjective
from demotune.training.phases.pairs import pair_plan, reference_is_start, scored_pairs, steps_of_all_stages
from demotune.training.phases.stage import Stage, Work, pairwise
from demotune.training.smaller_passes import in_smaller_passes
from demotune.training.trainer import (
    AtStart,
    Carry,
    Interrupted,
    MicrobatchPlan,
    PhaseTrainer,
    plan_microbatches,
    train_phase,
    training_arguments,
)


def train_demonstrations_phase(stage: Stage, objective: SFTObjective, *, epochs: float, steps: int | None) -> None:
    """Passes over all demonstrations; publishes the policy."""
    if stage.done("train"):
        return
    rows = stage.setup.train
    plan = plan_microbatches(
        [len(row.prompt_ids) + len(row.demo.ids) for row in rows],
        batch_size=stage.setup.config.per_device_train_batch_size,
        accumulation=stage.setup.config.gradient_accumulation_steps * process_count(),
        epochs=epochs,
        steps=steps,
        seed=stage.seed("microbatches"),
    )
    _train(stage, plan, rows, objective)


def train_pairs_phase(stage: Stage, objective: PairObjective) -> None:
    """K steps on the stage's pairs; publishes pi_{t+1}."""
    if stage.done("train"):
        return
    pairs, _ = scored_pairs(stage, stage.number)
    plan = pair_plan(stage, [scored.pair for scored in pairs])
    tolerance = 1e-3 if stage.setup.bf16 else 1e-5
    first = (
        AtStart("loss", loss_at_reference(objective.link), tolerance)
        if reference_is_start(stage.setup, stage.number)
        else None
    )
    _train(stage, plan, pairs, objective, at_start=first, carry=_carry(stage))


def _train(
    stage: Stage,
    plan: MicrobatchPlan,
    records: Sequence[Any],
    objective: Objective[Any],
    *,
    at_start: AtStart | None = None,
    carry: Carry | None = None,
) -> None:
    """Train `stage.start_policy` through the plan, or go on from the last whole checkpoint, and publish the result."""
    started = time.monotonic()
    setup, checkpoints = stage.setup, stage.folder / CHECKPOINTS

    def attempt(budget: int | None) -> tuple[PhaseTrainer, list[dict[str, Any]]]:
        trainer = PhaseTrainer(
            model=stage.start_policy,
            args=training_arguments(setup.config, checkpoints, plan.steps, stage.seed("train")),
            objective=objective,
            microbatches=[[records[number] for number in plan.units[unit]] for unit in plan.order],
            tokenizer=setup.tokenizer,
            at_start=at_start,
            carry=carry,
            callbacks=[WriteMetrics(stage.folder / METRICS), Checkpoints(setup.config.save_steps), *setup.callbacks],
            budget=budget,
        )
        quiet(trainer)
        what = "train" if isinstance(setup.config, SFTConfig) else f"stage {stage.number}: train"
        return trainer, train_phase(trainer, what=what, total_steps=plan.steps, checkpoints=checkpoints)

    trainer, history = in_smaller_passes(attempt, setup.config.tokens_per_microbatch, stage.free_policy)
    if main_process():
        save_policy(stage.start_policy, setup.tokenizer, stage.model_folder)
        if carry is not None:
            trainer.save_carried(stage.folder)
    stop_requested, tokens = trainer.stop_requested, trainer.state.num_input_tokens_seen
    del trainer
    stage.free_policy()
    wait_for_everyone()
    outputs = [stage.model_folder, stage.folder / METRICS, *([stage.folder / CARRIED] if carry else [])]
    work = Work(trained=tokens)
    stage.mark("train", started, outputs, work, steps=plan.steps, end=average_of_last(history))
    if stop_requested:
        raise Interrupted


def average_of_last(history: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Each metric averaged over the last quarter of the records: where the stage ended, without one batch's noise."""
    if not history:  # it ended before its first record
        return {}
    last = history[-max(len(history) // 4, 1) :]
    return {name: sum(record.get(name, value) for record in last) / len(last) for name, value in last[-1].items()}


def _carry(stage: Stage) -> Carry | None:
    config = pairwise(stage.setup)
    if config.optimizer_across_stages == "restart":
        return None
    previous = stage.setup.folder.stage(stage.number - 1) / CARRIED if stage.number else None
    return Carry(previous=previous, total_steps=steps_of_all_stages(stage.setup))
