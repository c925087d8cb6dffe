"""Pairs that can teach a reward: a pair whose sides are equal has no gradient, and counts as a tie when held out."""

from collections import Counter
from collections.abc import Mapping, Sequence
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


def missing_samples(pairs: Sequence[Pair], samples_per_prompt: int) -> dict[str, int]:
    """Key of a row -> how many samples to draw again, so that it has `samples_per_prompt` pairs whose sides differ.

    Rows that lack none are left out. A policy that has learned a row may write its demonstration every time: bound the
    number of rounds.
    """
    differing = Counter(pair.key for pair in select_pairs(pairs).pairs)
    missing = {pair.key: samples_per_prompt - differing[pair.key] for pair in pairs}
    return {key: count for key, count in missing.items() if count > 0}


def add_samples(pairs: Sequence[Pair], again: Mapping[str, Sequence[Pair]], samples_per_prompt: int) -> list[Pair]:
    """The pairs with those drawn again: of each row the first `samples_per_prompt` whose sides differ.

    A row whose samples are all equal to its demonstration keeps none. Rows stay in their order.
    """
    rows: dict[str, list[Pair]] = {}
    for pair in pairs:
        rows.setdefault(pair.key, []).append(pair)
    return [
        pair
        for key, own in rows.items()
        for pair in select_pairs([*own, *again.get(key, ())]).pairs[:samples_per_prompt]
    ]
