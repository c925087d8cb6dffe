"""What an artefact of the paper shows, as numbers: ARTEFACT.json, from which its page is made."""

from dataclasses import dataclass
from pathlib import Path

from demotune.common.files import write_json
from demotune.common.json_records import as_json
from demotune.common.statistics import Interval
from demotune.report.wording import number, share

NOT_KNOWN = "not known to us"
"""In a cell of the paper's that we do not know."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table: its text and, of a number, the number with its 95% interval."""

    text: str
    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Grid:
    """A table. `numeric` says which columns are aligned right."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    numeric: tuple[bool, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Point:
    """A number at a place of a chart."""

    at: float
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart, or one row of a chart of intervals."""

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """Intervals below one another, or lines over stages; `level` is drawn as a thin line."""

    kind: str
    """intervals or lines."""
    title: str
    unit: str
    series: tuple[Series, ...]
    level: float | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt with two answers, and why it is shown."""

    rule: str
    prompt: str
    demonstration: str
    names: tuple[str, ...]
    answers: tuple[str, ...]
    rewards: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class TrialUsed:
    """A run that the artefact rests on."""

    name: str
    folder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtefactRecord:
    """One table or figure of the paper, made anew."""

    artefact: str
    title: str
    size: str
    command: str
    created: str
    versions: dict[str, str]
    answer: str
    """What was found, in one sentence."""
    warnings: tuple[str, ...]
    """What a reader must know before any number."""
    charts: tuple[Chart, ...]
    grids: tuple[Grid, ...]
    """In the paper's layout, with the paper's numbers beside."""
    samples: tuple[Sample, ...]
    paper: tuple[str, ...]
    """What the paper reports, each with its source."""
    rigor: tuple[Grid, ...]
    """What the paper lacks: tests, cost at equal compute."""
    leaks: tuple[str, ...]
    """Where test data was looked for in training data, and what was found."""
    limits: tuple[str, ...]
    trials: tuple[TrialUsed, ...]


def file_of(folder: Path, artefact: str) -> Path:
    return folder / f"{artefact}.json"


def write_artefact(folder: Path, record: ArtefactRecord) -> None:
    write_json(file_of(folder, record.artefact), as_json(record))


def grid(title: str, headings: list[str], rows: list[list[Cell]], *, texts: int = 1, note: str = "") -> Grid:
    """A table whose first `texts` columns hold text."""
    numeric = tuple(at >= texts for at in range(len(headings)))
    return Grid(title, tuple(headings), tuple(map(tuple, rows)), numeric, note)


def text(value: object) -> Cell:
    return Cell(str(value))


def plain(value: float | None, *, signed: bool = False) -> Cell:
    """A number without an interval."""
    return Cell(number(value, signed=signed), value)


def measured(found: Interval | None, *, signed: bool = False, percent: bool = False) -> Cell:
    """0.412 [0.301, 0.523]; a dash where nothing was measured."""
    if found is None:
        return Cell("–")
    shown = [share(one) if percent else number(one, signed=signed) for one in (found.value, found.low, found.high)]
    if not found.known:
        return Cell(f"{shown[0]} (too few rows to tell)", found.value)
    return Cell(f"{shown[0]} [{shown[1]}, {shown[2]}]", found.value, found.low, found.high)


def point(at: float, found: Interval) -> Point:
    low, high = (found.low, found.high) if found.known else (None, None)
    return Point(at, found.value, low, high)
