"""Sources mixed by weights, without repeating a row."""

import math
import random
from collections.abc import Sequence
from fractions import Fraction
from typing import TypeVar

from demotune.common.errors import DemotuneError

Row = TypeVar("Row")


def mixture(sources: Sequence[str], parts: Sequence[list[Row]], weights: Sequence[float], seed: int) -> list[list[Row]]:
    """The largest choice of rows with part sizes proportional to the weights, each to the nearest row."""
    shares = [Fraction(str(weight)) for weight in weights]  # 0.1 means one tenth, not the nearest binary number
    rows_per_share = min(len(part) / share for part, share in zip(parts, shares, strict=True))
    sizes = [math.floor(share * rows_per_share + Fraction(1, 2)) for share in shares]
    if 0 in sizes:
        source = min(zip(sizes, map(len, parts), sources, strict=True))[-1]
        raise DemotuneError(
            f"weights {list(weights)} leave no row of {source} (good rows: {[len(part) for part in parts]}); "
            "give it a larger weight or leave it out"
        )
    chosen = []
    for index, (part, size) in enumerate(zip(parts, sizes, strict=True)):
        rows = random.Random(f"mixture {seed} {index}").sample(range(len(part)), size)
        chosen.append([part[row] for row in sorted(rows)])
    return chosen
