"""Charts of held-out likelihood: by stage, and against what it cost."""

from collections.abc import Sequence
from dataclasses import dataclass

from demotune.common.amounts import flops
from demotune.report.charts.figures import Chart, Line, label, legend_of, lines
from demotune.report.charts.stages import places_of, shift_of
from demotune.report.comparison_text import CostPoint
from demotune.report.gains import Gain, gain_of
from demotune.report.tables import table
from demotune.report.wording import NOTHING, bounds, duration, likelihood, number
from demotune.runs.file_names import stage_title
from demotune.runs.run import Run

OPERATIONS = "operations (FLOP)"


@dataclass(frozen=True, slots=True)
class _Point:
    """A policy of a run on the held-out rows. `place` is 0 for the start model, 1 after the first stage, ..."""

    place: int
    name: str
    nll_per_token: float
    gain: Gain | None
    seconds: float
    operations: float


def heldout_chart(runs: Sequence[Run]) -> Chart | None:
    """Held-out log-likelihood per token before the run and after each stage; None where no run measured it."""
    measured = _measured(runs)
    if not measured:
        return None
    series = [
        _line(run, rank, points, [one.place + shift_of(rank, runs) for one in points], errors=True)
        for rank, run, points in measured
    ]
    rows = [
        (run.name, one.name, likelihood(one.nll_per_token), *_gain_cells(one.gain))
        for _, run, points in measured
        for one in points
    ]
    starts = {points[0].nll_per_token for _, _, points in measured}
    return Chart(
        title="Held-out log-likelihood per token, by stage",
        note="Of demonstrations that were not trained on; higher is better. Bars are 95% intervals of the change since "
        "the run's start model, paired by prompt: a bar that crosses the start model's line shows no clear change.",
        figure=lines(
            series,
            x_title="",
            y_title="nats a token",
            ticks=places_of(runs),
            level=-starts.pop() if len(starts) == 1 else None,
        ),
        legend=legend_of(series),
        table=table(["run", "policy", "nats a token", "change since start", "95% interval", "prompts"], rows, texts=2),
        wide=True,
    )


def cost_chart(runs: Sequence[Run]) -> Chart | None:
    """Held-out likelihood against the operations that it took; None where no run measured it."""
    measured = _measured(runs)
    if not measured:
        return None
    series = [_line(run, rank, points, [one.operations for one in points]) for rank, run, points in measured]
    rows = [
        (run.name, one.name, likelihood(one.nll_per_token), duration(one.seconds), flops(one.operations))
        for _, run, points in measured
        for one in points
    ]
    return Chart(
        title="Held-out log-likelihood against cost",
        note="One point a stage, left to right. Cost counts sampling, scoring and training, not the measuring, and not "
        "what the start model cost.",
        figure=lines(series, x_title=OPERATIONS, y_title="nats a token"),
        legend=legend_of(series),
        table=table(["run", "policy", "nats a token", "wall-clock time", "operations"], rows, texts=2),
    )


def points_chart(points: Sequence[CostPoint]) -> Chart:
    """Quality against operations, one point a setting."""
    series = [
        Line(
            name=one.setting,
            x=[one.operations],
            y=[one.quality.value],
            hover=[f"{label(one.setting)}<br>{number(one.quality.value)} ({bounds(one.quality)})"],
            colour=rank,
            errors=[one.quality],
        )
        for rank, one in enumerate(points)
    ]
    operations = [one.operations for one in points]
    rows = [
        (one.setting, number(one.quality.value), bounds(one.quality), duration(one.seconds), flops(one.operations))
        for one in points
    ]
    wide_range = min(operations) > 0 and max(operations) > 30 * min(operations)
    return Chart(
        title="Quality against cost of the compared runs",
        note="Bars are 95% intervals.",
        figure=lines(series, x_title=OPERATIONS, y_title="quality", log_x=wide_range),
        legend=legend_of(series),
        table=table(["run", "quality", "95% interval", "wall-clock time", "operations"], rows),
    )


def _measured(runs: Sequence[Run]) -> list[tuple[int, Run, list[_Point]]]:
    """(rank, run, points) of the runs that held rows out."""
    return [(rank, run, points) for rank, run in enumerate(runs) if (points := _points(run))]


def _points(run: Run) -> list[_Point]:
    """The start model, then each stage; nothing where no rows were held out."""
    start = run.start_nll_per_token
    found = [] if start is None else [_Point(0, "start model", start, None, 0.0, 0.0)]
    return found + [
        _Point(
            place=stage.number + 1,
            name=stage_title(stage.number),
            nll_per_token=stage.check.nll_per_token,
            gain=gain_of(run, stage.number),
            seconds=run.cost_until(stage.number).seconds,
            operations=run.cost_until(stage.number).flops,
        )
        for stage in run.stages
        if stage.check.nll_per_token is not None
    ]


def _line(run: Run, rank: int, points: Sequence[_Point], x: Sequence[float], *, errors: bool = False) -> Line:
    return Line(
        name=run.name,
        x=x,
        y=[-point.nll_per_token for point in points],
        hover=[f"{label(run.name)}, {one.name}<br>{likelihood(one.nll_per_token)} nats a token" for one in points],
        colour=rank,
        dash=rank,
        errors=[one.gain.per_token if one.gain else None for one in points] if errors else (),
    )


def _gain_cells(gain: Gain | None) -> tuple[str, str, str]:
    if gain is None:
        return NOTHING, NOTHING, NOTHING
    return number(gain.per_token.value, signed=True), bounds(gain.per_token, signed=True), str(gain.prompts)
