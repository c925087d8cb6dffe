"""A stage's pairs as they lie in its files, and the micro-batches that they are scored and trained in."""

import random
from collections.abc import Sequence

from demotune.common.files import read_rows
from demotune.common.processes import process_count
from demotune.models.reference_logps import KnownLogps
from demotune.records import Pair, Response, ScoredPair
from demotune.runs.heldout import HeldoutRow
from demotune.runs.names import REFERENCE_LOGPS, SAMPLES
from demotune.training.phases.stage import Stage, pairwise, stage_slice
from demotune.training.setup import Setup
from demotune.training.trainer import MicrobatchPlan, plan_microbatches


def training_pairs(stage: Stage) -> list[Pair]:
    """This stage's own pairs, then the share of the previous stage's that history asks for."""
    config = pairwise(stage.setup)
    pairs = sampled_pairs(stage.setup, stage.number)
    if config.history and stage.number:
        previous = sampled_pairs(stage.setup, stage.number - 1)
        rng = random.Random(stage.seed("history"))
        pairs += rng.sample(previous, round(config.history * len(previous)))
    return pairs


def sampled_pairs(setup: Setup, number: int, heldout: bool = False) -> list[Pair]:
    """The pairs that the sample phase of stage `number` wrote."""
    return [
        Pair(
            key=row["key"],
            prompt_ids=tuple(row["prompt_ids"]),
            demo=Response(tuple(row["demo_ids"]), row["demo_finished"]),
            sample=Response(tuple(row["sample_ids"]), row["finished"]),
        )
        for row in read_rows(setup.folder.stage(number) / SAMPLES)
        if row["heldout"] == heldout
    ]


def known_logps(stage: Stage, rows: Sequence[HeldoutRow]) -> KnownLogps:
    """Held-out demonstrations under the policy of these rows: numbers that need not be computed again.

    In float32 only: in half precision the numbers of a pair are compared that stood in the same batch.
    """
    if not stage.setup.float32:
        return {}
    return {
        (demonstration.prompt_ids, demonstration.demo.ids): row.demo_logp
        for demonstration, row in zip(stage.setup.heldout, rows, strict=True)
    }


def scored_pairs(stage: Stage, number: int) -> tuple[list[ScoredPair], list[ScoredPair]]:
    """(training pairs, held-out pairs) of stage `number` with their reference log-probabilities."""
    earlier = stage if number == stage.number else Stage(stage.setup, number)
    pairs, heldout = training_pairs(earlier), sampled_pairs(stage.setup, number, heldout=True)
    scores = read_rows(earlier.folder / REFERENCE_LOGPS)
    both = [
        ScoredPair(pair, row["demo_ref_logp"], row["sample_ref_logp"])
        for pair, row in zip([*pairs, *heldout], scores, strict=True)
    ]
    return both[: len(pairs)], both[len(pairs) :]


def pair_plan(stage: Stage, pairs: Sequence[Pair]) -> MicrobatchPlan:
    """Micro-batches of this stage's pairs: the same when they are scored and when they are trained."""
    lengths = [len(pair.prompt_ids) + max(len(pair.demo.ids), len(pair.sample.ids)) for pair in pairs]
    return _plan(stage.setup, lengths, stage.seed("microbatches"))


def steps_of_all_stages(setup: Setup) -> int:
    """Optimizer steps of the whole run. How many pairs each stage has is known before any sample is drawn."""
    config = pairwise(setup)
    own = [len(stage_slice(setup, number)) for number in range(config.stages)]
    again = [0, *(round(config.history * count) for count in own[:-1])]
    return sum(_plan(setup, [0] * (new + old), seed=0).steps for new, old in zip(own, again, strict=True))


def _plan(setup: Setup, lengths: Sequence[int], seed: int) -> MicrobatchPlan:
    config = pairwise(setup)
    return plan_microbatches(
        lengths,
        batch_size=config.per_device_train_batch_size,
        accumulation=config.gradient_accumulation_steps * process_count(),
        epochs=config.epochs_per_stage,
        steps=config.steps_per_stage,
        seed=seed,
    )


def reference_is_start(setup: Setup, number: int) -> bool:
    """Whether the reference of stage `number` is the policy that the stage starts from."""
    return reference_of(setup) == "stage" or number == 0


def reference_of(setup: Setup) -> str:
    """`initial` only where the config asks for it: SPIN's reference is always the start of the stage."""
    return str(getattr(setup.config, "reference", "stage"))
