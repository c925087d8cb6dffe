"""REFERENCE: log-probabilities of the stage's pairs under the reference, once, to `reference_logps.jsonl.gz`."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from demotune.common.files import write_rows
from demotune.common.profiling import span
from demotune.common.progress import track
from demotune.common.sequences import Joined
from demotune.models.reference_logps import pair_logps
from demotune.records import Side
from demotune.runs.file_names import REFERENCE_LOGPS
from demotune.runs.heldout_files import rows_before
from demotune.runs.phase_journal import PhaseJournal
from demotune.training.microbatches import Units, as_dealt, microbatches_of_step
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
    everything = Joined(pairs, heldout)
    seed, groups = stage.seed("microbatches"), pair_groups(pairs)
    trained = plan_pairs(stage.setup, pair_lengths(pairs), groups, seed).units if pairs else ()
    # Numbers of the pairs that are computed together: the micro-batches of training, then units of held-out pairs.
    units = Units.of(
        itertools.chain(
            as_dealt(trained, microbatches_of_step(stage.setup)),
            ([len(pairs) + number for number in unit] for unit in heldout_units(stage.setup, heldout)),
        )
    )
    known: Mapping[Side, float] = {}
    if reference_is_start(stage.setup, stage.number):
        known = known_logps(stage, rows_before(stage.setup.folder, stage.number))
        policy = stage.start_policy
    else:
        stage.free_policy()  # only one model is in memory
        policy = stage.setup.load(stage.setup.start_model)

    def records(unit: Sequence[int]) -> list[dict[str, Any]]:
        pairs, bf16, budget = [everything[number] for number in unit], stage.setup.bf16, config.tokens_per_microbatch
        logps = pair_logps(policy, pairs, bf16=bf16, budget=budget, known=known)
        return [
            {"row": number, "key": pair.key, "demo_ref_logp": demo, "sample_ref_logp": sample}
            for number, pair, (demo, sample) in zip(unit, pairs, logps, strict=True)
        ]

    journal = PhaseJournal(stage.folder, "reference")
    title = f"{stage.title}: reference log-probabilities"
    with track(title, len(everything), "pairs") as tracker, span("scoring"):
        tracker.start_at(len(journal.done))
        rows = journal.compute_missing(units, records, tracker.advance)
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
