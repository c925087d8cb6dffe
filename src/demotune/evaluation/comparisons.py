"""Comparisons of two models as evaluation.json has them."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from demotune.common.statistics import Comparison as Found
from demotune.common.statistics import compare_wins, holm
from demotune.runs.evaluation import WIN_RATE, Comparison


@dataclass(frozen=True, slots=True)
class Compared:
    """What a comparison is about; the names are those of its record."""

    measure: str
    kind: str
    judge: str | None
    model: str
    baseline: str


def comparison(about: Compared, found: Found) -> Comparison:
    """The record; its p is not corrected yet."""
    return Comparison(
        **asdict(about),
        difference=found.difference.value,
        low=found.difference.low,
        high=found.difference.high,
        p=found.p,
        effect_size=found.effect_size,
        smallest_difference=found.smallest,
        items=found.items,
        test=found.test,
        p_corrected=None,
    )


def win_rate(judge: str, model: str, baseline: str, verdicts: Sequence[float]) -> Comparison:
    """The share of prompts on which the judge prefers `model`; a verdict is 1, 0.5 (tie) or 0."""
    return comparison(Compared(WIN_RATE, WIN_RATE, judge, model, baseline), compare_wins(verdicts))


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """All comparisons of one evaluation, their p-values corrected together by Holm's method."""
    ps = holm([math.nan if one.p is None else one.p for one in comparisons])
    return [replace(one, p_corrected=p) for one, p in zip(comparisons, ps, strict=True)]
