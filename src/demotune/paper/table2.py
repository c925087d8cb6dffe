"""Table 2: memory and time of each method, from the records of its runs."""

from collections.abc import Callable, Sequence
from statistics import fmean

from demotune.common.amounts import flops, plural
from demotune.paper.making import Artefact, Found, Making, title_of
from demotune.paper.record import Cell, Chart, Grid, Point, Series, grid, text
from demotune.paper.reported import TABLE2
from demotune.report.wording import duration, memory
from demotune.runs.costs import MEASURING
from demotune.runs.run import Run, load_run
from demotune.sweep.trials import Trial

KINDS = ("sft", "spin", "irft", "rft")
GENERATING = ("sample",)
PAPER = {"sft": "1 SFT", "spin": "1 SFT + generating", "irft": "1 SFT + generating", "rft": "2 SFT + generating"}
LOADED = (
    "Seconds are of this machine, with whatever else it did at the time. Operations, which follow from token "
    "counts, do not depend on that."
)


def measure(making: Making) -> Found:
    settings = making.settings(KINDS)
    runs = {title_of(trials[0]): [load_run(trial.folder) for trial in trials] for trials in settings}
    sft = next(iter(runs.values()))
    warnings = [LOADED]
    if making.config.size == "tiny":
        warnings.append("At size tiny most of a phase is its start; what a method costs shows at larger sizes.")
    return Found(
        answer=_answer(runs),
        warnings=tuple(warnings),
        charts=(
            Chart("intervals", "Time relative to more SFT", "times", _relative(runs, seconds), 1.0,
                  "Mean over seeds; the bar is from the least to the most seed, no confidence interval."),
            Chart("intervals", "Operations relative to more SFT", "times", _relative(runs, operations), 1.0,
                  "2 per parameter and token forward, 4 more backward."),
        ),
        grids=(_table(settings, runs, sft), _phases(runs)),
        leaks=("Nothing is judged on test rows here.",),
        limits=(
            f"{plural(len(making.size.seeds), 'seed')}: bars reach from the least to the most, and are no intervals.",
            "The paper's seconds and gigabytes are not known to us, so only the ratios are beside ours.",
            "More SFT takes twice the epochs of SPIN and IRFT, whose pairs have two sides: per epoch SFT is cheaper.",
        ),
    )  # fmt: skip


def seconds(run: Run) -> float:
    return run.cost.seconds


def operations(run: Run) -> float:
    return run.cost.flops


def _answer(runs: dict[str, list[Run]]) -> str:
    (_, sft), *others = runs.items()
    base, work = fmean(map(seconds, sft)), fmean(map(operations, sft))
    parts = [
        f"{title} takes {fmean(map(seconds, own)) / base:.1f} times the time and "
        f"{fmean(map(operations, own)) / work:.1f} times the operations"
        for title, own in others
    ]
    return "Beside more SFT, of twice the epochs, " + "; ".join(parts) + "."


def _relative(runs: dict[str, list[Run]], of: Callable[[Run], float]) -> tuple[Series, ...]:
    base = fmean(map(of, next(iter(runs.values()))))
    found = []
    for title, own in runs.items():
        values = [of(run) / base for run in own]
        found.append(Series(title, (Point(0, fmean(values), min(values), max(values)),)))
    return tuple(found)


def _table(settings: Sequence[Sequence[Trial]], runs: dict[str, list[Run]], sft: list[Run]) -> Grid:
    rows = []
    for trials, (title, own) in zip(settings, runs.items(), strict=True):
        peak = max(run.peak_memory_gib for run in own)
        spent, drawn = fmean(map(seconds, own)), fmean(_of_phases(run, GENERATING) for run in own)
        ratio = spent / fmean(map(seconds, sft))
        rows.append(
            [text(title), Cell(memory(peak), peak), Cell(duration(spent), spent), Cell(duration(drawn), drawn),
             Cell(f"{ratio:.2f}", ratio), Cell(flops(fmean(map(operations, own))), fmean(map(operations, own))),
             text(PAPER[trials[0].config.method])]
        )  # fmt: skip
    headings = ["method", "peak memory", "time", "of it generating", "times SFT's", "operations", "time in the paper"]
    note = "Means over seeds; memory: the largest, all phases. Held-out checks are left out of time and operations."
    return grid("Memory and time", headings, rows, note=note)


def _phases(runs: dict[str, list[Run]]) -> Grid:
    """Seconds of each phase, mean over seeds, all stages together."""
    names = list(
        dict.fromkeys(
            phase.name for own in runs.values() for run in own for stage in run.stages for phase in stage.phases
        )
    )
    names = [name for name in names if name not in MEASURING]
    rows = []
    for title, own in runs.items():
        spent = [fmean(_of_phases(run, (name,)) for run in own) for name in names]
        rows.append([text(title), *(Cell(duration(one) if one else "–", one) for one in spent)])
    return grid("Time of each phase", ["method", *names], rows)


def _of_phases(run: Run, names: Sequence[str]) -> float:
    return sum(phase.seconds for stage in run.stages for phase in stage.phases if phase.name in names)


TABLE = Artefact(
    "table2", "Table 2: memory and time of each method", "hh", KINDS, ("model", "data", "reward_model"), TABLE2, measure
)
