"""How many prompts a difference needs, to be shown with 80% power at 5%."""

import math

from demotune.common.statistics.comparisons import POWER
from demotune.common.statistics.intervals import LEVEL


def prompts_for_win_rate(points: float, tied: float) -> int | None:
    """Prompts that show a win rate `points` above one half, 0 to 0.5, where a share `tied` of them is a tie.

    By a t test on verdicts of 1, 0.5 and 0 that vary as those of two equal models: by (1 - tied) / 4. None where all
    prompts are tied.
    """
    from statsmodels.stats.power import TTestPower  # noqa: PLC0415 (slow)

    spread = 0.5 * math.sqrt(1 - tied)
    if spread == 0:
        return None
    return math.ceil(float(TTestPower().solve_power(effect_size=points / spread, alpha=LEVEL, power=POWER)))


def prompts_for_share(share: float) -> int | None:
    """Prompts that tell a share of wins from one half; None where it is one half or less."""
    from statsmodels.stats.power import NormalIndPower  # noqa: PLC0415 (slow)
    from statsmodels.stats.proportion import proportion_effectsize  # noqa: PLC0415 (slow)

    if share <= 0.5:
        return None
    effect = float(proportion_effectsize(share, 0.5))
    found = NormalIndPower().solve_power(effect_size=effect, alpha=LEVEL, power=POWER, ratio=0)  # 0: of one sample
    return math.ceil(float(found))
