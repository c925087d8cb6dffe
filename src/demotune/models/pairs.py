"""Pairs as a batch: the demonstrations, then the samples, each prompt once. Scoring and training share this layout."""

from collections.abc import Sequence

from demotune.models.packing import Batch, pack
from demotune.records import Pair, Side


def packed_tokens(pair: Pair) -> int:
    """Tokens of a pair whose sides share their prompt."""
    return len(pair.prompt_ids) + len(pair.demo.ids) + len(pair.sample.ids)


def pair_batch(pairs: Sequence[Pair]) -> Batch:
    """B pairs as 2B responses: the demonstrations, then the samples. Scoring and training share this layout."""
    return pack_sides(pair_sides(pairs))


def pair_sides(pairs: Sequence[Pair]) -> list[Side]:
    """The demonstrations of all pairs, then the samples."""
    both = [pair.sides for pair in pairs]
    return [demo for demo, _ in both] + [sample for _, sample in both]


def pack_sides(sides: Sequence[Side]) -> Batch:
    return pack([prompt for prompt, _ in sides], [response for _, response in sides])
