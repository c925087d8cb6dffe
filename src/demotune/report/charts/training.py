"""Charts of what happened while runs trained: metrics by step, time and memory by phase."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from demotune.report.charts.figures import (
    DASHES,
    MOST_ROWS,
    PALETTE,
    Chart,
    Legend,
    Line,
    label,
    legend_of,
    lines,
    table,
    thin,
    timeline,
)
from demotune.report.collect import Run, RunStage
from demotune.report.wording import NOTHING, duration, memory, number, time_unit


@dataclass(frozen=True, slots=True, kw_only=True)
class _Curve:
    """A metric of training records to draw: which records, and what each of its names means."""

    title: str
    note: str
    unit: str
    metrics: Mapping[str, str]
    records: Callable[[RunStage], Sequence[Mapping[str, Any]]]


def _policy(stage: RunStage) -> Sequence[Mapping[str, Any]]:
    return stage.training


def _reward(stage: RunStage) -> Sequence[Mapping[str, Any]]:
    return stage.reward_training


CURVES = (
    _Curve(
        title="Training margin",
        note="Reward of the demonstration minus reward of the sample, mean over a step's pairs; the reward is "
        "β·log π/π_ref. It is easy to raise by making samples unlikely, so it says nothing about quality.",
        unit="margin",
        metrics={"rewards/margins": ""},
        records=_policy,
    ),
    _Curve(
        title="log π of demonstrations and samples",
        note="Summed over response tokens, mean over a step's rows. Much of the noise is that of the rows' lengths.",
        unit="nats",
        metrics={"logps/chosen": "demonstrations", "logps/rejected": "samples"},
        records=_policy,
    ),
    _Curve(
        title="Margin of the reward model",
        note="Reward of the demonstration minus reward of the sample while the reward was trained.",
        unit="margin",
        metrics={"rewards/margins": ""},
        records=_reward,
    ),
    _Curve(
        title="Reward of on-policy samples",
        note="By the stage's own reward, which changes from stage to stage: compare within a stage only.",
        unit="reward",
        metrics={"reward": ""},
        records=_policy,
    ),
    _Curve(
        title="KL to the start model",
        note="Estimated on the policy's own samples.",
        unit="nats a response",
        metrics={"objective/kl": ""},
        records=_policy,
    ),
    _Curve(
        title="Length of on-policy samples",
        note="A reward that rises with length may be a reward for length.",
        unit="tokens a response",
        metrics={"completions/mean_length": ""},
        records=_policy,
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
        x: list[float] = []
        y: list[float | None] = []
        hover: list[str] = []
        for stage in run.stages:
            name = f"{run.name}, stage {stage.number}" if len(runs) > 1 else f"stage {stage.number}"
            for phase in stage.phases:
                took, used = duration(phase.seconds), memory(phase.peak_memory_gib)
                text = f"{label(name)}: {label(phase.name)}<br>{took}, {used}"
                bars.append((name, phase.name, clock / unit, phase.seconds / unit, text))
                x += [clock / unit, (clock + phase.seconds) / unit]
                y += [phase.peak_memory_gib] * 2
                hover += [text] * 2
                clock += phase.seconds
                tokens = [NOTHING if n is None else f"{n:,}" for n in (phase.forward_tokens, phase.trained_tokens)]
                rows.append((name, phase.name, took, used, *tokens))
        memories.append(Line(run.name, x, y, hover, rank % len(PALETTE), DASHES[rank % len(DASHES)]))
    phases = list(dict.fromkeys(phase for _, phase, *_ in bars))
    numbers = table(["stage", "phase", "time", "peak memory", "tokens forward", "tokens trained"], rows, texts=2)
    return [
        Chart(
            title="Time",
            note="Each run's phases one after the other; pauses between them are left out.",
            figure=timeline(bars, phases, x_title=unit_name),
            legend=tuple(Legend(phase, rank % len(PALETTE), "solid") for rank, phase in enumerate(phases)),
            table=numbers,
        ),
        Chart(
            title="Peak memory",
            note="Highest use of the process so far, at the end of each phase: it can only rise.",
            figure=lines(memories, x_title=unit_name, y_title="GiB"),
            legend=legend_of(memories),
            table=numbers,
        ),
    ]


def _curve_chart(runs: Sequence[Run], curve: _Curve) -> Chart | None:
    several = len(runs) > 1
    series, rows, notes, breaks = [], [], [curve.note], set[float]()
    for rank, run in enumerate(runs):
        for style, (metric, meaning) in enumerate(curve.metrics.items()):
            x: list[float] = []
            y: list[float | None] = []
            hover: list[str] = []
            done = 0.0
            for stage in run.stages:
                own = [row for row in curve.records(stage) if metric in row and "step" in row]
                if x and own:
                    breaks.add(done + 0.5)
                    x, y, hover = [*x, done + 0.5], [*y, None], [*hover, ""]
                for row in own:
                    x.append(done + row["step"])
                    y.append(float(row[metric]))
                    where = f"{label(run.name)}, stage {stage.number}, step {row['step']}"
                    hover.append(f"{where}<br>{number(row[metric])} {curve.unit}")
                for at in thin(len(own), max(1, MOST_ROWS // len(run.stages))):
                    step, value = str(own[at]["step"]), number(own[at][metric])
                    rows.append((run.name, meaning or metric, str(stage.number), step, value))
                done += own[-1]["step"] if own else 0
            if x:
                name = f"{run.name}: {meaning}" if meaning and several else meaning or run.name
                colour = rank if several else style
                dash = DASHES[(rank + 2 * style if several else style) % len(DASHES)]
                series.append(Line(name, x, y, hover, colour % len(PALETTE), dash))
    if not series:
        return None
    if breaks and not several:
        notes.append("Dotted lines stand between stages.")
    points = sum(value is not None for line in series for value in line.y)
    return Chart(
        title=curve.title,
        note=" ".join(notes),
        figure=lines(series, x_title="optimizer step", y_title=curve.unit, breaks=[] if several else sorted(breaks)),
        legend=legend_of(series),
        table=table(
            ["run", "metric", "stage", "step", curve.unit],
            rows,
            texts=2,
            note=""
            if len(rows) == points
            else "Some steps are left out; metrics.jsonl in the run folder has them all.",
        ),
    )
