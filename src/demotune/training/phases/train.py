"""TRAIN: gradient steps from pi_t to pi_{t+1}, on demonstrations or on pairs."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from demotune.common.progress import say
from demotune.common.record_arrays import RecordArrays
from demotune.common.sequences import Mapped
from demotune.records import ScoredPair, Triplet
from demotune.runs.file_names import CARRIED, METRICS
from demotune.training.anchor import ANCHORED, scored_demonstrations
from demotune.training.carried_optimizer import Carry
from demotune.training.first_value import ExpectedFirstValue
from demotune.training.fit import fit
from demotune.training.microbatches import Microbatches, MicrobatchPlan, Numbers, config_microbatches
from demotune.training.objectives import Objective, PairwiseObjective
from demotune.training.pairs import (
    expected_pairs,
    expected_tokens,
    pair_groups,
    pair_lengths,
    plan_pairs,
    reference_is_start,
    scored_pairs,
    size_groups,
    steps_of_all_stages,
    triplets,
)
from demotune.training.setup import Setup
from demotune.training.stage import Outcome, Stage, pairwise, stage_slice, supervised, tokens_of
from demotune.training.trainer import Fit
from demotune.training.work import PhaseWork, Tokens
from demotune.training.work_plan import StagePlan, tokens_of_another, tokens_of_responses


def on_demonstrations(stage: Stage, objective: Callable[[Any], Objective[Any]]) -> Outcome:
    """Passes over the stage's demonstrations; publishes the policy. An anchored loss scores them by pi_0 first."""
    config, rows = supervised(stage.setup), stage_slice(stage.setup, stage.number)
    plan = _plan(stage.setup, rows.lengths, stage.seed("microbatches"))
    if config.loss not in ANCHORED:
        return _train(stage, "train", plan, rows, objective(config), stop_loss=config.stop_loss)
    scored = scored_demonstrations(stage, rows, plan)
    first = ExpectedFirstValue("|log| of the probability ratio", 0.0, 1e-2)
    outcome = _train(stage, "train", plan, scored, objective(config), expected_first=first, stop_loss=config.stop_loss)
    return replace(outcome, forward_tokens=tokens_of((row.prompt_ids, row.demo) for row in rows))


def work_on_demonstrations(plan: StagePlan) -> PhaseWork:
    """What `on_demonstrations` does."""
    config, lengths = supervised(plan.setup), [row.prompt + row.demo for row in plan.own]
    microbatches = _plan(plan.setup, lengths, plan.seed("microbatches"))
    tokens = Mapped(lambda row: tokens_of_responses(row.prompt, [row.demo]), plan.own)
    scored = plan.scored_demos(plan.own) if config.loss in ANCHORED else Tokens()
    return PhaseWork(scored=scored, training=plan.training(microbatches, tokens), saves=1)


def _plan(setup: Setup, lengths: Sequence[int] | Numbers, seed: int) -> MicrobatchPlan:
    config = supervised(setup)
    return config_microbatches(setup, lengths, epochs=config.num_train_epochs, steps=config.max_steps, seed=seed)


def on_pairs(stage: Stage, objective: Callable[[Any], PairwiseObjective]) -> Outcome:
    """K steps on the stage's pairs; publishes pi_{t+1}."""
    setup, config = stage.setup, pairwise(stage.setup)
    records: Sequence[ScoredPair | Triplet]
    records = triplets(stage) if config.link == "tspin" else scored_pairs(stage, stage.number)[0]
    if setup.answer_marker:
        say(f"{stage.title}: {len(records)} pairs have an answer after {config.answer_after!r}: they train")
    plain = Mapped(lambda record: record.pair, records)
    plan = plan_pairs(setup, pair_lengths(plain), pair_groups(plain), stage.seed("microbatches"))
    chosen = objective(config)
    at_reference, first = chosen.loss_at_reference, None
    if at_reference is not None and reference_is_start(setup, stage.number):
        first = ExpectedFirstValue("loss", at_reference, 1e-3 if setup.bf16 else 1e-5)
    carry = None
    if config.optimizer_across_stages == "carry":
        previous = setup.folder.stage(stage.number - 1) / CARRIED if stage.number else None
        carry = Carry(previous=previous, total_steps=steps_of_all_stages(setup))
    return _train(
        stage,
        f"{stage.title}: train",
        plan,
        records,
        chosen,
        expected_first=first,
        carry=carry,
    )


def work_on_pairs(plan: StagePlan) -> PhaseWork:
    """What `on_pairs` does; the policy is loaded where another model was the reference."""
    pairs = expected_pairs(plan)
    microbatches = plan_pairs(plan.setup, plan.longer_sides(pairs), size_groups(pairs), plan.seed("microbatches"))
    tokens = expected_tokens(plan, pairs)
    if pairwise(plan.setup).link == "tspin" and plan.number:  # in the first stage both samples are the same
        third = (tokens_of_another(row.prompt, row.sample, 0) for row in pairs)
        tokens = RecordArrays(Tokens, (both + one for both, one in zip(tokens, third, strict=True)))
    return PhaseWork(
        training=plan.training(microbatches, tokens),
        loads=0 if reference_is_start(plan.setup, plan.number) else 1,
        saves=1,
    )


def _train(
    stage: Stage,
    title: str,
    plan: MicrobatchPlan,
    records: Sequence[Any],
    objective: Objective[Any],
    *,
    expected_first: ExpectedFirstValue | None = None,
    carry: Carry | None = None,
    stop_loss: float | None = None,
) -> Outcome:
    """Train `stage.start_policy` through the plan and publish the result."""
    fitted = fit(
        stage,
        "train",
        lambda _: Fit(
            model=stage.start_policy,
            objective=objective,
            microbatches=Microbatches(plan, records),
            steps=plan.steps,
            title=title,
            expected_first=expected_first,
            carry=carry,
            stop_loss=stop_loss,
        ),
    )
    if fitted.stopped:
        say(f"SFT ended at step {fitted.steps} of {plan.steps}: {fitted.stopped}")
    stage.publish_policy()
    return Outcome(
        outputs=dict.fromkeys([stage.model_folder.name, METRICS, *([CARRIED] if carry else [])]),
        trained_tokens=fitted.tokens,
        facts={"steps": fitted.steps, "end": fitted.end},
        stop_requested=fitted.stop_requested,
    )
