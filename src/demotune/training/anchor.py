"""Demonstrations with the start model's log-probabilities, which iw and psft compare with: scored once, then kept.

The anchor is the start model for the whole run. So its numbers are known before training, and no second model is in
memory.
"""

from collections.abc import Sequence

from demotune.common.profiling import span
from demotune.common.progress import track
from demotune.common.record_arrays import RecordArrays
from demotune.models.reference_logps import token_logps
from demotune.records import Completion, RenderedDemonstration, ScoredDemonstration
from demotune.runs.shared_work import compute_rows, shared
from demotune.training.microbatches import MicrobatchPlan, Units, as_dealt, microbatches_of_step
from demotune.training.sft_losses import AnchoredLoss
from demotune.training.stage import Stage

ANCHORED: tuple[AnchoredLoss, ...] = ("iw", "psft")


def scored_demonstrations(
    stage: Stage, rows: Sequence[RenderedDemonstration], plan: MicrobatchPlan
) -> Sequence[ScoredDemonstration]:
    """The rows, scored by the policy that the stage starts from in the micro-batches in which they will be trained."""

    def logps(unit: Sequence[int]) -> list[tuple[float, ...]]:
        return token_logps(
            stage.start_policy,
            [Completion(rows[number].prompt_ids, rows[number].demo) for number in unit],
            bf16=stage.setup.bf16,
            budget=stage.setup.config.tokens_per_microbatch,
        )

    units = Units.of(as_dealt(plan.units, microbatches_of_step(stage.setup)))
    what = "log-probabilities of the start model"
    with track(what, len(rows), "rows") as tracker, span("scoring"), shared("anchor", stage.folder):
        found = compute_rows(units, logps, tracker.advance)
    scored = (ScoredDemonstration(row, tuple(found[number])) for number, row in enumerate(rows))
    return RecordArrays(ScoredDemonstration, scored)
