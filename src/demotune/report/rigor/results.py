"""Rigor questions about the numbers: intervals, tests, metrics, harm, cost."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from demotune.common.amounts import plural
from demotune.common.statistics import FEWEST
from demotune.report.gains import gain_of
from demotune.report.rigor.comparisons import NO_COMPARISON, controls, run_counts_of
from demotune.report.rigor.evidence import Difference, Evidence, Finding, every, file_of, no, tasks_of, yes
from demotune.report.rigor.surfaces import surfaces
from demotune.report.wording import bounds, number
from demotune.runs.evaluation import Evaluation
from demotune.runs.run import Run

NO_EVALUATION = "no evaluation was given: demotune evaluate --output FOLDER"
SIGNIFICANCE = 0.05
CHECKED = {"nll_per_token": "likelihood", "reward": "reward", "gate": "variety"}
"""Part of check.json -> kind of metric."""


def intervals(evidence: Evidence) -> Finding:
    """For every number: a run's gain on held-out rows, measures, task scores (a standard error), qualities."""
    parts = [_run_interval(run) for run in evidence.runs if run.result.check.nll_per_token is not None]
    for one in evidence.evaluations:
        if one.measures:
            there = [None not in (measure.low, measure.high) for measure in one.measures if measure.value is not None]
            parts.append(_all(f"{file_of(one)}: measures: low and high", there))
        if scores := _headline(one):
            text = f"{one.name}/tasks.json: headline: stderr"
            parts.append(_all(text, [score["stderr"] is not None for score in scores]))
    if table := evidence.comparison:
        there = [quality.known for line in table.lines for quality in line.qualities.values()]
        parts.append(_all(f"{table.name}: lines: qualities: low and high", there))
    return every(parts, "no number about held-out rows, no evaluation, no comparison")


def tests(evidence: Evidence) -> Finding:
    """A p-value for each difference that has any spread."""
    return _of_differences(evidence, "p", [(one, one.p) for one in evidence.differences if one.has_spread])


def corrected(evidence: Evidence) -> Finding:
    """Holm's correction over each table."""
    tested = [(one, one.p_corrected) for one in evidence.differences if one.p is not None]
    return _of_differences(evidence, "p_corrected", tested)


def effect_sizes(evidence: Evidence) -> Finding:
    """Cohen's d_z or h beside the difference and its baseline."""
    sizes = [(one, one.effect_size) for one in evidence.differences if one.has_spread]
    return _of_differences(evidence, "baseline, difference, effect_size", sizes)


def smallest(evidence: Evidence) -> Finding:
    """The smallest difference that would have been found with 80% power."""
    sizes = [(one, one.smallest) for one in evidence.differences if one.has_spread]
    return _of_differences(evidence, "the smallest detectable difference", sizes)


def run_counts(evidence: Evidence) -> Finding:
    """Runs of each setting, or of each evaluated model."""
    if table := evidence.comparison:
        return (
            yes(f"{table.name}: lines: runs: {run_counts_of(table)}")
            if table.settings
            else no(f"{table.name}: no runs")
        )
    models = [(file_of(one), model) for one in evidence.evaluations for model in one.about.get("models", ())]
    parts = (
        yes(f"{file}: models: {model['name']}: {plural(model['runs'], 'run')}")
        if model.get("runs")
        else no(f"{file}: models: {model['name']}: no runs")
        for file, model in models
    )
    return every(parts, NO_COMPARISON)


def metrics(evidence: Evidence) -> Finding:
    """Two kinds at least, in what runs checked, evaluations measured, tasks scored."""
    kinds: dict[str, str] = {}
    for run in evidence.runs:
        for part, kind in CHECKED.items():
            if getattr(run.result.check, part) is not None:
                kinds.setdefault(kind, f"{run.name}/stages/{run.result.number:02d}/check.json: {part}")
    for one in evidence.evaluations:
        for measure in one.measures:
            if measure.value is not None:
                kinds.setdefault(measure.kind, f"{file_of(one)}: {measure.measure}")
        if any(comparison.is_win_rate for comparison in one.comparisons):
            kinds.setdefault("win rate", f"{file_of(one)}: comparisons: win rate")
        if tasks_of(one):
            kinds.setdefault("tasks", f"{one.name}/tasks.json")
    if len(kinds) < 2:
        return no("fewer than two kinds of metric")
    return yes("; ".join(f"{kind} ({where})" for kind, where in kinds.items()))


def by_category(evidence: Evidence) -> Finding:
    """Two tasks at least with scores of their own, or evaluations on different data."""
    for one in evidence.evaluations:
        if len(tasks := {score["task"] for score in _headline(one)}) > 1:
            return yes(f"{one.name}/tasks.json: headline: {', '.join(sorted(tasks))}")
    with_data = [one for one in evidence.evaluations if one.about.get("data", {}).get("hashes")]
    by_data = {tuple(sorted(one.about["data"]["hashes"].values())): one for one in with_data}
    if len(by_data) > 1:
        return yes(f"{', '.join(f'{file_of(one)}: measures' for one in by_data.values())}, each on data of its own")
    return no("neither two tasks nor evaluations on two data sets")


def harm(evidence: Evidence) -> Finding:
    """A stage that its gate calls worse, or a difference to the bad side with a corrected p below 5%."""
    found = [
        f"{run.name}/stages/{stage.number:02d}/check.json: gate.verdict worse"
        for run in evidence.runs
        for stage in run.stages
        if stage.check.gate is not None and stage.check.gate.verdict == "worse"
    ]
    found += [
        f"{one.file}: {one.what} {number(one.value, signed=True)}, corrected p = {one.p_corrected:.2g}"
        for one in evidence.differences
        if one.harmful and one.p_corrected is not None and one.p_corrected < SIGNIFICANCE
    ]
    return every(map(yes, found), "nothing in these files is significantly worse; what was left out cannot be known")


def inference_cost(evidence: Evidence) -> Finding:
    """Seconds, tokens drawn and scored, memory, for each evaluated model."""
    models = [(file_of(one), model) for one in evidence.evaluations for model in one.about.get("models", ())]
    return every((_inference_cost(file, model) for file, model in models), NO_EVALUATION)


def explained_otherwise(evidence: Evidence) -> Finding:
    """Against compute: SFT of equal tokens. Against length and end tokens: the shortcut audit."""
    return every([controls(evidence), surfaces(evidence)], NO_COMPARISON)


def _run_interval(run: Run) -> Finding:
    file, gain = f"{run.name}/stages/{run.result.number:02d}/heldout.jsonl.gz", gain_of(run)
    if gain is None or not gain.per_response.known:
        return no(f"{file}: no numbers of {FEWEST} rows or more, so no interval of nll_per_token")
    ends = f"{number(gain.per_response.value, signed=True)} [{bounds(gain.per_response, signed=True)}]"
    return yes(f"{file} less stages/00/start.jsonl.gz: {ends} nats a response, {plural(gain.prompts, 'prompt')}")


def _all(what: str, there: Sequence[bool]) -> Finding:
    text = f"{what}: {sum(there)} of {len(there)}"
    return yes(text) if there and all(there) else no(text)


def _of_differences(evidence: Evidence, what: str, values: Iterable[tuple[Difference, float | None]]) -> Finding:
    """Every difference has it, in every file; runs side by side need a comparison."""
    if len(evidence.runs) > 1 and evidence.comparison is None:
        return no(f"there are several runs, and {NO_COMPARISON}")
    by_file: dict[str, list[bool]] = {}
    for difference, value in values:
        by_file.setdefault(difference.file, []).append(value is not None)
    return every(
        (_all(f"{file}: {what}", there) for file, there in by_file.items()),
        "no difference is tested: no comparison, and no evaluation with a baseline",
    )


def _headline(one: Evaluation) -> list[dict[str, Any]]:
    models = one.tasks.get("models", {}).values()
    return [score for model in models for score in model["headline"]]


def _inference_cost(file: str, model: Mapping[str, Any]) -> Finding:
    needed = ("seconds", "peak_memory_gib", "sampled_tokens", "scored_tokens")
    if missing := [name for name in needed if not model.get(name)]:
        return no(f"{file}: models: {model['name']}: no {missing[0]}")
    tokens = f"{model['sampled_tokens']} tokens drawn, {model['scored_tokens']} scored"
    return yes(f"{file}: models: {model['name']}: {model['seconds']} s, {tokens}, {model['peak_memory_gib']} GiB")
