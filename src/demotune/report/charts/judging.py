"""Charts of held-out pairs and of comparisons: how far apart two responses are, how often the better one wins."""

from collections.abc import Iterable, Sequence

from demotune.report.charts.figures import Chart, Legend, Share, histogram, shares
from demotune.report.tables import table
from demotune.report.wording import bounds, share, stage_name
from demotune.runs.evaluation import Evaluation
from demotune.runs.run import Run
from demotune.runs.stage_reader import RunStage


def gap_charts(runs: Sequence[Run], evaluations: Sequence[Evaluation]) -> list[Chart]:
    """Histograms over held-out pairs, each only where its numbers exist."""
    several = len(runs) > 1
    found = [
        (stage_name(run.name, stage.number, several=several), run, stage)
        for run in runs
        for stage in _shown(run, several)
    ]
    charts = [
        _histogram(
            [(name, _changes(run, stage)) for name, run, stage in found],
            title="Change of each held-out demonstration's log-probability",
            note="Since the run's start model; right of zero became likelier.",
            unit="nats a response",
        ),
        _histogram(
            [(name, _margins(stage)) for name, run, stage in found if run.method != "rft"],
            title="Reward margin on held-out pairs, implicit reward",
            note="Implicit reward β·log π/π_ref: demonstration minus the sample that the stage began with. Right of "
            "zero the reward prefers the demonstration.",
            unit="margin",
        ),
        _histogram(
            [(name, _margins(stage)) for name, run, stage in found if run.method == "rft"],
            title="Reward margin on held-out pairs, reward model",
            note="Demonstration minus sample by the stage's own reward model; its scale differs from stage to stage. "
            "Right of zero the reward prefers the demonstration.",
            unit="margin",
        ),
        _histogram(
            [(f"before {name}", _gaps(stage)) for name, _, stage in found],
            title="Log-probability of the demonstration minus the policy's own sample",
            note="Held-out pairs under the stage's reference. Left of zero it finds its own sample likelier; a longer "
            "response has the lower log-probability.",
            unit="nats",
        ),
        _histogram(
            [series for evaluation in evaluations for series in _preferences(evaluation, len(evaluations) > 1)],
            title="Log-probability of the preferred response minus the rejected one",
            note="Preference rows under each model; right of zero the model agrees with the preference.",
            unit="nats",
        ),
    ]
    return [chart for chart in charts if chart is not None]


def win_charts(runs: Sequence[Run], evaluations: Sequence[Evaluation]) -> list[Chart]:
    """Shares with intervals: what each stage did on held-out rows, and win rates of evaluations."""
    charts = [
        _shares(
            "Shares of held-out prompts, by stage",
            "Likelier: demonstrations that the stage made more probable than the policy named. Reward: pairs whose "
            "demonstration the stage's reward prefers to the sample. Answers: prompts whose answer gets a higher "
            "reward after the policy steps than before, by the reward that the policy was trained on. 95% intervals.",
            [row for rank, run in enumerate(runs) for row in _stage_shares(run, rank, several=len(runs) > 1)],
        )
    ]
    for evaluation in evaluations:
        wins = [one for one in evaluation.comparisons if one.is_win_rate]
        models = list(dict.fromkeys(one.model for one in wins))
        charts.append(
            _shares(
                f"Win rates in {evaluation.name}",
                "Share of prompts that the first model wins, a tie half, with 95% intervals. Left of the line it "
                "loses; an interval that crosses the line shows no clear winner.",
                [
                    Share(
                        f"{one.model} over {one.baseline}" + (f", by {one.judge}" if one.judge else ""),
                        one.interval,
                        one.items,
                        models.index(one.model),
                    )
                    for one in wins
                    if one.interval is not None
                ],
            )
        )
    return [chart for chart in charts if chart is not None]


def _changes(run: Run, stage: RunStage) -> list[float]:
    start = {row.key: row.demo_logp for row in run.start or ()}
    return [row.demo_logp - start[row.key] for row in stage.heldout or () if row.key in start]


def _margins(stage: RunStage) -> list[float]:
    return _differences((row.demo_reward, row.sample_reward) for row in stage.heldout_samples)


def _gaps(stage: RunStage) -> list[float]:
    return _differences((row.demo_logp, row.sample_logp) for row in stage.heldout_samples)


def _differences(pairs: Iterable[tuple[float | None, float | None]]) -> list[float]:
    return [first - second for first, second in pairs if first is not None and second is not None]


def _preferences(evaluation: Evaluation, several: bool) -> list[tuple[str, list[float]]]:
    found = []
    for model in dict.fromkeys(name for row in evaluation.rows for name in row.models):
        scored = [row.models[model] for row in evaluation.rows if model in row.models]
        gaps = _differences((one["demo_logp"], one.get("rejected_logp")) for one in scored)
        found.append((f"{evaluation.name}: {model}" if several else model, gaps))
    return found


def _shown(run: Run, several: bool) -> tuple[RunStage, ...]:
    """Stages to draw: the result's beside other runs; of one long run the first and the last few."""
    if several:
        return (run.result,)
    return run.stages if len(run.stages) <= 4 else (run.stages[0], *run.stages[-3:])


def _histogram(series: Sequence[tuple[str, list[float]]], *, title: str, note: str, unit: str) -> Chart | None:
    full = [(name, values) for name, values in series if values]
    if not full:
        return None
    figure, numbers = histogram(full, x_title=unit)
    legend = tuple(Legend(f"{name} ({len(values)})", rank, rank) for rank, (name, values) in enumerate(full))
    return Chart(title, note, figure, legend, numbers)


def _stage_shares(run: Run, rank: int, *, several: bool) -> list[Share]:
    """What check.json counts; a colour a run, or of one run a colour a kind of share."""
    found = []
    for stage in run.stages:
        name = stage_name(run.name, stage.number, several=several)
        gate, reward, policy = stage.check.gate, stage.check.reward, stage.check.policy
        if gate:
            found.append(Share(f"{name}: likelier than {gate.baseline}", gate.wins, gate.prompts, rank))
        if reward:
            text = f"{name}: reward prefers demonstration"
            found.append(Share(text, reward.accuracy, reward.prompts, rank if several else 2))
        if policy:
            text = f"{name}: answers get a higher reward"
            found.append(Share(text, policy.better, policy.prompts, rank if several else 1))
    return found


def _shares(title: str, note: str, rows: Sequence[Share]) -> Chart | None:
    if not rows:
        return None
    cells = [(row.name, share(row.share.value), bounds(row.share, percent=True), str(row.prompts)) for row in rows]
    numbers = table(["what", "share", "95% interval", "prompts"], cells)
    return Chart(title, note, shares(rows), legend=(), table=numbers, wide=True)
