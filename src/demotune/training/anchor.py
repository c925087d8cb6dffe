"""Demonstrations with the start model's log-probabilities, which iw and psft compare with: scored once, then kept.

The anchor is the start model for the whole run. So its numbers are known before training, and no second model is in
memory.
"""

from collections.abc import Sequence

from demotune.common.processes import wait_for_everyone
from demotune.common.profiling import span
from demotune.common.progress import track
from demotune.models.reference_logps import token_logps
from demotune.records import Completion, RenderedDemonstration, ScoredDemonstration
from demotune.training.microbatches import MicrobatchPlan
from demotune.training.phase_journal import PhaseJournal, share_of_this_process
from demotune.training.sft_losses import AnchoredLoss
from demotune.training.stage import Stage

ANCHORED: tuple[AnchoredLoss, ...] = ("iw", "psft")


def scored_demonstrations(
    stage: Stage, rows: Sequence[RenderedDemonstration], plan: MicrobatchPlan
) -> list[ScoredDemonstration]:
    """The rows, scored by the policy that the stage starts from in the micro-batches in which they will be trained."""
    journal = PhaseJournal(stage.folder, "anchor")
    missing = [unit for unit in plan.units if not set(unit) <= journal.done.keys()]
    with track("log-probabilities of the start model", len(rows), "rows") as tracker, span("scoring"):
        tracker.start_at(len(journal.done))
        if mine := share_of_this_process(missing):
            computed = token_logps(
                stage.start_policy,
                [[Completion(rows[number].prompt_ids, rows[number].demo) for number in unit] for unit in mine],
                bf16=stage.setup.bf16,
                advance=tracker.advance,
                budget=stage.setup.config.tokens_per_microbatch,
            )
            for unit, logps in zip(mine, computed, strict=True):
                journal.append([{"row": row, "logps": found} for row, found in zip(unit, logps, strict=True)])
    wait_for_everyone()
    found = journal.read()
    return [ScoredDemonstration(row, tuple(found[number]["logps"])) for number, row in enumerate(rows)]
