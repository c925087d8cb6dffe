"""One quantity at a time over all stages of all runs, side by side."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from demotune.common.amounts import flops
from demotune.common.statistics import Interval
from demotune.report.charts.figures import Chart, Line, label, legend_of, lines
from demotune.report.gains import gain_of
from demotune.report.tables import table
from demotune.report.wording import NOTHING, bounds, duration, number, share
from demotune.runs.file_names import stage_title
from demotune.runs.gate import Gate
from demotune.runs.run import Run
from demotune.runs.stage_reader import RunStage

Value = Interval | float | None


@dataclass(frozen=True, slots=True)
class _Quantity:
    """What a stage has one of; `before` is the start model's."""

    title: str
    note: str
    unit: str
    of: Callable[[Run, RunStage], Value]
    before: Callable[[Run], Value] = lambda run: None
    text: Callable[[float], str] = number


def _gate(field: str) -> Callable[[Run, RunStage], Value]:
    def find(run: Run, stage: RunStage) -> Value:
        return getattr(stage.check.gate, field) if stage.check.gate else None

    return find


def _before(field: str) -> Callable[[Run], Value]:
    """Of the start model, which the gate of the first stage compares with."""

    def find(run: Run) -> Value:
        gate: Gate | None = run.stages[0].check.gate
        return getattr(gate, f"{field}_before") if gate else None

    return find


def _gain(run: Run, stage: RunStage) -> Value:
    gain = gain_of(run, stage.number)
    return gain.per_response if gain else None


def _likelier(run: Run, stage: RunStage) -> Value:
    gain = gain_of(run, stage.number)
    return gain.wins if gain else None


def _accuracy(run: Run, stage: RunStage) -> Value:
    return stage.check.reward.accuracy if stage.check.reward else None


def _earns_more(run: Run, stage: RunStage) -> Value:
    return stage.check.policy.better if stage.check.policy else None


QUANTITIES = (
    _Quantity("Gain per response since the start", "Held-out demonstrations, paired by prompt.", "nats", _gain),
    _Quantity(
        "Share likelier than under the start model", "Of held-out demonstrations.", "share", _likelier, text=share
    ),
    _Quantity(
        "Reward accuracy of each stage",
        "By the stage's own reward, on its held-out pairs.",
        "share",
        _accuracy,
        text=share,
    ),
    _Quantity(
        "Share of answers that earn more after the policy steps",
        "By the reward that the policy was trained on.",
        "share",
        _earns_more,
        text=share,
    ),
    _Quantity(
        "Length of answers", "To held-out prompts, mean.", "tokens", _gate("mean_length"), _before("mean_length")
    ),
    _Quantity(
        "Answers that end by themselves",
        "To held-out prompts; the others were cut off.",
        "share",
        _gate("finished_share"),
        _before("finished_share"),
        text=share,
    ),
    _Quantity(
        "Variety of answers",
        "Distinct bigrams over all answers to held-out prompts.",
        "share",
        _gate("distinct_2"),
        _before("distinct_2"),
        text=share,
    ),
    _Quantity(
        "Repetition in answers",
        "Repeated 4-grams in an answer to a held-out prompt, mean.",
        "share",
        _gate("repetition"),
        _before("repetition"),
        text=share,
    ),
    _Quantity(
        "Wall-clock time so far",
        "Without measuring.",
        "seconds",
        lambda run, stage: run.cost_until(stage.number).seconds,
        lambda run: 0.0,
        duration,
    ),
    _Quantity(
        "Operations so far",
        "From token counts; without measuring and without what the start model cost.",
        "FLOP",
        lambda run, stage: run.cost_until(stage.number).flops,
        lambda run: 0.0,
        flops,
    ),
)


def quantity_charts(runs: Sequence[Run]) -> list[Chart]:
    """A chart for each quantity that any stage has."""
    return [chart for one in QUANTITIES if (chart := _chart(runs, one))]


def places_of(runs: Sequence[Run]) -> list[str]:
    """The x axis: the start, then each stage."""
    return ["start", *(stage_title(number) for number in range(max(len(run.stages) for run in runs)))]


def shift_of(rank: int, runs: Sequence[Run]) -> float:
    """So that the intervals of several runs do not overlap."""
    return 0.06 * (rank - (len(runs) - 1) / 2)


def _chart(runs: Sequence[Run], quantity: _Quantity) -> Chart | None:
    series, rows = [], []
    for rank, run in enumerate(runs):
        points = _points(run, quantity)
        rows += [(run.name, name, quantity.text(one.value), _ends(quantity, one)) for _, name, one in points]
        if points:
            series.append(
                Line(
                    name=run.name,
                    x=[place + shift_of(rank, runs) for place, _, _ in points],
                    y=[one.value for _, _, one in points],
                    hover=[f"{label(run.name)}, {name}<br>{quantity.text(one.value)}" for _, name, one in points],
                    colour=rank,
                    dash=rank,
                    errors=[one for _, _, one in points],
                )
            )
    if not series:
        return None
    return Chart(
        title=quantity.title,
        note=quantity.note,
        figure=lines(series, x_title="", y_title=quantity.unit, ticks=places_of(runs)),
        legend=legend_of(series),
        table=table(["run", "policy", quantity.unit, "95% interval"], rows, texts=2),
        wide=True,
    )


def _points(run: Run, quantity: _Quantity) -> list[tuple[int, str, Interval]]:
    """(place, name, value) of the start model and of each stage that has the quantity."""
    found = [(0, "start model", quantity.before(run))]
    found += [(stage.number + 1, stage_title(stage.number), quantity.of(run, stage)) for stage in run.stages]
    return [(place, name, _interval(value)) for place, name, value in found if value is not None]


def _ends(quantity: _Quantity, one: Interval) -> str:
    return bounds(one, percent=quantity.text is share) if one.known else NOTHING


def _interval(value: Interval | float) -> Interval:
    return value if isinstance(value, Interval) else Interval(value, float("nan"), float("nan"))
