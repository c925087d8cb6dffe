"""The top of the page under the answer: warnings, the main numbers of a run, several runs side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

from demotune.common.operations import flops
from demotune.report.gains import Gain, against_baseline, gain_of
from demotune.report.tables import Table, table
from demotune.report.wording import NOTHING, bounds, duration, memory, number, plural, share
from demotune.runs.run import Run


@dataclass(frozen=True, slots=True)
class Card:
    """One of the main numbers."""

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
            if stage.kept:
                texts.append(f"the policy was kept, no policy steps were taken: {stage.kept}")
            found += [f"{run.name}, stage {stage.number}: {text}" for text in texts]
        if run.result_stage != run.stages[-1].number:
            found.append(f"{run.name}: stage {run.result_stage} is the result; later ones were worse.")
    return found


def cards(run: Run) -> list[Card]:
    """The main numbers of one run."""
    found = []
    if gain := gain_of(run):
        ends = bounds(gain.per_token, signed=True)
        found.append(Card("Held-out gain", number(gain.per_token.value, signed=True), f"nats a token; {ends}"))
        found.append(Card("Likelier", share(gain.wins), f"of {plural(gain.prompts, 'held-out demonstration')}"))
    if reward := run.result.check.whole_reward:
        detail = f"{bounds(reward.accuracy, percent=True)}, {plural(reward.prompts, 'held-out prompt')}"
        found.append(Card("Reward accuracy", share(reward.accuracy.value), detail))
    found.append(Card("Time", duration(run.result_cost.seconds), "without measuring"))
    found.append(Card("Memory", memory(run.peak_memory_gib), "peak"))
    found.append(Card("Compute", flops(run.result_cost.flops), "from token counts"))
    return found


def overview(runs: Sequence[Run]) -> Table:
    """One line a run: its gain over its start model, over the baseline, and its cost."""
    beside = {run.name: (baseline.name, gain) for run, baseline, gain in against_baseline(runs)}
    rows = []
    for run in runs:
        gain = gain_of(run)
        rows.append(
            (
                run.name,
                run.method,
                gain.verdict if gain else "not known",
                _per_token(gain),
                _per_token(beside[run.name][1] if run.name in beside else None),
                duration(run.result_cost.seconds),
                memory(run.peak_memory_gib),
                flops(run.result_cost.flops),
            )
        )
    against = next((baseline for baseline, _ in beside.values()), "baseline")
    headings = ["run", "method", "verdict", "gain over its start", f"gain over {against}", "time", "memory", "compute"]
    return table(headings, rows, texts=3, note="Gains in nats a held-out token, with 95% intervals paired by prompt.")


def _per_token(gain: Gain | None) -> str:
    if gain is None:
        return NOTHING
    return f"{number(gain.per_token.value, signed=True)} ({bounds(gain.per_token, signed=True)})"
