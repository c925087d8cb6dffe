"""A stage's pairs, read from its files, and the micro-batches that they are scored and trained in."""

import random
from collections.abc import Mapping, Sequence
from typing import TypeVar

from demotune.common.errors import DemotuneError
from demotune.common.json_records import read_records
from demotune.records import Pair, ScoredPair, Side
from demotune.rewards.answer_only import with_thoughts
from demotune.runs.heldout import HeldoutRow
from demotune.runs.names import REFERENCE_LOGPS, SAMPLES
from demotune.runs.rows import ReferenceRow, SampleRow
from demotune.training.microbatches import MicrobatchPlan, config_microbatches
from demotune.training.setup import Setup
from demotune.training.stage import Stage, pairwise, stage_slice
from demotune.training.work_plan import RowSizes, StagePlan

Row = TypeVar("Row")


def training_pairs(stage: Stage) -> list[Pair]:
    """This stage's own pairs, then the share of the previous stage's that `history` asks for.

    With `answer_after` those whose sample has an answer.
    """
    pairs = sampled_pairs(stage.setup, stage.number)
    if stage.number and pairwise(stage.setup).history:
        pairs += _again(stage, sampled_pairs(stage.setup, stage.number - 1))
    if stage.setup.answer_marker is None:
        return pairs
    answered = [pair for pair in pairs if pair.sample_thought]
    if not answered:
        raise DemotuneError(
            f"no sample of stage {stage.number} has {stage.setup.config.answer_after!r} and an answer after it; begin "
            "with a model that writes it, or raise --max-new-tokens"
        )
    return answered


def expected_pairs(plan: StagePlan) -> list[RowSizes]:
    """The sizes of the same pairs, before anything is sampled."""
    pairs = list(plan.own)
    if plan.number and pairwise(plan.setup).history:
        pairs += _again(plan, [plan.sizes(row) for row in stage_slice(plan.setup, plan.number - 1)])
    return pairs


def _again(stage: Stage | StagePlan, previous: Sequence[Row]) -> list[Row]:
    """The rows of the previous stage that are trained on again."""
    share = pairwise(stage.setup).history
    return random.Random(stage.seed("history")).sample(previous, round(share * len(previous)))


def sampled_pairs(setup: Setup, number: int, heldout: bool = False) -> list[Pair]:
    """The pairs that the sample phase of stage `number` wrote; with their thoughts marked where the policy compares."""
    rows = read_records(SampleRow, setup.folder.stage(number) / SAMPLES)
    pairs = [row.pair for row in rows if row.heldout == heldout]
    marker = setup.answer_marker if setup.config.learned_reward == "implicit" else None
    return pairs if marker is None else [with_thoughts(pair, marker) for pair in pairs]


def known_logps(stage: Stage, rows: Sequence[HeldoutRow]) -> Mapping[Side, float]:
    """Held-out demonstrations under the policy of these rows: numbers that need not be computed again.

    In float32 only: in half precision the numbers of a pair are compared that were in the same batch.
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
    logps = read_records(ReferenceRow, earlier.folder / REFERENCE_LOGPS)
    both = [
        ScoredPair(pair, row.demo_ref_logp, row.sample_ref_logp)
        for pair, row in zip([*pairs, *heldout], logps, strict=True)
    ]
    return both[: len(pairs)], both[len(pairs) :]


def pair_lengths(pairs: Sequence[Pair]) -> list[int]:
    """Tokens of each pair's prompt with its longer side."""
    return [len(pair.prompt_ids) + max(len(pair.demo.ids), len(pair.sample.ids)) for pair in pairs]


def plan_pairs(setup: Setup, lengths: Sequence[int], seed: int) -> MicrobatchPlan:
    """Micro-batches of a stage's pairs: the same when they are scored and when they are trained."""
    config = pairwise(setup)
    return config_microbatches(config, lengths, epochs=config.epochs_per_stage, steps=config.steps_per_stage, seed=seed)


def steps_of_all_stages(setup: Setup) -> int:
    """Optimizer steps of the whole run. How many pairs each stage has is known before any sample is drawn."""
    config = pairwise(setup)
    own = [len(stage_slice(setup, number)) for number in range(config.stages)]
    again = [0, *(round(config.history * count) for count in own[:-1])]
    return sum(plan_pairs(setup, [0] * (new + old), seed=0).steps for new, old in zip(own, again, strict=True))


def reference_is_start(setup: Setup, number: int) -> bool:
    """Whether the reference of stage `number` is the policy that the stage starts from."""
    return number == 0 or pairwise(setup).reference == "stage"
