"""REFERENCE: log-probabilities of the stage's pairs under the reference, once; what is known is not computed."""

from demotune.common.files import write_rows
from demotune.common.processes import wait_for_everyone
from demotune.common.profiling import span
from demotune.common.progress import track
from demotune.models.policy import Policy
from demotune.models.reference_logps import pair_logps
from demotune.runs.heldout_files import rows_before
from demotune.runs.names import REFERENCE_LOGPS
from demotune.training.journal import PhaseJournal, share_of_this_process
from demotune.training.pairs import (
    expected_pairs,
    known_logps,
    pair_lengths,
    plan_pairs,
    reference_is_start,
    sampled_pairs,
    training_pairs,
)
from demotune.training.plan import StagePlan
from demotune.training.stage import Outcome, Stage, chunks, pair_tokens, pairwise
from demotune.training.work import PhaseWork


def run(stage: Stage) -> Outcome:
    """Compute the reference's log-probabilities of this stage's pairs and of the held-out pairs."""
    config = pairwise(stage.setup)
    pairs, heldout = training_pairs(stage), sampled_pairs(stage.setup, stage.number, heldout=True)
    everything = [*pairs, *heldout]
    plan = plan_pairs(stage.setup, pair_lengths(pairs), stage.seed("microbatches"))
    # Numbers of the pairs that stand together: the micro-batches of training, then chunks of held-out pairs.
    units = [*plan.units, *chunks(range(len(pairs), len(everything)), config.per_device_train_batch_size)]
    known = (
        known_logps(stage, rows_before(stage.setup.folder, stage.number))
        if reference_is_start(stage.setup, stage.number)
        else {}
    )
    policy = _reference_policy(stage)
    journal = PhaseJournal(stage.folder, "reference")
    missing = [unit for unit in units if not set(unit) <= journal.done.keys()]
    title = f"stage {stage.number}: reference log-probabilities"
    with track(title, len(everything), "pairs") as tracker, span("scoring"):
        tracker.start_at(len(journal.done))
        for unit in share_of_this_process(missing):
            batch = [everything[number] for number in unit]
            for logps in pair_logps(
                policy,
                [batch],
                bf16=stage.setup.bf16,
                advance=tracker.advance,
                budget=config.tokens_per_microbatch,
                known=known,
            ):
                journal.append(
                    [
                        {"row": number, "key": pair.key, "demo_ref_logp": demo, "sample_ref_logp": sample}
                        for number, pair, (demo, sample) in zip(unit, batch, logps, strict=True)
                    ]
                )
    wait_for_everyone()
    rows = journal.read()
    return Outcome(
        outputs={
            REFERENCE_LOGPS: lambda file: write_rows(file, (rows[number] for number in range(len(everything)))),
        },
        forward_tokens=pair_tokens(everything, known),
        facts={"pairs": len(pairs), "reference": config.reference},
    )


def _reference_policy(stage: Stage) -> Policy:
    """The policy that is the reference. Only one model is in memory: another one is loaded in its place."""
    if reference_is_start(stage.setup, stage.number):
        return stage.start_policy
    stage.free_policy()
    return stage.setup.load(stage.setup.start_model)


def work(plan: StagePlan) -> PhaseWork:
    """All sides of pairs, less those known from the check before. Another model than the stage's start is loaded."""
    other = not reference_is_start(plan.setup, plan.number)
    demos_too = other or not plan.setup.float32
    return PhaseWork(
        scored=plan.sides(expected_pairs(plan)) + plan.sides(plan.heldout, demo=demos_too), loads=int(other)
    )
