"""How often 95% intervals hold the truth, by simulation: the table in docs/evaluation.md.

    python benchmarks/coverage.py            # about 4 minutes on one core
    python benchmarks/coverage.py --studies 400

A cell is the coverage in percent and, in brackets, that of Student's t alone on the same studies. Where a sample is too
small for an interval, only t is given. Two lines at the end give how often tests find what is not there.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from demotune.common.statistics import FEWEST, Interval, compare_paired, holm, mean_interval, ratio_interval

Numbers = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Numbers]

SIZES = (3, 4, 5, 6, 8, 10, 12, 20, 30, 50, 100, 400)
RATIO_SIZES = (5, 8, 12, 20, 30, 60, 100, 400)

MEANS: dict[str, tuple[Draw, float]] = {
    "normal": (lambda rng, n: rng.normal(size=n), 0),
    "heavy tails (t, 3 degrees of freedom)": (lambda rng, n: rng.standard_t(3, size=n), 0),
    "exponential": (lambda rng, n: rng.exponential(size=n), 1),
    "log-normal (sigma 1)": (lambda rng, n: rng.lognormal(size=n), np.exp(0.5)),
    "ties (0, 1, 2)": (lambda rng, n: rng.choice([0.0, 1.0, 2.0], p=[0.5, 0.3, 0.2], size=n), 0.7),
    "two clusters": (lambda rng, n: rng.choice([-1.0, 1.0], size=n) + 0.1 * rng.normal(size=n), 0),
    "half zeros": (lambda rng, n: (rng.random(n) < 0.5) * rng.exponential(size=n), 0.5),
    "80% zeros": (lambda rng, n: (rng.random(n) < 0.2) * rng.exponential(size=n), 0.2),
    "nearly equal, outliers (20%)": (lambda rng, n: 0.01 * rng.normal(size=n) + (rng.random(n) < 0.2), 0.2),
}
RATIOS: dict[str, tuple[float, Draw, float]] = {
    "ratio, normal": (0.7, lambda rng, n: rng.normal(-2, 0.4, size=n), -2),
    "ratio, exponential": (0.7, lambda rng, n: rng.exponential(size=n), 1),
    "ratio, normal, very unequal lengths": (1.2, lambda rng, n: rng.normal(-2, 0.4, size=n), -2),
    "ratio, exponential, very unequal lengths": (1.2, lambda rng, n: rng.exponential(size=n), 1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=4000)
    studies = parser.parse_args().studies
    _print_row("mean of", SIZES)
    _print_row("---", ["---"] * len(SIZES))
    for name, (draw, truth) in MEANS.items():
        _print_row(name, [_mean_cell(draw, truth, n, studies) for n in SIZES])
    print()
    _print_row("nats per token", RATIO_SIZES)
    _print_row("---", ["---"] * len(RATIO_SIZES))
    for name, (sigma, draw, truth) in RATIOS.items():
        _print_row(name, [_ratio_cell(sigma, draw, truth, n, studies) for n in RATIO_SIZES])
    print()
    for n in (40, 80, 150):
        print(f"six comparisons of 80% zeros, {n} prompts: {_holm_share(n, studies // 4):.1f}% of tables reject")


def _mean_cell(draw: Draw, truth: float, n: int, studies: int) -> str:
    rng = np.random.default_rng(n)
    ours: list[bool] = []
    students: list[bool] = []
    for _ in range(studies):
        values = draw(rng, n)
        if n >= FEWEST:
            ours.append(_holds(mean_interval(values.tolist()), truth))
        error = values.std(ddof=1) / np.sqrt(n)
        students.append(abs(values.mean() - truth) <= _student(n) * error + 1e-12)
    return _cell(ours, students)


def _ratio_cell(sigma: float, draw: Draw, truth: float, n: int, studies: int) -> str:
    """Rates of `draw`, on log-normal lengths around 55 tokens; t is by linearisation."""
    rng = np.random.default_rng(n)
    ours: list[bool] = []
    students: list[bool] = []
    for _ in range(studies):
        tokens = np.ceil(rng.lognormal(4, sigma, size=n))
        nats = tokens * draw(rng, n)
        ours.append(_holds(ratio_interval(nats.tolist(), tokens.tolist()), truth))
        ratio = nats.sum() / tokens.sum()
        error = (nats - ratio * tokens).std(ddof=1) / np.sqrt(n) / tokens.mean()
        students.append(abs(ratio - truth) <= _student(n) * error)
    return _cell(ours, students)


def _holm_share(n: int, studies: int) -> float:
    rng = np.random.default_rng(n)
    draw, truth = MEANS["80% zeros"]
    tables = [holm([compare_paired(draw(rng, n).tolist(), [truth] * n).p for _ in range(6)]) for _ in range(studies)]
    return 100 * float(np.mean([min(table) <= 0.05 for table in tables]))


def _holds(interval: Interval, truth: float) -> bool:
    return interval.low - 1e-12 <= truth <= interval.high + 1e-12


@cache
def _student(n: int) -> float:
    return float(stats.t.ppf(0.975, n - 1))


def _cell(ours: list[bool], students: list[bool]) -> str:
    alone = f"({100 * np.mean(students):.0f})"
    return f"{100 * np.mean(ours):.0f} {alone}" if ours else alone


def _print_row(name: str, cells: Sequence[object]) -> None:
    print(f"| {name} | {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
