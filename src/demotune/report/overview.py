"""The top of the page under the answer: warnings, the main numbers of a run, several runs side by side."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from demotune.common.amounts import flops, plural
from demotune.report.gains import Gain, against_baseline, gain_of
from demotune.report.tables import Table, table
from demotune.report.wording import NOTHING, bounds, duration, memory, number, share
from demotune.runs.file_names import SHORTCUTS, stage_title
from demotune.runs.run import Run
from demotune.runs.shortcuts import RewardVerdict, read_shortcuts


@dataclass(frozen=True, slots=True)
class Card:
    """One of the main numbers."""

    name: str
    value: str
    detail: str
    beside: str = ""
    """What must be read with the number."""
    doubtful: bool = False
    """Whether that speaks against it."""


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
            elif stage.doubt:
                texts.append(f"policy steps were taken (--force) though the reward may follow noise: {stage.doubt}")
            found += [f"{run.name}, {stage_title(stage.number)}: {text}" for text in texts]
        if run.result_stage != run.stages[-1].number:
            result = f"{stage_title(run.result_stage)} of {len(run.stages)}"
            found.append(f"{run.name}: {result} is the result; later ones were worse.")
        if len(runs) > 1 and (audit := _audit(run)) and not audit.better:  # of one run its card says it
            found.append(f"{run.name}: {_against_shortcuts(run, audit)}")
    return found


def cards(run: Run) -> list[Card]:
    """The main numbers of one run."""
    found = []
    if gain := gain_of(run):
        ends = bounds(gain.per_token, signed=True)
        found.append(Card("Held-out gain per token", number(gain.per_token.value, signed=True), f"nats; {ends}"))
        likelier = f"of {plural(gain.prompts, 'held-out demonstration')}"
        found.append(Card("Likelier since the start", share(gain.wins), likelier))
    found += _reward_card(run)
    found.append(Card("Wall-clock time", duration(run.result_cost.seconds), "to the result, without measuring"))
    found.append(Card("Peak memory", memory(run.peak_memory_gib), "of all phases"))
    found.append(Card("Compute", flops(run.result_cost.flops), "to the result, from token counts"))
    return found


def _reward_card(run: Run) -> Iterator[Card]:
    """How often the reward prefers demonstrations, with the shortcut audit beside it."""
    check = run.result.check
    if reward := check.whole_reward:
        since = "since the start" if check.reward_since_start else f"of {stage_title(run.result_stage)}"
        detail = f"{bounds(reward.accuracy, percent=True)}, {plural(reward.prompts, 'held-out prompt')}"
        audit = _audit(run)
        beside = _against_shortcuts(run, audit) if audit else "It was not held against shortcuts."
        yield Card(
            f"Reward accuracy {since}", share(reward.accuracy.value), detail, beside,
            doubtful=audit is None or not audit.better,
        )  # fmt: skip


def _audit(run: Run) -> RewardVerdict | None:
    """The reward of the result's stage against its best shortcut; None where it was not held against any."""
    file = run.folder / SHORTCUTS
    stages = read_shortcuts(file) if file.exists() else ()
    return next((one.reward for one in stages if one.stage == run.result_stage), None)


def _against_shortcuts(run: Run, audit: RewardVerdict) -> str:
    """Stage 2's reward is no better than length: 93% against 95% of 29 pairs."""
    compared = f"{share(audit.reward_accuracy.value)} against {share(audit.shortcut_accuracy.value)}"
    whose = stage_title(run.result_stage).capitalize()
    return f"{whose}'s reward is {audit.short}: {compared} of {plural(audit.pairs, 'pair')}."


def overview(runs: Sequence[Run]) -> Table:
    """One line a run: its gain over its start model, over the baseline, and its cost."""
    beside = {run.name: (baseline.name, gain) for run, baseline, gain in against_baseline(runs)}
    rows = []
    for run in runs:
        gain = gain_of(run)
        rows.append(
            (
                run.name,
                gain.verdict if gain else "not known",
                audit.short if (audit := _audit(run)) else NOTHING,
                _per_token(gain),
                _per_token(beside[run.name][1] if run.name in beside else None),
                run.method,
                duration(run.result_cost.seconds),
                memory(run.peak_memory_gib),
                flops(run.result_cost.flops),
            )
        )
    against = next((baseline for baseline, _ in beside.values()), "baseline")
    headings = ["run", "imitation", "reward", "gain over its start", f"gain over {against}", "method",
                "wall-clock time", "peak memory", "compute"]  # fmt: skip
    note = (
        "Gains in nats a held-out token, with 95% intervals paired by prompt. Reward: that of the result's stage "
        "against its best shortcut."
    )
    return table(headings, rows, texts=3, words=("method",), note=note)


def _per_token(gain: Gain | None) -> str:
    if gain is None:
        return NOTHING
    return f"{number(gain.per_token.value, signed=True)} ({bounds(gain.per_token, signed=True)})"
