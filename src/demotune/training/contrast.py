"""The two sides that a reward learns to separate: demonstrations or SFT samples, and samples of other models."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from demotune.common.json_records import read_records
from demotune.config.methods import AnyConfig
from demotune.records import Pair, RenderedDemonstration, Response
from demotune.runs.file_names import CONTRAST
from demotune.runs.rows import ContrastRow
from demotune.training.pairs import sampled_pairs
from demotune.training.setup import Setup
from demotune.training.stage import Stage, stage_slice, with_reward
from demotune.training.work_plan import RowSizes, StagePlan

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
        return () if source == "start" else (*stage_slice(setup, 0), *setup.heldout)
    return () if setup.config.slices == "all" else stage_slice(setup, number)


def contrast_pairs(stage: Stage, heldout: bool) -> list[Pair]:
    """The stage's pairs (what is to be preferred, another response), row by row; one for each negative."""
    setup, config = stage.setup, with_reward(stage.setup)
    own = sampled_pairs(setup, stage.number, heldout)
    samples = {source: _samples_of(stage, source) for source in sources_of(config)}
    if not samples:
        return own
    drawn: dict[str, list[Response]] = {}
    for pair in own:
        drawn.setdefault(pair.key, []).append(pair.sample)
    pairs: list[Pair] = []
    for row in setup.heldout if heldout else stage_slice(setup, stage.number):
        positive = row.demo if config.reward_positives == "demonstrations" else samples["start"].get(row.key)
        if positive is not None:
            negatives = _negatives(row.key, _distinct_sources(config.reward_negatives, stage.number), drawn, samples)
            pairs += [
                Pair(row.key, row.prompt_ids, positive, negative)
                for negative in negatives
                if negative.ids != positive.ids  # such a pair has no gradient
            ]
    return pairs


def expected_pairs_of(plan: StagePlan, rows: Sequence[RowSizes]) -> list[RowSizes]:
    """The sizes of the same pairs, before anything is sampled."""
    config = with_reward(plan.setup)
    if config.reward_positives == "start":
        rows = [replace(row, demo=round(row.sample)) for row in rows]
    sources = _distinct_sources(config.reward_negatives, plan.number)
    each = sum(plan.setup.samples_per_prompt if source == "policy" else 1 for source in sources)
    return [row for row in rows for _ in range(each)]


def _distinct_sources(sources: Sequence[str], number: int) -> list[str]:
    """In the first stage the policy is the start model."""
    return [source for source in sources if number or source != "start" or "policy" not in sources]


def _negatives(
    key: str,
    sources: Sequence[str],
    drawn: Mapping[str, Sequence[Response]],
    samples: Mapping[Source, Mapping[str, Response]],
) -> list[Response]:
    found: list[Response] = []
    for source in sources:
        if source == "policy":
            found += drawn.get(key, ())
        elif (sample := samples["start" if source == "start" else "base"].get(key)) is not None:
            found.append(sample)
    return found


def _samples_of(stage: Stage, source: Source) -> dict[str, Response]:
    """Key of a row -> the answer of this model: drawn in this stage, in the first one, or as the first one's policy."""
    found: dict[str, Response] = {}
    if source == "start":
        for heldout in (False, True):
            for pair in sampled_pairs(stage.setup, 0, heldout):
                found.setdefault(pair.key, pair.sample)
    for number in sorted({0, stage.number}):
        rows = read_records(ContrastRow, stage.setup.folder.stage(number) / CONTRAST)
        found |= {row.key: Response(row.sample_ids, row.finished) for row in rows if row.source == source}
    return found
