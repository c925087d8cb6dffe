"""A stage's pairs, read from its files, and the micro-batches that they are scored and trained in."""

import itertools
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from demotune.common.errors import DemotuneError
from demotune.common.json_records import iter_records
from demotune.common.record_arrays import RecordArrays
from demotune.common.sequences import Joined, Mapped
from demotune.records import Pair, Response, ScoredPair, Side, Triplet
from demotune.rewards.answer_only import pairs_of_answers, thought_tokens
from demotune.runs.file_names import REFERENCE_LOGPS, SAMPLES
from demotune.runs.heldout import HeldoutRow
from demotune.runs.rows import ReferenceRow, SampleRow
from demotune.training.by_key import ByKey
from demotune.training.microbatches import MicrobatchPlan, Numbers, config_microbatches, whole_groups
from demotune.training.setup import Setup
from demotune.training.stage import Stage, pairwise, stage_slice
from demotune.training.work import Tokens
from demotune.training.work_plan import RowSizes, StagePlan, tokens_of_another, tokens_of_pair, tokens_of_responses

Row = TypeVar("Row")


def training_pairs(stage: Stage) -> Sequence[Pair]:
    """This stage's own pairs, those of earlier stages that `history` asks for, and the `interpolicy` ones.

    With `answer_after` those whose sample has an answer.
    """
    config = pairwise(stage.setup)
    pairs = _answered_pairs(stage, stage.number)
    if stage.number and (config.history or config.interpolicy):
        earlier = [_answered_pairs(stage, number) for number in range(stage.number)]
        again = _again(stage, earlier)
        rng = random.Random(stage.seed("interpolicy"))
        between = between_policies([*earlier, pairs], round(config.interpolicy * len(pairs)), rng)
        pairs = Joined(pairs, again, between)
    if not pairs and stage.setup.answer_marker:
        raise _nothing_answered(stage, f"sample of {stage.title}")
    return pairs


def _answered_pairs(stage: Stage, number: int) -> Sequence[Pair]:
    """The pairs of a stage's own samples; with `answer_after` those whose sample has an answer."""
    rows = _sample_rows(stage.setup, number, heldout=False)
    return RecordArrays(Pair, (row.pair for row in rows if not (row.equal or row.unanswered)))


def _nothing_answered(stage: Stage, what: str) -> DemotuneError:
    return DemotuneError(
        f"no {what} has {stage.setup.config.answer_after!r} and an answer after it; begin with a model that writes it, "
        "or raise --max-new-tokens"
    )


def referenced_pairs(stage: Stage) -> Sequence[Pair]:
    """The training pairs that need the reference's log-probabilities: none for the link tspin."""
    return [] if pairwise(stage.setup).link == "tspin" else training_pairs(stage)


def triplets(stage: Stage) -> Sequence[Triplet]:
    """The stage's training pairs with the start model's samples, which the first stage drew.

    The n-th pair of a row has the n-th of them that differs from the demonstration, where one does, so that in the
    first stage the two are the same. With `answer_after` rows that the start model did not answer are left out.
    """
    rows, marker = _sample_rows(stage.setup, 0, heldout=False), stage.setup.answer_marker
    by_row = (list(group) for _, group in itertools.groupby(rows, key=lambda row: row.key))
    kept = (row for group in by_row for row in ([row for row in group if not row.equal] or group))
    drawn = ByKey((row.key, row.pair.sample) for row in kept if not row.unanswered)

    def found() -> Iterator[Triplet]:
        seen: Counter[str] = Counter()
        for pair in training_pairs(stage):
            if firsts := drawn[pair.key]:
                first = firsts[seen[pair.key] % len(firsts)]
                yield Triplet(pair, first, 0 if marker is None else thought_tokens(first.ids, marker) or 0)
                seen[pair.key] += 1

    triplets = RecordArrays(Triplet, found())
    if not triplets:
        raise _nothing_answered(stage, f"sample of the start model to a prompt that is answered in {stage.title}")
    return triplets


def expected_pairs(plan: StagePlan) -> Sequence[RowSizes]:
    """The sizes of the same pairs, before anything is sampled: as if no sample were its demonstration."""
    own = repeated(plan, plan.own)
    if not plan.number:
        return own
    earlier = [repeated(plan, plan.sizes_of(stage_slice(plan.setup, number))) for number in range(plan.number)]
    between = Mapped(
        lambda number: _between(plan.own[number % len(plan.own)], number),
        range(round(pairwise(plan.setup).interpolicy * len(own))),
    )
    return Joined(own, _again(plan, earlier), between)


def _between(row: RowSizes, number: int) -> RowSizes:
    """The sizes of a pair of two samples."""
    return replace(row, demo=round(row.sample), row=-1 - number)


def _again(stage: Stage | StagePlan, earlier: Sequence[Sequence[Row]]) -> Sequence[Row]:
    """The pairs of earlier stages that are trained on again, in their order."""
    config = pairwise(stage.setup)
    pool = earlier[-1] if config.history_from == "previous" else Joined(*earlier)
    count = round(config.history * len(earlier[-1]))
    chosen = random.Random(stage.seed("history")).sample(range(len(pool)), min(count, len(pool)))
    return Mapped(pool.__getitem__, sorted(chosen))


def between_policies(by_stage: Sequence[Sequence[Pair]], count: int, rng: random.Random) -> Sequence[Pair]:
    """Pairs that prefer a sample of a later policy to one of an earlier policy, for the same prompt.

    `by_stage` has each stage's pairs. Row, stages and samples are drawn uniformly, `count` times; where the two samples
    are equal there is no pair. Comparisons between policies of DITTO (arXiv 2406.00888, section 3).
    """
    rows: dict[str, dict[int, list[Pair]]] = {}
    for number, pairs in enumerate(by_stage):
        for pair in pairs:
            rows.setdefault(pair.key, {}).setdefault(number, []).append(pair)
    several = [stages for stages in rows.values() if len(stages) > 1]
    found = []
    for _ in range(count if several else 0):
        stages = rng.choice(several)
        earlier, later = sorted(rng.sample(sorted(stages), 2))
        better, worse = rng.choice(stages[later]), rng.choice(stages[earlier])
        found.append(
            replace(
                better,
                demo=better.sample,
                sample=worse.sample,
                demo_thought=better.sample_thought,
                sample_thought=worse.sample_thought,
            )
        )
    return [pair for pair in found if not pair.equal]


def repeated(plan: StagePlan, rows: Sequence[RowSizes]) -> Sequence[RowSizes]:
    """M pairs of each row."""
    count = plan.setup.samples_per_prompt
    return Mapped(lambda place: rows[place // count], range(len(rows) * count))


def sampled_pairs(setup: Setup, number: int, heldout: bool = False) -> Sequence[Pair]:
    """The pairs of stage `number`: of the samples that it drew those that differ from their demonstrations."""
    return RecordArrays(Pair, (row.pair for row in _sample_rows(setup, number, heldout) if not row.equal))


def rewarded_pairs(stage: Stage) -> list[Sequence[Pair]]:
    """The stage's own pairs, and its held-out ones, as its reward model reads them: with `answer_after` the answers."""
    return [
        pairs_of_answers(sampled_pairs(stage.setup, stage.number, heldout), stage.setup.answer_marker)
        for heldout in (False, True)
    ]


def equal_samples(setup: Setup, number: int) -> int:
    """How many held-out samples of stage `number` are their demonstration, so that they make no pair."""
    return sum(row.equal for row in _sample_rows(setup, number, heldout=True))


def first_heldout_samples(setup: Setup, number: int) -> list[Response]:
    """The first sample of each held-out row, whatever it is."""
    found: dict[str, Response] = {}
    for row in _sample_rows(setup, number, heldout=True):
        found.setdefault(row.key, row.pair.sample)
    return [found[row.key] for row in setup.heldout]


def _sample_rows(setup: Setup, number: int, heldout: bool) -> Iterator[SampleRow]:
    file = setup.folder.stage(number) / SAMPLES
    for row in iter_records(SampleRow, file):
        if (row.sample_thought is None) != (setup.answer_marker is None):
            raise DemotuneError(
                f"{file} does not say where answers begin, as answer_after {setup.config.answer_after!r} needs: an "
                "earlier version of demotune wrote it; begin the run anew in another folder"
            )
        if row.heldout == heldout:
            yield row


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


def scored_pairs(stage: Stage, number: int) -> tuple[Sequence[ScoredPair], Sequence[ScoredPair]]:
    """(training pairs, held-out pairs) of stage `number` with their reference log-probabilities.

    No training pairs for the link tspin, which has no reference.
    """
    earlier = stage if number == stage.number else Stage(stage.setup, number)
    pairs, heldout = referenced_pairs(earlier), sampled_pairs(stage.setup, number, heldout=True)
    logps = iter_records(ReferenceRow, earlier.folder / REFERENCE_LOGPS)
    both = (
        ScoredPair(pair, row.demo_ref_logp, row.sample_ref_logp)
        for pair, row in zip(itertools.chain(pairs, heldout), logps, strict=True)
    )
    trained = RecordArrays(ScoredPair, itertools.islice(both, len(pairs)))
    return trained, RecordArrays(ScoredPair, both)


def pair_lengths(pairs: Sequence[Pair]) -> Numbers:
    """Tokens of each pair's prompt with its longer side."""
    lengths = (len(pair.prompt_ids) + max(len(pair.demo.ids), len(pair.sample.ids)) for pair in pairs)
    return np.fromiter(lengths, np.int64, len(pairs))


def pair_groups(pairs: Sequence[Pair]) -> Numbers:
    """The same number for pairs that follow each other and have one demonstration."""
    return _runs(((pair.prompt_ids, pair.demo.ids) for pair in pairs), len(pairs))


def size_groups(pairs: Sequence[RowSizes]) -> Numbers:
    """The same for pairs that are expected."""
    return _runs((pair.row for pair in pairs), len(pairs))


def _runs(names: Iterable[object], count: int) -> Numbers:
    runs = (run for run, (_, same) in enumerate(itertools.groupby(names)) for _ in same)
    return np.fromiter(runs, np.int64, count)


def plan_pairs(setup: Setup, lengths: Numbers, groups: Numbers, seed: int) -> MicrobatchPlan:
    """Micro-batches of a stage's pairs: the same when they are scored and when they are trained."""
    config = pairwise(setup)
    return config_microbatches(
        setup, lengths, groups=groups, epochs=config.epochs_per_stage, steps=config.steps_per_stage, seed=seed
    )


def heldout_units(setup: Setup, pairs: Sequence[Pair]) -> list[list[int]]:
    """Numbers of held-out pairs that are scored together: always the same, for bfloat16's sake."""
    return [*whole_groups(pair_groups(pairs), setup.config.per_device_train_batch_size)]


def expected_tokens(
    plan: StagePlan, pairs: Sequence[RowSizes], *, demo: bool = True, head: bool = True
) -> Sequence[Tokens]:
    """What each pair adds to a micro-batch: those that follow the first one of a row and micro-batch, their samples.

    Without `demo` the numbers of demonstrations are known.
    """

    def found() -> Iterator[Tokens]:
        for unit in whole_groups(size_groups(pairs), plan.setup.config.per_device_train_batch_size):
            before = None
            for row in (pairs[number] for number in unit):
                if row.row == before:
                    yield tokens_of_another(row.prompt, row.sample, plan.shared, head=head)
                elif demo:
                    yield tokens_of_pair(row, head=head)
                else:
                    yield tokens_of_responses(row.prompt, [row.sample], head=head)
                before = row.row

    return RecordArrays(Tokens, found())


def steps_of_all_stages(setup: Setup) -> int:
    """Optimizer steps of the whole run, as many as if no sample were its demonstration: known before any is drawn."""
    config, count = pairwise(setup), setup.samples_per_prompt
    rows = [len(stage_slice(setup, number)) for number in range(config.stages)]
    total = 0
    for number, own in enumerate(rows):
        groups = np.repeat(np.arange(own), count)
        if number:
            again, between = round(config.history * count * rows[number - 1]), round(config.interpolicy * len(groups))
            groups = np.concatenate([groups, own + np.arange(again) // count, np.arange(-between, 0)])
        total += plan_pairs(setup, np.zeros_like(groups), groups, seed=0).steps
    return total


def reference_is_start(setup: Setup, number: int) -> bool:
    """Whether the reference of stage `number` is the policy that the stage starts from."""
    return number == 0 or pairwise(setup).reference == "stage"
