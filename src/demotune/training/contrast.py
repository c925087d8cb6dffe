"""The two sides that a reward learns to separate: demonstrations or SFT samples, and samples of other models."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from demotune.common.json_records import iter_records
from demotune.common.record_arrays import RecordArrays
from demotune.common.sequences import Joined, Mapped
from demotune.config.methods import AnyConfig, RFTConfig
from demotune.records import Pair, RenderedDemonstration, Response
from demotune.rewards.answer_only import equal_answers, pairs_of_answers, thought_tokens, with_thoughts
from demotune.runs.file_names import CONTRAST
from demotune.runs.rows import ContrastRow
from demotune.training.by_key import ByKey
from demotune.training.pairs import sampled_pairs
from demotune.training.setup import Setup
from demotune.training.stage import Stage, stage_slice, with_reward
from demotune.training.work_plan import RowSizes, StagePlan


@dataclass(frozen=True, slots=True)
class LearnedPairs:
    """Pairs as a reward reads them: with `answer_after` the answers."""

    pairs: Sequence[Pair]
    every: int
    """How many there were before some were left out."""
    equal: int
    """Left out because their sides are equal."""

    @property
    def unfinished(self) -> int:
        """Left out because a side was cut off, or has no answer."""
        return self.every - self.equal - len(self.pairs)


Source = Literal["start", "base"]
"""A model that answers besides the stage's policy: the run's start model, and the one before SFT."""


def sources_of(config: AnyConfig) -> list[Source]:
    """The models whose samples the reward learns from besides the policy's."""
    if config.learned_reward != "explicit":
        return []
    named = {config.reward_positives, *config.reward_negatives}
    return [source for source in ("start", "base") if source in named]


def rows_to_draw(setup: Setup, number: int, source: Source) -> Sequence[RenderedDemonstration]:
    """The rows of stage `number` that this model has not answered in an earlier stage, nor as its policy."""
    if number == 0:
        return () if source == "start" else Joined(stage_slice(setup, 0), setup.heldout)
    return () if setup.config.slices == "all" else stage_slice(setup, number)


def contrast_pairs(stage: Stage, heldout: bool) -> Sequence[Pair]:
    """The stage's pairs (what is to be preferred, another response), row by row; M for each negative.

    Of those with other models' samples some may be equal.
    """
    setup, config, marker = stage.setup, with_reward(stage.setup), stage.setup.answer_marker
    own = sampled_pairs(setup, stage.number, heldout)
    samples = {source: _samples_of(stage, source) for source in sources_of(config)}
    if not samples:
        return own
    drawn = ByKey((pair.key, pair.sample) for pair in own)
    sources = _distinct_sources(config.reward_negatives, stage.number)
    demonstrations = config.reward_positives == "demonstrations"

    def pairs() -> Iterator[Pair]:
        for row in setup.heldout if heldout else stage_slice(setup, stage.number):
            positive = row.demo if demonstrations else preferred_sample(samples["start"][row.key], setup)
            if positive is not None:
                for negative in _negatives(row.key, sources, drawn, samples):
                    yield with_thoughts(Pair(row.key, row.prompt_ids, positive, negative), marker)

    return RecordArrays(Pair, pairs())


def learned_pairs(setup: Setup, every: Sequence[Pair]) -> LearnedPairs:
    """Those of `contrast_pairs` that a reward may see: their sides differ and, with `finished_only`, are finished."""
    config, marker = with_reward(setup), setup.answer_marker
    differing = RecordArrays(Pair, (pair for pair in every if not equal_answers(pair, marker)))
    pairs = RecordArrays(Pair, (pair for pair in pairs_of_answers(differing, marker) if usable(pair, config)))
    return LearnedPairs(pairs, len(every), len(every) - len(differing))


def preferred_sample(drawn: Sequence[Response], setup: Setup) -> Response | None:
    """The start model's first response that may be preferred: with an answer and, with `finished_only`, an end."""
    marker, finished_only = setup.answer_marker, with_reward(setup).finished_only
    for one in drawn:
        if (one.finished or not finished_only) and (marker is None or thought_tokens(one.ids, marker) is not None):
            return one
    return None


def usable(pair: Pair, config: RFTConfig) -> bool:
    """Whether a reward may see both sides: a missing end token must not teach it."""
    return not config.finished_only or (pair.demo.finished and pair.sample.finished)


def expected_pairs_of(plan: StagePlan, rows: Sequence[RowSizes]) -> Sequence[RowSizes]:
    """The sizes of the same pairs, before anything is sampled."""
    config = with_reward(plan.setup)
    if config.reward_positives == "start":
        rows = Mapped(lambda row: replace(row, demo=round(row.sample)), rows)
    sources = _distinct_sources(config.reward_negatives, plan.number)
    each = plan.setup.samples_per_prompt * len(sources)
    return Mapped(lambda place: rows[place // each], range(len(rows) * each))


def _distinct_sources(sources: Sequence[str], number: int) -> list[str]:
    """In the first stage the policy is the start model."""
    return [source for source in sources if number or source != "start" or "policy" not in sources]


def _negatives(
    key: str,
    sources: Sequence[str],
    drawn: ByKey,
    samples: Mapping[Source, ByKey],
) -> Iterator[Response]:
    for source in sources:
        if source == "policy":
            yield from drawn[key]
        else:
            yield from samples["start" if source == "start" else "base"][key]


def _samples_of(stage: Stage, source: Source) -> ByKey:
    """The answers of this model, drawn in this stage, in the first one, or before them as the first one's policy."""

    def found() -> Iterator[tuple[str, Response]]:
        for heldout in (False, True) if source == "start" else ():
            yield from ((pair.key, pair.sample) for pair in sampled_pairs(stage.setup, 0, heldout))
        for number in sorted({0, stage.number}):
            for row in iter_records(ContrastRow, stage.setup.folder.stage(number) / CONTRAST):
                if row.source == source:
                    yield row.key, Response(row.sample_ids, row.finished)

    return ByKey(found())
