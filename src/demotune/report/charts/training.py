"""Charts of what happened while runs trained: metrics by step, time and memory by phase."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from demotune.report.charts.figures import Bar, Chart, Line, label, legend_of, lines, thin, timeline
from demotune.report.tables import table
from demotune.report.wording import duration, memory, number, stage_name, time_unit
from demotune.runs.file_names import stage_title
from demotune.runs.run import Run
from demotune.runs.stage_reader import RunStage

MOST_ROWS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class _Curve:
    """A metric of training records to draw: whose records, and what each of its names means."""

    title: str
    note: str
    unit: str
    metrics: Mapping[str, str]
    of: Literal["policy", "reward"] = "policy"

    def records(self, stage: RunStage) -> Sequence[Mapping[str, Any]]:
        return stage.training if self.of == "policy" else stage.reward_training


CURVES = (
    _Curve(
        title="Training margin, implicit reward",
        note="Reward of the demonstration minus reward of the sample, mean over a step's pairs; the reward is "
        "β·log π/π_ref. It is easy to raise by making samples unlikely, so it says nothing about quality.",
        unit="margin",
        metrics={"rewards/margins": ""},
    ),
    _Curve(
        title="log π of demonstrations and samples",
        note="Summed over response tokens, mean over a step's rows. Much of the noise comes from the lengths of rows.",
        unit="nats",
        metrics={"logps/chosen": "demonstrations", "logps/rejected": "samples"},
    ),
    _Curve(
        title="Margin of the reward model in training",
        note="Reward of the demonstration minus reward of the sample while the reward was trained.",
        unit="margin",
        metrics={"rewards/margins": ""},
        of="reward",
    ),
    _Curve(
        title="Reward of on-policy samples",
        note="By the stage's own reward, which changes from stage to stage: compare within a stage only.",
        unit="reward",
        metrics={"reward": ""},
    ),
    _Curve(
        title="Accuracy of the co-trained reward on fresh samples",
        note="Share of pairs whose demonstration earns more than a response of the batch, before the reward learns "
        "from that batch. 65% to 85% is healthy (GAD, arXiv 2511.10643): near 50% the reward has nothing left to "
        "teach, near 100% the policy cannot follow.",
        unit="share",
        metrics={"reward_model/accuracies": ""},
    ),
    _Curve(
        title="KL to the start model",
        note="Estimated on the policy's own samples.",
        unit="nats a response",
        metrics={"objective/kl": ""},
    ),
    _Curve(
        title="Length of on-policy samples",
        note="A reward that rises with length may be a reward for length.",
        unit="tokens a response",
        metrics={"completions/mean_length": ""},
    ),
)


def curve_charts(runs: Sequence[Run]) -> list[Chart]:
    """One chart per metric that any run recorded."""
    return [chart for curve in CURVES if (chart := _curve_chart(runs, curve))]


def timeline_charts(runs: Sequence[Run]) -> list[Chart]:
    """When each phase ran and for how long; how much memory the process had used by its end."""
    bars, rows, memories = [], [], []
    unit, unit_name = time_unit(
        max(sum(phase.seconds for stage in run.stages for phase in stage.phases) for run in runs)
    )
    for rank, run in enumerate(runs):
        clock = 0.0
        ends: list[tuple[float, float, str]] = []  # of each phase: time, memory, hover
        for stage in run.stages:
            name = stage_name(run.name, stage.number, several=len(runs) > 1)
            for phase in stage.phases:
                cells = duration(phase.seconds), memory(phase.peak_memory_gib)
                text = f"{label(name)}: {label(phase.name)}<br>{', '.join(cells)}"
                start, clock = clock, clock + phase.seconds
                bars.append(Bar(name, phase.name, start / unit, phase.seconds / unit, text))
                ends += [(at / unit, phase.peak_memory_gib, text) for at in (start, clock)]
                rows.append((name, phase.name, *cells, f"{phase.forward_tokens:,}", f"{phase.trained_tokens:,}"))
        x, y, hover = zip(*ends, strict=True)
        memories.append(Line(run.name, x, y, hover, rank, rank))
    numbers = table(
        ["stage", "phase", "wall-clock time", "peak memory", "tokens forward", "tokens trained"], rows, texts=2
    )
    figure, legend = timeline(bars, x_title=unit_name)
    return [
        Chart(
            title="Wall-clock time by phase",
            note="Each run's phases one after the other, measuring too; pauses between them are left out.",
            figure=figure,
            legend=legend,
            table=numbers,
        ),
        Chart(
            title="Peak memory so far",
            note="Highest use of the process so far, at the end of each phase: it can only rise.",
            figure=lines(memories, x_title=unit_name, y_title="GiB"),
            legend=legend_of(memories),
            table=numbers,
        ),
    ]


@dataclass(frozen=True, slots=True)
class _Step:
    """An optimizer step of a run; `place` counts on through its stages. Between stages is one without a value."""

    stage: int
    step: int
    place: float
    value: float | None


def _curve_chart(runs: Sequence[Run], curve: _Curve) -> Chart | None:
    several = len(runs) > 1
    series, rows, breaks, thinned = [], [], set[float](), False
    for rank, run in enumerate(runs):
        for style, (metric, meaning) in enumerate(curve.metrics.items()):
            if not (steps := _steps(run, curve, metric)):
                continue
            name = f"{run.name}: {meaning}" if meaning and several else meaning or run.name
            look = (rank, rank + 2 * style) if several else (style, style)
            where = [f"{label(run.name)}, {stage_title(one.stage)}, step {one.step}" for one in steps]
            hover = [f"{at}<br>{number(one.value)} {curve.unit}" for at, one in zip(where, steps, strict=True)]
            series.append(Line(name, [one.place for one in steps], [one.value for one in steps], hover, *look))
            breaks |= {one.place for one in steps if one.value is None}
            measured = [one for one in steps if one.value is not None]
            kept = [measured[at] for at in thin(len(measured), MOST_ROWS)]
            thinned = thinned or len(kept) < len(measured)
            rows += [
                (run.name, meaning or metric, str(one.stage + 1), str(one.step), number(one.value)) for one in kept
            ]
    if not series:
        return None
    left_out = "Some steps are left out; metrics.jsonl in the run folder has them all."
    return Chart(
        title=curve.title,
        note=curve.note + (" Dotted lines are between stages." if breaks and not several else ""),
        figure=lines(series, x_title="optimizer step", y_title=curve.unit, breaks=[] if several else sorted(breaks)),
        legend=legend_of(series),
        table=table(["run", "metric", "stage", "step", curve.unit], rows, texts=2, note=left_out if thinned else ""),
    )


def _steps(run: Run, curve: _Curve, metric: str) -> list[_Step]:
    """A metric step by step, through all stages that recorded it."""
    found: list[_Step] = []
    done = 0
    for stage in run.stages:
        own = [row for row in curve.records(stage) if metric in row and "step" in row]
        if own and found:
            found.append(_Step(stage.number, 0, done + 0.5, None))
        found += [_Step(stage.number, row["step"], done + row["step"], float(row[metric])) for row in own]
        done += own[-1]["step"] if own else 0
    return found
