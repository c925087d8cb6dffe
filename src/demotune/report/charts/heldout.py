"""Charts of held-out likelihood: by stage, and against what it cost."""

from collections.abc import Sequence
from dataclasses import dataclass

from demotune.report.charts.figures import DASHES, PALETTE, Chart, Line, label, legend_of, lines, log_x, table
from demotune.report.collect import Run
from demotune.report.gains import Gain, gain_of
from demotune.report.wording import NOTHING, duration, flops, interval, likelihood, number, time_unit

OPERATIONS = "operations (FLOP)"


@dataclass(frozen=True, slots=True)
class _Point:
    """A policy of a run on the held-out rows. `place` is 0 for the start model, 1 after stage 0, ..."""

    place: int
    name: str
    nll_per_token: float
    gain: Gain | None
    seconds: float
    operations: float | None


def heldout_chart(runs: Sequence[Run]) -> Chart | None:
    """Held-out log-likelihood per token before the run and after each stage; None where no run measured it."""
    series, rows = [], []
    for rank, run in enumerate(runs):
        points = _points(run)
        if not points:
            continue
        shift = 0.06 * (rank - (len(runs) - 1) / 2)  # intervals of several runs side by side
        series.append(
            _line(
                run,
                rank,
                points,
                [point.place + shift for point in points],
                low=[None if one.gain is None else one.gain.per_token_low - one.gain.per_token for one in points],
                high=[None if one.gain is None else one.gain.per_token_high - one.gain.per_token for one in points],
            )
        )
        rows += [(run.name, point.name, likelihood(point.nll_per_token), *_gained(point.gain)) for point in points]
    if not series:
        return None
    starts = {run.start_nll_per_token for run in runs}
    start = starts.pop() if len(starts) == 1 else None
    figure = lines(
        series,
        x_title="",
        y_title="nats a token",
        ticks=["start", *(f"stage {number}" for number in range(max(len(run.stages) for run in runs)))],
        level=None if start is None else -start,
    )
    return Chart(
        title="Held-out log-likelihood per token, by stage",
        note="Of demonstrations that were not trained on; higher is better. Bars are 95% intervals of the change since "
        "the run's start model, paired by prompt: a bar that crosses the start model's line shows no clear change.",
        figure=figure,
        legend=legend_of(series),
        table=table(["run", "policy", "nats a token", "change since start", "95% interval", "prompts"], rows, texts=2),
        wide=True,
    )


def cost_chart(runs: Sequence[Run]) -> Chart | None:
    """Held-out likelihood against what it cost: operations where all runs counted them, else time."""
    measured = [(run, points) for run in runs if (points := _points(run))]
    if not measured:
        return None
    counted = all(point.operations is not None for _, points in measured for point in points)
    unit, unit_name = time_unit(max(point.seconds for _, points in measured for point in points))
    series = [
        _line(run, rank, points, [(one.operations or 0.0) if counted else one.seconds / unit for one in points])
        for rank, (run, points) in enumerate(measured)
    ]
    rows = [
        (run.name, one.name, likelihood(one.nll_per_token), duration(one.seconds), flops(one.operations))
        for run, points in measured
        for one in points
    ]
    return Chart(
        title="Held-out log-likelihood against cost",
        note="One point a stage, left to right. Cost counts sampling, scoring and training, not the measuring, and not "
        "what the start model cost." + _stands_for_cost(counted),
        figure=lines(series, x_title=OPERATIONS if counted else unit_name, y_title="nats a token"),
        legend=legend_of(series),
        table=table(["run", "policy", "nats a token", "time", "operations"], rows, texts=2),
    )


def points_chart(points: Sequence[tuple[str, float | None, float, float, float, float]]) -> Chart:
    """Quality against cost of (label, operations, seconds, quality, low, high), one point a method."""
    counted = all(operations for _, operations, *_ in points)
    unit, unit_name = time_unit(max(seconds for _, _, seconds, *_ in points))
    x = [float(operations or 0) if counted else seconds / unit for _, operations, seconds, *_ in points]
    series = [
        Line(
            name=name,
            x=[at],
            y=[quality],
            hover=[f"{label(name)}<br>{number(quality)} ({interval(low, high)})"],
            colour=rank % len(PALETTE),
            low=[low],
            high=[high],
        )
        for rank, (at, (name, _, _, quality, low, high)) in enumerate(zip(x, points, strict=True))
    ]
    figure = lines(series, x_title=OPERATIONS if counted else unit_name, y_title="quality")
    rows = [
        (name, number(quality), interval(low, high), duration(seconds), flops(operations))
        for name, operations, seconds, quality, low, high in points
    ]
    return Chart(
        title="Quality against cost of the compared runs",
        note="Bars are 95% intervals." + _stands_for_cost(counted),
        figure=log_x(figure) if min(x) > 0 and max(x) > 30 * min(x) else figure,
        legend=legend_of(series),
        table=table(["run", "quality", "95% interval", "time", "operations"], rows),
    )


def _points(run: Run) -> list[_Point]:
    """The start model where it was measured, then each stage that was."""
    start = run.start_nll_per_token
    found = [] if start is None else [_Point(0, "start model", start, None, 0.0, 0.0)]
    return found + [
        _Point(
            place=stage.number + 1,
            name=f"stage {stage.number}",
            nll_per_token=stage.check.nll_per_token,
            gain=gain_of(run, stage.number),
            seconds=run.seconds(stage.number),
            operations=run.flops(stage.number),
        )
        for stage in run.stages
        if stage.check.nll_per_token is not None
    ]


def _line(
    run: Run,
    rank: int,
    points: Sequence[_Point],
    x: Sequence[float],
    *,
    low: Sequence[float | None] | None = None,
    high: Sequence[float | None] | None = None,
) -> Line:
    """A run's log-likelihoods; `low` and `high` are distances from them."""
    y = [-point.nll_per_token for point in points]
    return Line(
        name=run.name,
        x=x,
        y=y,
        hover=[f"{label(run.name)}, {one.name}<br>{likelihood(one.nll_per_token)} nats a token" for one in points],
        colour=rank % len(PALETTE),
        dash=DASHES[rank % len(DASHES)],
        low=None if low is None else [None if end is None else at + end for at, end in zip(y, low, strict=True)],
        high=None if high is None else [None if end is None else at + end for at, end in zip(y, high, strict=True)],
    )


def _gained(gain: Gain | None) -> tuple[str, str, str]:
    if gain is None:
        return NOTHING, NOTHING, NOTHING
    ends = interval(gain.per_token_low, gain.per_token_high, signed=True)
    return number(gain.per_token, signed=True), ends, str(gain.prompts)


def _stands_for_cost(counted: bool) -> str:
    return "" if counted else " Time stands for cost, because not every run counted its tokens."
