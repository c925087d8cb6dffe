"""Amounts as text, in one way everywhere."""


def flops(value: float) -> str:
    """3.1 PFLOP; floating-point operations, not a speed."""
    for size, unit in ((1e18, "EFLOP"), (1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g} FLOP"


def plural(count: int, noun: str) -> str:
    """1 prompt, 1,000 prompts."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
