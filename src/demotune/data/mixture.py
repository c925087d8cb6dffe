"""Sources mixed by weights, without repeating a row."""

import math
import random
from collections.abc import Sequence
from fractions import Fraction

from demotune.common.errors import DemotuneError


def mixture(sources: Sequence[str], good: Sequence[int], weights: Sequence[float], seed: int) -> list[list[int]]:
    """Which of the `good` rows of each source make the largest choice whose sizes are proportional to the weights.

    To the nearest row; places of rows, in their order.
    """
    shares = [Fraction(str(weight)) for weight in weights]  # 0.1 means one tenth, not the nearest binary number
    rows_per_share = min(count / share for count, share in zip(good, shares, strict=True))
    sizes = [math.floor(share * rows_per_share + Fraction(1, 2)) for share in shares]
    if 0 in sizes:
        source = min(zip(sizes, good, sources, strict=True))[-1]
        raise DemotuneError(
            f"weights {list(weights)} leave no row of {source} (good rows: {list(good)}); "
            "give it a larger weight or leave it out"
        )
    return [
        sorted(random.Random(f"mixture {seed} {index}").sample(range(count), size))
        for index, (count, size) in enumerate(zip(good, sizes, strict=True))
    ]
