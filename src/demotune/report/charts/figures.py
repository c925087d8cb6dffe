"""Charts: a plotly figure, its legend and the table of its numbers. Colours are named; the page knows both themes.

The hexes below are the light ones; page.js swaps each for the CSS variable of the same rank, so that a chart follows
the theme. Text of users goes through `label`: plotly reads some HTML in labels.
"""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go

from demotune.report.wording import number

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#767676")
"""Okabe and Ito's colours, which people with any colour vision can tell apart, and a grey."""
INK, MUTED, GRID = "#1B1F24", "#57606A", "#D8DEE4"
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star")
MOST_POINTS = 1000
MOST_ROWS = 200
LONGEST_LABEL = 52


@dataclass(frozen=True, slots=True)
class Table:
    """Headings and cells as text; `numeric` says which columns stand right."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Legend:
    """A series in words: colour by rank, dash by name."""

    name: str
    colour: int
    dash: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A figure as plotly's JSON with what stands around it."""

    title: str
    note: str
    figure: dict[str, Any]
    legend: tuple[Legend, ...]
    table: Table
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """One series. `low` and `high` are the ends of an interval at each point; None in `y` breaks the line."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    hover: Sequence[str]
    colour: int
    dash: str = "solid"
    low: Sequence[float | None] | None = None
    high: Sequence[float | None] | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """One row of a chart of intervals."""

    label: str
    value: float
    low: float | None
    high: float | None
    colour: int
    hover: str


def table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    note: str = "",
    texts: int = 1,
    words: Sequence[str] = (),
) -> Table:
    """A table whose first `texts` columns, and those headed by one of `words`, hold text; the others hold numbers."""
    numeric = tuple(at >= texts and heading not in words for at, heading in enumerate(headings))
    return Table(tuple(headings), tuple(tuple(row) for row in rows), numeric, note)


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
    ticks: Sequence[str] | None = None,
    level: float | None = None,
    breaks: Sequence[float] = (),
) -> dict[str, Any]:
    """Lines with markers that differ in colour, dash and symbol; `level` and `breaks` are drawn as thin lines."""
    figure = _figure(x_title, y_title)
    for rank, line in enumerate(series):
        keep = thin(len(line.x), MOST_POINTS)
        y = [line.y[at] for at in keep]
        figure.add_trace(
            go.Scatter(
                x=[line.x[at] for at in keep],
                y=y,
                name=label(line.name),
                hovertext=[line.hover[at] for at in keep],
                hoverinfo="text",
                mode="lines+markers" if len(keep) <= 60 else "lines",
                line={"color": PALETTE[line.colour], "dash": line.dash, "width": 2.2},
                marker={"symbol": SYMBOLS[rank % len(SYMBOLS)], "size": 7, "color": PALETTE[line.colour]},
                error_y=_error_bars(y, line, keep),
            )
        )
    if ticks is not None:
        figure.update_xaxes(tickvals=list(range(len(ticks))), ticktext=[label(tick) for tick in ticks])
        figure.update_xaxes(range=[-0.3, len(ticks) - 0.7])
    if level is not None:
        figure.add_hline(level, line={"color": MUTED, "width": 1, "dash": "dot"})
    for at in breaks:
        figure.add_vline(at, line={"color": MUTED, "width": 1, "dash": "dot"})
    return _plain(figure)


def histogram(series: Sequence[tuple[str, Sequence[float]]], *, x_title: str) -> tuple[dict[str, Any], Table]:
    """Counts in shared bins, one outline a series (the first one filled), and their table."""
    edges = _edges([value for _, values in series for value in values])
    counts = [_count(values, edges) for _, values in series]
    figure = _figure(x_title, "pairs")
    for rank, ((name, _), found) in enumerate(zip(series, counts, strict=True)):
        spans = [f"{number(low)} to {number(high)}" for low, high in pairwise(edges)]
        hover = [f"{label(name)}<br>{span}: {count}" for span, count in zip(spans, found, strict=True)]
        figure.add_trace(
            go.Scatter(
                x=edges,
                y=[*found, found[-1]],
                name=label(name),
                hovertext=[*hover, hover[-1]],
                hoverinfo="text",
                mode="lines",
                fill="tozeroy" if rank == 0 else "none",
                line={"color": PALETTE[rank % len(PALETTE)], "dash": DASHES[rank % 4], "width": 2, "shape": "hv"},
            )
        )
    figure.add_vline(0, line={"color": MUTED, "width": 1, "dash": "dot"})
    figure.update_yaxes(rangemode="tozero")
    bins = [
        (f"{number(low)} to {number(high)}", *(str(found[at]) for found in counts))
        for at, (low, high) in enumerate(pairwise(edges))
    ]
    return _plain(figure), table(["from, to", *(name for name, _ in series)], bins)


def intervals(spans: Sequence[Span], *, x_title: str, level: float, shares: bool) -> dict[str, Any]:
    """One row a span, its name above it, so that long names fit a phone; `level` is where nothing is shown."""
    figure = _figure(x_title, "")
    for at, span in enumerate(spans):
        row = len(spans) - 1 - at
        known = span.low is not None and span.high is not None
        figure.add_trace(
            go.Scatter(
                x=[span.value],
                y=[row],
                name=label(span.label),
                hovertext=[span.hover],
                hoverinfo="text",
                mode="markers",
                marker={"size": 11, "color": PALETTE[span.colour], "symbol": SYMBOLS[span.colour % len(SYMBOLS)]},
                error_x={
                    "array": [span.high - span.value if span.high is not None else 0],
                    "arrayminus": [span.value - span.low if span.low is not None else 0],
                    "color": PALETTE[span.colour],
                    "thickness": 2.2,
                    "width": 6,
                    "visible": known,
                },
            )
        )
        figure.add_annotation(
            text=label(span.label), x=0, xref="paper", xanchor="left", y=row + 0.42, showarrow=False,
            font={"size": 12, "color": INK},
        )  # fmt: skip
    figure.add_vline(level, line={"color": MUTED, "width": 1.2, "dash": "dot"})
    figure.update_yaxes(visible=False, range=[-0.5, len(spans) - 0.2])
    if shares:
        figure.update_xaxes(range=[-0.02, 1.02], tickformat=".0%")
    figure.update_layout(height=90 + 52 * len(spans), margin={"l": 16})
    return _plain(figure)


def timeline(
    bars: Sequence[tuple[str, str, float, float, str]], phases: Sequence[str], *, x_title: str
) -> dict[str, Any]:
    """Bars of (row, phase, start, length, hover): one row a stage, one colour a phase."""
    figure = _figure(x_title, "")
    rows = list(dict.fromkeys(row for row, *_ in bars))
    for rank, phase in enumerate(phases):
        own = [bar for bar in bars if bar[1] == phase]
        figure.add_trace(
            go.Bar(
                orientation="h",
                y=[rows.index(row) for row, *_ in own],
                base=[start for _, _, start, _, _ in own],
                x=[length for _, _, _, length, _ in own],
                hovertext=[hover for *_, hover in own],
                hoverinfo="text",
                name=label(phase),
                width=0.5,
                marker={
                    "color": PALETTE[rank % len(PALETTE)],
                    "pattern": {"shape": ("", "/", "x", "-", "\\", ".", "+")[rank % 7], "fillmode": "overlay",
                                "fgcolor": GRID, "size": 6, "solidity": 0.2},
                },
            )
        )  # fmt: skip
    for at, row in enumerate(rows):
        figure.add_annotation(
            text=label(row), x=0, xref="paper", xanchor="left", y=at - 0.42, showarrow=False,
            font={"size": 12, "color": INK},
        )  # fmt: skip
    figure.update_yaxes(visible=False, range=[len(rows) - 0.5, -0.8])
    figure.update_layout(barmode="overlay", height=90 + 56 * len(rows), margin={"l": 16})
    return _plain(figure)


def log_x(figure: dict[str, Any]) -> dict[str, Any]:
    """The same figure with a logarithmic x axis."""
    layout = figure["layout"]
    return figure | {"layout": layout | {"xaxis": layout["xaxis"] | {"type": "log"}}}


def _figure(x_title: str, y_title: str) -> go.Figure:
    figure = go.Figure()
    axis = {
        "gridcolor": GRID,
        "linecolor": GRID,
        "zeroline": False,
        "automargin": True,
        "title": {"font": {"size": 12, "color": MUTED}, "standoff": 8},
        "tickfont": {"size": 11, "color": MUTED},
        "fixedrange": True,
        "exponentformat": "SI",
    }
    figure.update_layout(
        template=go.layout.Template(),
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": INK, "size": 12, "family": "system-ui, -apple-system, 'Segoe UI', Roboto, Arial, sans-serif"},
        margin={"l": 8, "r": 16, "t": 12, "b": 8},
        height=300,
        showlegend=False,
        dragmode=False,
        hovermode="closest",
        hoverlabel={"font": {"size": 12}, "align": "left", "namelength": -1},
        xaxis=axis,
        yaxis=axis,
    )
    figure.update_xaxes(title_text=x_title or None)
    figure.update_yaxes(title_text=y_title or None)
    return figure


def _error_bars(y: Sequence[float | None], line: Line, keep: range) -> dict[str, Any] | None:
    if line.low is None or line.high is None:
        return None
    ends = [(value, line.low[at], line.high[at]) for value, at in zip(y, keep, strict=True)]
    return {
        "array": [0 if value is None or high is None else high - value for value, _, high in ends],
        "arrayminus": [0 if value is None or low is None else value - low for value, low, _ in ends],
        "color": PALETTE[line.colour],
        "thickness": 1.6,
        "width": 5,
    }


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


def _count(values: Sequence[float], edges: Sequence[float]) -> list[int]:
    width = edges[1] - edges[0]
    counts = [0] * (len(edges) - 1)
    for value in values:
        counts[min(max(math.floor((value - edges[0]) / width), 0), len(counts) - 1)] += 1
    return counts


def _plain(figure: go.Figure) -> dict[str, Any]:
    return dict(figure.to_plotly_json())
