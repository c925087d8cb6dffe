"""REFERENCE: log-probabilities of the stage's pairs under the reference, once; what is known is not computed."""

from collections.abc import Mapping

from demotune.common.files import write_rows
from demotune.common.processes import wait_for_everyone
from demotune.common.profiling import span
from demotune.common.progress import track
from demotune.models.reference_logps import pair_logps
from demotune.records import Side
from demotune.runs.heldout_files import rows_before
from demotune.runs.names import REFERENCE_LOGPS
from demotune.runs.phase_journal import PhaseJournal, share_of_this_process
from demotune.training.microbatches import as_dealt, microbatches_of_step
from demotune.training.pairs import (
    expected_pairs,
    expected_tokens,
    heldout_units,
    known_logps,
    pair_groups,
    pair_lengths,
    plan_pairs,
    reference_is_start,
    referenced_pairs,
    repeated,
    sampled_pairs,
)
from demotune.training.stage import Outcome, Stage, pair_tokens, pairwise
from demotune.training.work import PhaseWork
from demotune.training.work_plan import StagePlan


def run(stage: Stage) -> Outcome:
    """Compute the reference's log-probabilities of this stage's pairs and of the held-out pairs."""
    config = pairwise(stage.setup)
    pairs, heldout = referenced_pairs(stage), sampled_pairs(stage.setup, stage.number, heldout=True)
    everything = [*pairs, *heldout]
    seed, groups = stage.seed("microbatches"), pair_groups(pairs)
    trained = plan_pairs(stage.setup, pair_lengths(pairs), groups, seed).units if pairs else ()
    # Numbers of the pairs that are computed together: the micro-batches of training, then units of held-out pairs.
    units = [
        *as_dealt(trained, microbatches_of_step(stage.setup)),
        *([len(pairs) + number for number in unit] for unit in heldout_units(stage.setup, heldout)),
    ]
    known: Mapping[Side, float] = {}
    if reference_is_start(stage.setup, stage.number):
        known = known_logps(stage, rows_before(stage.setup.folder, stage.number))
        policy = stage.start_policy
    else:
        stage.free_policy()  # only one model is in memory
        policy = stage.setup.load(stage.setup.start_model)
    journal = PhaseJournal(stage.folder, "reference")
    missing = [unit for unit in units if not set(unit) <= journal.done.keys()]
    title = f"{stage.title}: reference log-probabilities"
    with track(title, len(everything), "pairs") as tracker, span("scoring"):
        tracker.start_at(len(journal.done))
        mine = share_of_this_process(missing)
        computed = pair_logps(
            policy,
            [[everything[number] for number in unit] for unit in mine],
            bf16=stage.setup.bf16,
            advance=lambda _: None,
            budget=config.tokens_per_microbatch,
            known=known,
        )
        for unit, logps in zip(mine, computed, strict=True):
            journal.append(
                [
                    {"row": number, "key": everything[number].key, "demo_ref_logp": demo, "sample_ref_logp": sample}
                    for number, (demo, sample) in zip(unit, logps, strict=True)
                ]
            )
            tracker.advance(len(unit) + journal.news_of_others())
        wait_for_everyone()
        if late := journal.news_of_others():
            tracker.advance(late)
    rows = journal.read()
    return Outcome(
        outputs={
            REFERENCE_LOGPS: lambda file: write_rows(file, (rows[number] for number in range(len(everything)))),
        },
        forward_tokens=sum(pair_tokens((everything[number] for number in unit), known) for unit in units),
        facts={"pairs": len(pairs), "reference": config.reference},
    )


def work(plan: StagePlan) -> PhaseWork:
    """All sides of pairs, less those known from the check before. Another model than the stage's start is loaded."""
    other = not reference_is_start(plan.setup, plan.number)
    heldout = expected_tokens(plan, repeated(plan, plan.heldout), demo=other or not plan.setup.float32)
    pairs = [] if pairwise(plan.setup).link == "tspin" else expected_pairs(plan)
    return PhaseWork(
        scored=plan.batched(expected_tokens(plan, pairs)) + plan.batched(heldout),
        loads=int(other),
    )
