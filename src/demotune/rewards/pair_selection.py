"""Pairs that can teach a reward: a pair whose sides are equal has no gradient, and counts as a tie when held out."""

from collections.abc import Sequence
from dataclasses import dataclass

from demotune.records import Pair


@dataclass(frozen=True, slots=True)
class PairSelection:
    """Pairs whose sides differ, in their order, and how many had to go."""

    pairs: tuple[Pair, ...]
    equal: int

    @property
    def equal_share(self) -> float:
        """Share of all pairs whose sides are equal; 0 without pairs."""
        return self.equal / max(len(self.pairs) + self.equal, 1)


def select_pairs(pairs: Sequence[Pair]) -> PairSelection:
    """Drop each pair whose sample is its demonstration, token by token."""
    kept = tuple(pair for pair in pairs if pair.demo.ids != pair.sample.ids)
    return PairSelection(kept, len(pairs) - len(kept))
