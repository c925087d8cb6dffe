"""SCORE: the reference's log-probabilities of the stage's pairs, once, as numbers; what is known is not computed."""

import time

from demotune.common.files import write_rows
from demotune.common.processes import main_process, wait_for_everyone
from demotune.common.profiling import span
from demotune.common.progress import track
from demotune.models.policy import Policy
from demotune.models.reference_logps import pair_logps
from demotune.runs.heldout_files import rows_before
from demotune.runs.names import REFERENCE_LOGPS
from demotune.training.phases.pairs import (
    known_logps,
    pair_plan,
    reference_is_start,
    reference_of,
    sampled_pairs,
    training_pairs,
)
from demotune.training.phases.stage import (
    PhaseJournal,
    Stage,
    Work,
    chunks,
    pair_tokens,
    pairwise,
    share_of_this_process,
)


def score_phase(stage: Stage) -> None:
    """Write the reference's log-probabilities onto this stage's pairs and the held-out pairs, as numbers."""
    if stage.done("score"):
        return
    started = time.monotonic()
    config = pairwise(stage.setup)
    pairs, heldout = training_pairs(stage), sampled_pairs(stage.setup, stage.number, heldout=True)
    plan = pair_plan(stage, pairs)
    # Numbers of the pairs that stand together: the micro-batches of training, then chunks of held-out pairs.
    units = [*plan.units, *chunks(range(len(pairs), len(pairs) + len(heldout)), config.per_device_train_batch_size)]
    everything = [*pairs, *heldout]
    known = (
        known_logps(stage, rows_before(stage.setup.folder, stage.number))
        if reference_is_start(stage.setup, stage.number)
        else {}
    )
    policy = _reference_policy(stage)
    journal = PhaseJournal(stage, "scored")
    missing = [unit for unit in units if not set(unit) <= journal.done.keys()]
    with track(f"stage {stage.number}: score", len(everything), "pairs") as tracker, span("scoring"):
        tracker.start_at(len(journal.done))
        for unit in share_of_this_process(missing):
            batch = [everything[number] for number in unit]
            for scores in pair_logps(
                policy,
                [batch],
                bf16=stage.setup.bf16,
                advance=tracker.advance,
                budget=config.tokens_per_microbatch,
                known=known,
            ):
                rows = zip(unit, batch, scores, strict=True)
                journal.append(
                    [
                        {"row": number, "key": pair.key, "demo_ref_logp": demo, "sample_ref_logp": sample}
                        for number, pair, (demo, sample) in rows
                    ]
                )
    del policy
    wait_for_everyone()
    scored = journal.read()
    if main_process():
        write_rows(stage.folder / REFERENCE_LOGPS, (scored[number] for number in range(len(everything))))
    wait_for_everyone()
    stage.mark(
        "score",
        started,
        [stage.folder / REFERENCE_LOGPS],
        Work(forward=pair_tokens(everything, known)),
        pairs=len(pairs),
        reference=reference_of(stage.setup),
    )


def _reference_policy(stage: Stage) -> Policy:
    """The policy whose numbers are the reference. Only one model is in memory: another one is loaded in its place."""
    if reference_is_start(stage.setup, stage.number):
        return stage.start_policy
    stage.free_policy()
    return stage.setup.load(stage.setup.start_model)
