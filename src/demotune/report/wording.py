"""Numbers as text."""

import math

from demotune.common.statistics import TOO_FEW, Interval
from demotune.runs.file_names import stage_title

NOTHING = "–"


def number(value: float | None, *, signed: bool = False) -> str:
    """Three significant digits or so: 0.0412, 3.07, 152; an en dash for nothing."""
    if value is None or math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    if size >= 1e6 or 0 < size < 1e-4:
        text = f"{value:.2e}"
    else:
        small = max(3, -math.floor(math.log10(size))) if size else 3
        digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else small
        text = f"{value:,.{digits}f}"
    return (f"+{text}" if signed and value > 0 else text).replace("-", "−")


def likelihood(nll_per_token: float) -> str:
    """Log-likelihood per token with three decimals, so that small changes show: 1.7590 -> −1.759."""
    return f"{-nll_per_token:.3f}".replace("-", "−")


def share(value: float | None) -> str:
    """0.614 -> 61%."""
    return NOTHING if value is None or math.isnan(value) else f"{value:.0%}"


def bounds(of: Interval | None, *, signed: bool = False, percent: bool = False) -> str:
    """The ends of an interval: 1.2 to 3.4; 54% to 68%; without ends, too few rows to tell."""
    if of is None or not (math.isfinite(of.low) and math.isfinite(of.high)):
        return TOO_FEW
    low, high = (share(end) if percent else number(end, signed=signed) for end in (of.low, of.high))
    return f"{low} to {high}"


def duration(seconds: float) -> str:
    """9.4 s, 7 min 34 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    big, small = (f"{minutes} min", f"{rest} s") if minutes < 60 else (f"{minutes // 60} h", f"{minutes % 60} min")
    return big if small.startswith("0 ") else f"{big} {small}"


def time_unit(longest: float) -> tuple[float, str]:
    """Seconds in the unit of an axis that reaches `longest` seconds, and the unit's name."""
    return (1.0, "seconds") if longest < 300 else (60.0, "minutes") if longest < 3 * 3600 else (3600.0, "hours")


def memory(gib: float) -> str:
    return f"{gib:.1f} GiB"


def stage_name(run: str, number: int, *, several: bool) -> str:
    """stage 1 of folder 00; where there are several runs, with the run's name."""
    return f"{run}, {stage_title(number)}" if several else stage_title(number)
