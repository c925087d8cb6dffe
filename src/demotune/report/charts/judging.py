"""Charts of held-out pairs and of comparisons: how far apart two responses are, how often the better one wins."""

from collections.abc import Sequence

from demotune.common.statistics import Interval
from demotune.report.charts.figures import DASHES, PALETTE, Chart, Legend, Span, histogram, intervals, label, table
from demotune.report.collect import Run, RunStage
from demotune.report.evaluations import Evaluation
from demotune.report.wording import share, share_interval

Share = tuple[str, float, float | None, float | None, int, int]
"""Label, value, low, high, count, colour."""


def gap_charts(runs: Sequence[Run], evaluations: Sequence[Evaluation]) -> list[Chart]:
    """Histograms over held-out pairs, each only where its numbers exist."""
    shown = [(run, stage) for run in runs for stage in _shown(run, len(runs))]
    names = [f"{run.name}, stage {stage.number}" if len(runs) > 1 else f"stage {stage.number}" for run, stage in shown]
    found = list(zip(names, shown, strict=True))
    charts = [
        _histogram(
            [(name, _changes(run, stage)) for name, (run, stage) in found],
            title="Change of each held-out demonstration's log-probability",
            note="Since the run's start model; right of zero became likelier.",
            unit="nats a response",
        ),
        _histogram(
            [(name, _margins(stage)) for name, (run, stage) in found if run.method != "rft"],
            title="Reward margin on held-out pairs",
            note="Implicit reward β·log π/π_ref: demonstration minus the sample that the stage began with. Right of "
            "zero the reward prefers the demonstration.",
            unit="margin",
        ),
        _histogram(
            [(name, _margins(stage)) for name, (run, stage) in found if run.method == "rft"],
            title="Reward margin on held-out pairs, reward model",
            note="Demonstration minus sample by the stage's own reward model; its scale differs from stage to stage. "
            "Right of zero the reward prefers the demonstration.",
            unit="margin",
        ),
        _histogram(
            [(f"before {name}", _gaps(stage)) for name, (_, stage) in found],
            title="Log-probability of the demonstration minus the policy's own sample",
            note="Held-out pairs under the reference that scored them for the stage. Left of zero it finds its own "
            "sample likelier; a longer response has the lower log-probability.",
            unit="nats",
        ),
        _histogram(
            [series for evaluation in evaluations for series in _preferences(evaluation, len(evaluations))],
            title="Log-probability of the preferred response minus the rejected one",
            note="Preference rows under each model; right of zero the model agrees with the preference.",
            unit="nats",
        ),
    ]
    return [chart for chart in charts if chart is not None]


def _changes(run: Run, stage: RunStage) -> list[float]:
    start = {row.key: row.demo_logp for row in run.start or ()}
    return [row.demo_logp - start[row.key] for row in stage.heldout or () if row.key in start]


def _margins(stage: RunStage) -> list[float]:
    pairs = [(row.demo_reward, row.sample_reward) for row in stage.samples if row.heldout]
    return [demo - sample for demo, sample in pairs if demo is not None and sample is not None]


def _gaps(stage: RunStage) -> list[float]:
    pairs = [(row.demo_logp, row.sample_logp) for row in stage.samples if row.heldout]
    return [demo - sample for demo, sample in pairs if demo is not None and sample is not None]


def _preferences(evaluation: Evaluation, evaluations: int) -> list[tuple[str, list[float]]]:
    found = []
    for model in dict.fromkeys(name for row in evaluation.rows for name in row.models):
        scored = [row.models[model] for row in evaluation.rows if model in row.models]
        gaps = [one["demo_logp"] - one["rejected_logp"] for one in scored if one.get("rejected_logp") is not None]
        found.append((model if evaluations == 1 else f"{evaluation.name}: {model}", gaps))
    return found


def win_charts(runs: Sequence[Run], evaluations: Sequence[Evaluation]) -> list[Chart]:
    """Shares with intervals: what each stage did on held-out rows, and win rates of evaluations."""
    charts = []
    rows = [row for rank, run in enumerate(runs) for row in _stage_shares(run, rank, len(runs))]
    if rows:
        charts.append(
            _shares(
                "Shares of held-out prompts, by stage",
                "Likelier: demonstrations that the stage made more probable than the policy named. Reward: pairs whose "
                "demonstration the stage's reward prefers to the sample. Answers: prompts whose answer earns more "
                "after the policy steps than before, by the reward that the policy was trained on. 95% intervals.",
                rows,
            )
        )
    for evaluation in evaluations:
        models = list(dict.fromkeys(one.model for one in evaluation.comparisons if one.is_win_rate))
        wins = [
            (
                f"{one.model} over {one.baseline}" + (f", by {one.judge}" if one.judge else ""),
                one.difference,
                one.low,
                one.high,
                one.items,
                models.index(one.model) % len(PALETTE),
            )
            for one in evaluation.comparisons
            if one.is_win_rate and one.difference is not None
        ]
        if wins:
            charts.append(
                _shares(
                    f"Win rates in {evaluation.name}",
                    "Share of prompts that the first model wins, a tie half, with 95% intervals. Left of the line it "
                    "loses; an interval that crosses the line shows no clear winner.",
                    wins,
                )
            )
    return charts


def _shown(run: Run, runs: int) -> tuple[RunStage, ...]:
    """Stages to draw: the result's beside other runs; of one long run the first and the last few."""
    if runs > 1:
        return (run.result,)
    return run.stages if len(run.stages) <= 4 else (run.stages[0], *run.stages[-3:])


def _histogram(series: Sequence[tuple[str, list[float]]], *, title: str, note: str, unit: str) -> Chart | None:
    full = [(name, values) for name, values in series if values]
    if not full:
        return None
    figure, numbers = histogram(full, x_title=unit)
    return Chart(
        title=title,
        note=note,
        figure=figure,
        legend=tuple(
            Legend(f"{name} ({len(values)})", rank % len(PALETTE), DASHES[rank % 4])
            for rank, (name, values) in enumerate(full)
        ),
        table=numbers,
    )


def _stage_shares(run: Run, rank: int, runs: int) -> list[Share]:
    found: list[Share] = []
    who = f"{run.name}, " if runs > 1 else ""
    for stage in run.stages:
        gate, reward, policy = stage.check.gate, stage.check.reward, stage.check.policy
        name = f"{who}stage {stage.number}"
        colour = rank if runs > 1 else 0
        if gate:
            text = f"{name}: likelier than {gate.compared_with}"
            found.append((text, *_ends(gate.wins), gate.prompts, colour))
        if reward:
            text, ends = f"{name}: reward prefers demonstration", _ends(reward.accuracy)
            found.append((text, *ends, reward.pairs, colour if runs > 1 else 2))
        if policy:
            text, ends = f"{name}: answers earn more", _ends(policy.better)
            found.append((text, *ends, policy.prompts, colour if runs > 1 else 1))
    return found


def _ends(found: Interval) -> tuple[float, float, float]:
    return found.value, found.low, found.high


def _shares(title: str, note: str, rows: Sequence[Share]) -> Chart:
    spans = [
        Span(
            label=name,
            value=value,
            low=low,
            high=high,
            colour=colour % len(PALETTE),
            hover=f"{label(name)}<br>{share(value)} ({share_interval(low, high)}), {count} prompts",
        )
        for name, value, low, high, count, colour in rows
    ]
    cells = [(name, share(value), share_interval(low, high), str(count)) for name, value, low, high, count, _ in rows]
    return Chart(
        title=title,
        note=note,
        figure=intervals(spans, x_title="share of prompts", level=0.5, shares=True),
        legend=(),
        table=table(["what", "share", "95% interval", "prompts"], cells),
        wide=True,
    )
