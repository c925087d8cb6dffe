"""The top of the page under the answer: warnings, numbers that stand by themselves, the runs side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

from demotune.report.answer import against_baseline
from demotune.report.charts.figures import Table, table
from demotune.report.collect import Run
from demotune.report.gains import Gain, gain_of
from demotune.report.wording import NOTHING, duration, flops, interval, memory, number, plural, share, share_interval


@dataclass(frozen=True, slots=True)
class Card:
    """A number that stands by itself."""

    name: str
    value: str
    detail: str


def warnings(runs: Sequence[Run]) -> list[str]:
    """What a reader must know before any number."""
    found = []
    for run in runs:
        if not run.finished:
            done = plural(len(run.stages), "stage")
            found.append(f"{run.name} is unfinished: {done} so far. Continue it with: demotune resume {run.folder}")
        for stage in run.stages:
            texts = list(stage.check.gate.warnings if stage.check.gate else ())
            if stage.stopped:
                texts.append(f"policy steps were stopped: {stage.stopped}")
            found += [f"{run.name}, stage {stage.number}: {text}" for text in texts]
        if run.result_stage != run.stages[-1].number:
            found.append(f"{run.name}: stage {run.result_stage} is the result; later ones were worse.")
    return found


def cards(run: Run) -> list[Card]:
    """Numbers of one run."""
    found = []
    gain, after = gain_of(run), run.result.check.nll_per_token
    if gain:
        ends = interval(gain.per_token_low, gain.per_token_high, signed=True)
        found.append(Card("Held-out gain", number(gain.per_token, signed=True), f"nats a token; {ends}"))
        found.append(Card("Likelier", share(gain.wins), f"of {plural(gain.prompts, 'held-out demonstration')}"))
    elif after is not None and run.start_nll_per_token is not None:
        moved = number(run.start_nll_per_token - after, signed=True)
        found.append(Card("Held-out gain", moved, "nats a token, no interval"))
    reward = run.result.check.whole_reward
    if reward:
        ends = share_interval(reward.accuracy.low, reward.accuracy.high)
        detail = f"{ends}, {plural(reward.pairs, 'held-out pair')}"
        found.append(Card("Reward accuracy", share(reward.accuracy.value), detail))
    found.append(Card("Time", duration(run.seconds(run.result_stage)), "without measuring"))
    found.append(Card("Memory", memory(run.peak_memory_gib), "peak"))
    operations = run.flops(run.result_stage)
    if operations is not None:
        found.append(Card("Compute", flops(operations), "from token counts"))
    return found


def overview(runs: Sequence[Run]) -> Table:
    """One line a run: its gain over its start model, over the baseline, and its cost."""
    beside = {run.name: (baseline, gain) for run, baseline, gain in against_baseline(runs)}
    rows = []
    for run in runs:
        gain, after = gain_of(run), run.result.check.nll_per_token
        moved = None if after is None or run.start_nll_per_token is None else run.start_nll_per_token - after
        over = beside[run.name][1] if run.name in beside else None
        rows.append(
            (
                run.name,
                run.method,
                gain.verdict if gain else "not known",
                _per_token(gain) if gain else number(moved, signed=True),
                _per_token(over) if over else NOTHING,
                duration(run.seconds(run.result_stage)),
                memory(run.peak_memory_gib),
                flops(run.flops(run.result_stage)),
            )
        )
    against = next((baseline.name for baseline, _ in beside.values()), "baseline")
    headings = ["run", "method", "verdict", "gain over its start", f"gain over {against}", "time", "memory", "compute"]
    return table(headings, rows, texts=3, note="Gains in nats a held-out token, with 95% intervals paired by prompt.")


def _per_token(gain: Gain) -> str:
    return f"{number(gain.per_token, signed=True)} ({interval(gain.per_token_low, gain.per_token_high, signed=True)})"
