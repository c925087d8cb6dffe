"""Pairs that can teach a reward, and their sides.

A pair whose sides are equal has no gradient, and counts as a tie when held out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from demotune.records import Completion, Pair


@dataclass(frozen=True, slots=True)
class PairSelection:
    """Pairs whose sides differ, in their order, and how many had to go."""

    pairs: tuple[Pair, ...]
    equal: int


def select_pairs(pairs: Sequence[Pair]) -> PairSelection:
    """Drop each pair whose sample is its demonstration, token by token."""
    kept = tuple(pair for pair in pairs if not pair.equal)
    return PairSelection(kept, len(pairs) - len(kept))


def both_sides(pairs: Sequence[Pair]) -> list[Completion]:
    """The demonstrations, then the samples."""
    demos = [Completion(pair.prompt_ids, pair.demo) for pair in pairs]
    return demos + [Completion(pair.prompt_ids, pair.sample) for pair in pairs]


def distinct_sides(pairs: Sequence[Pair]) -> list[Completion]:
    """`both_sides`, each different one once."""
    return [*dict.fromkeys(both_sides(pairs))]
