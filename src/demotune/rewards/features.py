"""Named numbers of a response that a program counts: what a small reward may look at, and what explains a large one."""

import math
from collections.abc import Callable, Mapping, Sequence

from demotune.common.diversity import distinct, repetition
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
    return math.log2(len(completion.response.ids))


FEATURES: Mapping[str, Feature] = {
    "finished": _finished,
    "repetition": _repetition,
    "distinct bigrams": _distinct_bigrams,
    "prompt overlap": _prompt_overlap,
    "log2 of length": _log_length,
}
WITHOUT_LENGTH = tuple(name for name in FEATURES if name != "log2 of length")
"""A reward that sees length finds it first; so it is to be asked for by name."""


def feature_table(completions: Sequence[Completion], names: Sequence[str]) -> list[list[float]]:
    """(N, F) the named features of each completion. Raises KeyError for an unknown name."""
    return [[FEATURES[name](completion) for name in names] for completion in completions]
