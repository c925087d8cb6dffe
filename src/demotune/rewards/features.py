"""Named numbers of a response that a program counts: what a small reward may look at, and what explains a large one."""

import math
from collections.abc import Callable, Mapping, Sequence

from demotune.common.diversity import distinct, repetition
from demotune.config.rft import FeatureName
from demotune.records import Completion

Feature = Callable[[Completion], float]


def _finished(completion: Completion) -> float:
    return float(completion.response.finished)


def _repetition(completion: Completion) -> float:
    return repetition(completion.response.ids)


def _distinct_bigrams(completion: Completion) -> float:
    return distinct([completion.response.ids])


def _prompt_overlap(completion: Completion) -> float:
    """Share of the prompt's different tokens that the response has too."""
    asked = set(completion.prompt_ids)
    return len(asked & set(completion.response.ids)) / len(asked)


def _log_length(completion: Completion) -> float:
    """log2 of the response's tokens."""
    return math.log2(len(completion.response.ids))


FEATURES: Mapping[FeatureName, Feature] = {
    "finished": _finished,
    "repetition": _repetition,
    "distinct_bigrams": _distinct_bigrams,
    "prompt_overlap": _prompt_overlap,
    "log_length": _log_length,
}
WITHOUT_LENGTH: tuple[FeatureName, ...] = tuple(name for name in FEATURES if name != "log_length")
"""A reward that sees length finds it first; so it is to be asked for by name."""


def feature_table(completions: Sequence[Completion], names: Sequence[FeatureName]) -> list[list[float]]:
    """(N, F) the named features of each completion."""
    return [[FEATURES[name](completion) for name in names] for completion in completions]
