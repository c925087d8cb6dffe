"""Numbers with 95% intervals, comparisons on the same prompts, several seeds, and many comparisons at once.

Each method was chosen by simulation: 4000 studies per case with 5 to 400 prompts, and values that are normal, skewed
(log-normal, exponential, mostly zero), heavy-tailed, tied or in clusters. The docstrings give the coverage that was
seen; benchmarks/coverage.py prints it, and the tests repeat the main cases. No method draws random numbers.
"""

from demotune.common.statistics.by_prompt import accuracy_by_prompt, mean_by_prompt, numbered, prompt_weights
from demotune.common.statistics.comparisons import Comparison, compare_paired, compare_ratio, compare_wins, holm
from demotune.common.statistics.contrasts import independent_difference, quotient_interval
from demotune.common.statistics.intervals import (
    FEWEST,
    TOO_FEW,
    Interval,
    mean_interval,
    ratio_interval,
    share_interval,
)
from demotune.common.statistics.power import prompts_for_share, prompts_for_win_rate
from demotune.common.statistics.seeds import compare_over_seeds, over_seeds, ranks

__all__ = [
    "FEWEST",
    "TOO_FEW",
    "Comparison",
    "Interval",
    "accuracy_by_prompt",
    "compare_over_seeds",
    "compare_paired",
    "compare_ratio",
    "compare_wins",
    "holm",
    "independent_difference",
    "mean_by_prompt",
    "mean_interval",
    "numbered",
    "over_seeds",
    "prompt_weights",
    "prompts_for_share",
    "prompts_for_win_rate",
    "quotient_interval",
    "ranks",
    "ratio_interval",
    "share_interval",
]
