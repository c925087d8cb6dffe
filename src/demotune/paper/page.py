"""The page of an artefact: its record in, one HTML file out, without a script and without a network."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from demotune.common.files import publish_file, shipped_text
from demotune.paper.record import ArtefactRecord, Chart, Point
from demotune.report.wording import number, share

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 360, 220, 54, 12, 10, 34
"""Of a chart with lines, and the margins around its axes."""
SHARE = "share"
"""The unit of what lies between 0 and 1."""
MARGIN = 0.06
"""Left free at both ends of a scale."""


@dataclass(frozen=True, slots=True)
class Row:
    """An interval on a bar, in percent of its width."""

    name: str
    shown: str
    at: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Mark:
    """A point of a line with its whisker, in the chart's units of length."""

    x: float
    y: float
    low: float
    high: float
    shown: str


@dataclass(frozen=True, slots=True)
class Drawn:
    """A chart ready to be drawn."""

    chart: Chart
    rows: tuple[Row, ...]
    level: float | None
    lines: tuple[tuple[str, tuple[Mark, ...], str], ...]
    """Name, marks, and the path through them."""
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]


def write_page(folder: Path, record: ArtefactRecord) -> Path:
    """ARTEFACT.html beside the numbers."""
    page = folder / f"{record.artefact}.html"
    with publish_file(page) as unfinished:
        unfinished.write_text(render(record), encoding="utf-8")
    return page


def render(record: ArtefactRecord) -> str:
    """The page as text; all of the record's texts are escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(shipped_text("demotune.paper", "page.html.jinja")).render(
        record=record,
        charts=[draw(chart) for chart in record.charts],
        style=Markup(shipped_text("demotune.report", "page.css") + shipped_text("demotune.paper", "page.css")),
        width=WIDTH, height=HEIGHT, left=LEFT, right=WIDTH - RIGHT, top=TOP, bottom=HEIGHT - BOTTOM,
    )  # fmt: skip


def draw(chart: Chart) -> Drawn:
    """Where everything is; the scale holds all ends of intervals and the level."""
    points = [point for series in chart.series for point in series.points]
    low, high = (0.0, 1.0) if chart.unit == SHARE else _scale(points, chart.level)
    along = Scale(low, high, 0.0, 100.0)
    if chart.kind == "intervals":
        rows = tuple(
            Row(series.name, shown(point, chart.unit), along(point.value), *_ends(point, along))
            for series in chart.series
            for point in series.points
        )
        return Drawn(chart, rows, None if chart.level is None else along(chart.level), (), (), ())
    up = Scale(low, high, HEIGHT - BOTTOM, TOP)
    stages = sorted({point.at for point in points})
    across = Scale(stages[0] - 0.2, stages[-1] + 0.2, LEFT, WIDTH - RIGHT)
    lines = tuple(
        (series.name, marks := _marks(series.points, across, up, rank, chart.unit), _path(marks))
        for rank, series in enumerate(chart.series)
    )
    x_ticks = tuple((across(stage), f"{stage:g}") for stage in stages)
    y_ticks = tuple((up(value), name) for value, name in ticks(low, high, chart.unit))
    return Drawn(chart, (), None if chart.level is None else up(chart.level), lines, x_ticks, y_ticks)


@dataclass(frozen=True, slots=True)
class Scale:
    """Numbers to places, linearly."""

    low: float
    high: float
    first: float
    last: float

    def __call__(self, value: float) -> float:
        return round(self.first + (value - self.low) / (self.high - self.low) * (self.last - self.first), 2)


def shown(point: Point, unit: str) -> str:
    """1.2 [0.8, 1.6] nats."""
    ends = "" if point.low is None or point.high is None else f" [{number(point.low)}, {number(point.high)}]"
    return f"{number(point.value)}{ends} {unit}"


def _scale(points: Sequence[Point], level: float | None) -> tuple[float, float]:
    ends = [end for point in points for end in (point.value, point.low, point.high) if end is not None]
    ends += [] if level is None else [level]
    low, high = min(ends), max(ends)
    margin = MARGIN * (high - low) or 0.5
    return low - margin, high + margin


def _ends(point: Point, place: Scale) -> tuple[float | None, float | None]:
    return (None, None) if point.low is None or point.high is None else (place(point.low), place(point.high))


def _marks(points: Sequence[Point], across: Scale, up: Scale, rank: int, unit: str) -> tuple[Mark, ...]:
    """A few units apart, so that whiskers of two lines are seen."""
    found = []
    for point in points:
        low, high = _ends(point, up)
        y = up(point.value)
        found.append(
            Mark(
                across(point.at) + 5 * rank,
                y,
                y if low is None else low,
                y if high is None else high,
                shown(point, unit),
            )
        )
    return tuple(found)


def _path(marks: Sequence[Mark]) -> str:
    return " ".join(f"{'L' if place else 'M'}{mark.x:g} {mark.y:g}" for place, mark in enumerate(marks))


def ticks(low: float, high: float, unit: str) -> list[tuple[float, str]]:
    """Round numbers of one step inside a scale, about five of them, and how they are written."""
    wanted = (high - low) / 4
    power = math.floor(math.log10(wanted))
    step = min((times * 10.0**power for times in (1, 2, 5, 10)), key=lambda step: abs(step - wanted))
    digits = max(0, -math.floor(math.log10(step)))
    values = [count * step for count in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return [(value, share(value) if unit == SHARE else f"{value:.{digits}f}".replace("-", "−")) for value in values]
