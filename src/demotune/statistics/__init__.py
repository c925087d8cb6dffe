"""Numbers with 95% intervals, comparisons on the same prompts, several seeds, and many comparisons at once.

Each method was chosen by simulation: 1000 to 4000 studies per case with 30 to 400 prompts, and values that are normal,
skewed (log-normal, exponential, mostly zero) or heavy-tailed. The docstrings give the coverage that was seen; the tests
repeat the main cases.
"""

from demotune.statistics.comparisons import Comparison, compare_paired, compare_ratio, compare_wins, holm
from demotune.statistics.intervals import Interval, mean_interval, ratio_interval, share_interval
from demotune.statistics.seeds import Ranks, compare_over_seeds, over_seeds, ranks

__all__ = [
    "Comparison",
    "Interval",
    "Ranks",
    "compare_over_seeds",
    "compare_paired",
    "compare_ratio",
    "compare_wins",
    "holm",
    "mean_interval",
    "over_seeds",
    "ranks",
    "ratio_interval",
    "share_interval",
]
