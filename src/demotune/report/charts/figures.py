"""Charts: a figure as plotly's JSON, its legend and the table of its numbers.

Colours are the light theme's; page.js swaps each for the CSS variable of the same rank, so that a chart follows the
theme. Text of users goes through `label`: plotly reads some HTML in labels.
"""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from demotune.common.statistics import Interval
from demotune.report.tables import Table, table
from demotune.report.wording import bounds, number, share

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#767676")
"""Okabe and Ito's colours, which people with any colour vision can tell apart, and a grey."""
INK, MUTED, GRID = "#1B1F24", "#57606A", "#D8DEE4"
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star")
PATTERNS = ("", "/", "x", "-", "\\", ".", "+")
MOST_POINTS = 1000
LONGEST_LABEL = 52

Figure = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Legend:
    """The name of a series with the ranks of its colour and its dash."""

    name: str
    colour: int
    dash: int = 0


@dataclass(frozen=True, slots=True)
class Chart:
    """A figure with the text around it."""

    title: str
    note: str
    figure: Figure
    legend: tuple[Legend, ...]
    table: Table
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """One series; None in `y` breaks the line. The bar at a point has the widths of the interval in `errors`."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    hover: Sequence[str]
    colour: int
    dash: int = 0
    errors: Sequence[Interval | None] = ()


@dataclass(frozen=True, slots=True)
class Share:
    """One row of a chart of shares."""

    name: str
    share: Interval
    prompts: int
    colour: int


@dataclass(frozen=True, slots=True)
class Bar:
    """One phase of a stage on a time axis."""

    row: str
    phase: str
    start: float
    length: float
    hover: str


def colour(rank: int) -> str:
    return PALETTE[rank % len(PALETTE)]


def legend_of(series: Sequence[Line]) -> tuple[Legend, ...]:
    """The legend of lines."""
    return tuple(Legend(line.name, line.colour, line.dash) for line in series)


def label(text: str) -> str:
    """A user's text for a chart: short, and without anything that plotly would read as HTML."""
    short = text if len(text) <= LONGEST_LABEL else text[: LONGEST_LABEL - 1] + "…"
    return html.escape(short)


def thin(count: int, most: int) -> range:
    """Indices of at most `most` of `count` things, evenly spaced."""
    return range(0, count, max(1, math.ceil(count / most)))


def lines(
    series: Sequence[Line],
    *,
    x_title: str,
    y_title: str,
    ticks: Sequence[str] = (),
    level: float | None = None,
    breaks: Sequence[float] = (),
    log_x: bool = False,
) -> Figure:
    """Lines with markers that differ in colour, dash and symbol; `level` and `breaks` are drawn as thin lines."""
    traces = []
    for rank, line in enumerate(series):
        keep = thin(len(line.x), MOST_POINTS)
        look = {"color": colour(line.colour)}
        trace = _trace(
            line.name,
            [line.hover[at] for at in keep],
            x=[line.x[at] for at in keep],
            y=[line.y[at] for at in keep],
            mode="lines+markers" if len(keep) <= 60 else "lines",
            line=look | {"dash": DASHES[line.dash % len(DASHES)], "width": 2.2},
            marker=look | {"symbol": SYMBOLS[rank % len(SYMBOLS)], "size": 7},
        )
        if line.errors:
            trace["error_y"] = _error_bars([line.errors[at] for at in keep], line.colour, thickness=1.6, width=5)
        traces.append(trace)
    figure = _figure(traces, x_title, y_title)
    x_axis = figure["layout"]["xaxis"]
    if ticks:
        x_axis |= {"tickvals": list(range(len(ticks))), "ticktext": [label(tick) for tick in ticks]}
        x_axis["range"] = [-0.3, len(ticks) - 0.7]
    if log_x:
        x_axis["type"] = "log"
    levels = [] if level is None else [_line_across("y", level)]
    figure["layout"]["shapes"] = levels + [_line_across("x", at) for at in breaks]
    return figure


def histogram(series: Sequence[tuple[str, Sequence[float]]], *, x_title: str) -> tuple[Figure, Table]:
    """Counts in shared bins, one outline a series (the first one filled), and their table."""
    edges = _edges([value for _, values in series for value in values])
    counts = [np.histogram(values, edges)[0].tolist() for _, values in series]
    spans = [f"{number(low)} to {number(high)}" for low, high in pairwise(edges)]
    traces = []
    for rank, ((name, _), found) in enumerate(zip(series, counts, strict=True)):
        hover = [f"{label(name)}<br>{span}: {count}" for span, count in zip(spans, found, strict=True)]
        traces.append(
            _trace(
                name,
                [*hover, hover[-1]],
                x=edges,
                y=[*found, found[-1]],
                mode="lines",
                fill="tozeroy" if rank == 0 else "none",
                line={"color": colour(rank), "dash": DASHES[rank % len(DASHES)], "width": 2, "shape": "hv"},
            )
        )
    figure = _figure(traces, x_title, "pairs")
    figure["layout"]["yaxis"]["rangemode"] = "tozero"
    figure["layout"]["shapes"] = [_line_across("x", 0)]
    bins = [(span, *(str(found[at]) for found in counts)) for at, span in enumerate(spans)]
    return figure, table(["from, to", *(name for name, _ in series)], bins)


def shares(rows: Sequence[Share]) -> Figure:
    """One row a share, its name above it, so that long names fit a phone; the line is at one half."""
    traces, names = [], []
    for place, row in zip(reversed(range(len(rows))), rows, strict=True):
        text = f"{share(row.share.value)} ({bounds(row.share, percent=True)}), {row.prompts} prompts"
        look = {"size": 11, "color": colour(row.colour), "symbol": SYMBOLS[row.colour % len(SYMBOLS)]}
        trace = _trace(
            row.name, [f"{label(row.name)}<br>{text}"], x=[row.share.value], y=[place], mode="markers", marker=look
        )
        trace["error_x"] = _error_bars([row.share], row.colour, thickness=2.2, width=6)
        traces.append(trace)
        names.append(_row_name(row.name, place + 0.42))
    figure = _figure(traces, "share of prompts", "", height=90 + 52 * len(rows), annotations=names)
    figure["layout"]["yaxis"] |= {"visible": False, "range": [-0.5, len(rows) - 0.2]}
    figure["layout"]["xaxis"] |= {"range": [-0.02, 1.02], "tickformat": ".0%"}
    figure["layout"]["shapes"] = [_line_across("x", 0.5)]
    return figure


def timeline(bars: Sequence[Bar], *, x_title: str) -> tuple[Figure, tuple[Legend, ...]]:
    """One row a stage, one colour a phase, and the legend of the phases."""
    rows = list(dict.fromkeys(bar.row for bar in bars))
    phases = list(dict.fromkeys(bar.phase for bar in bars))
    traces = []
    for rank, phase in enumerate(phases):
        own = [bar for bar in bars if bar.phase == phase]
        pattern = {"shape": PATTERNS[rank % len(PATTERNS)], "fillmode": "overlay", "fgcolor": GRID, "size": 6}
        traces.append(
            _trace(
                phase,
                [bar.hover for bar in own],
                type="bar",
                orientation="h",
                y=[rows.index(bar.row) for bar in own],
                base=[bar.start for bar in own],
                x=[bar.length for bar in own],
                width=0.5,
                marker={"color": colour(rank), "pattern": pattern | {"solidity": 0.2}},
            )
        )
    names = [_row_name(row, at - 0.42) for at, row in enumerate(rows)]
    figure = _figure(traces, x_title, "", height=90 + 56 * len(rows), annotations=names)
    figure["layout"]["barmode"] = "overlay"
    figure["layout"]["yaxis"] |= {"visible": False, "range": [len(rows) - 0.5, -0.8]}
    return figure, tuple(Legend(phase, rank) for rank, phase in enumerate(phases))


def _trace(name: str, hover: Sequence[str], **fields: Any) -> Figure:
    return {"type": "scatter", "name": label(name), "hovertext": list(hover), "hoverinfo": "text"} | fields


def _figure(
    traces: Sequence[Figure],
    x_title: str,
    y_title: str,
    *,
    height: int = 300,
    annotations: Sequence[Mapping[str, Any]] = (),
) -> Figure:
    """The look that all charts share; rows with names (`annotations`) need more space at the left."""

    def axis(title: str) -> Figure:
        return {
            "gridcolor": GRID,
            "linecolor": GRID,
            "zeroline": False,
            "automargin": True,
            "title": {"font": {"size": 12, "color": MUTED}, "standoff": 8} | ({"text": title} if title else {}),
            "tickfont": {"size": 11, "color": MUTED},
            "fixedrange": True,
            "exponentformat": "SI",
        }

    layout = {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": INK, "size": 12, "family": "system-ui, -apple-system, 'Segoe UI', Roboto, Arial, sans-serif"},
        "margin": {"l": 16 if annotations else 8, "r": 16, "t": 12, "b": 8},
        "height": height,
        "showlegend": False,
        "dragmode": False,
        "hovermode": "closest",
        "hoverlabel": {"font": {"size": 12}, "align": "left", "namelength": -1},
        "xaxis": axis(x_title),
        "yaxis": axis(y_title),
        "annotations": list(annotations),
    }
    return {"data": list(traces), "layout": layout}


def _line_across(axis: str, at: float) -> Figure:
    """A thin line at a value of one axis, over the whole of the other."""
    other = "x" if axis == "y" else "y"
    ends = {f"{axis}0": at, f"{axis}1": at, f"{axis}ref": axis, f"{other}0": 0, f"{other}1": 1}
    return {
        "type": "line",
        "line": {"color": MUTED, "width": 1, "dash": "dot"},
        f"{other}ref": f"{other} domain",
    } | ends


def _row_name(text: str, y: float) -> Figure:
    font = {"size": 12, "color": INK}
    return {"text": label(text), "x": 0, "xref": "paper", "xanchor": "left", "y": y, "showarrow": False, "font": font}


def _error_bars(intervals: Sequence[Interval | None], rank: int, **look: Any) -> Figure:
    known = [one if one is not None and one.known else Interval(0.0, 0.0, 0.0) for one in intervals]
    ends = {"array": [one.high - one.value for one in known], "arrayminus": [one.value - one.low for one in known]}
    return ends | {"color": colour(rank)} | look


def _edges(values: Sequence[float]) -> list[float]:
    """Edges of about 2 sqrt(n) bins of a round width that hold all values."""
    low, high = min(values), max(values)
    wanted = min(40, max(6, round(2 * math.sqrt(len(values)))))
    rough = (high - low) / wanted or 1.0
    step = 10 ** math.floor(math.log10(rough))
    width = next(step * factor for factor in (1, 2, 5, 10) if step * factor >= rough)
    first = math.floor(low / width)
    last = max(math.floor(high / width) + 1, first + 1)
    return [round(at * width, 12) for at in range(first, last + 1)]
