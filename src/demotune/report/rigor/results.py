"""Rigor questions about the numbers: intervals, tests, seeds, baselines, metrics, harm, cost."""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

from demotune.common.statistics import FEWEST
from demotune.config.field import field_types
from demotune.config.methods import CONFIGS, RunConfig
from demotune.report.collect import Run
from demotune.report.gains import gain_of
from demotune.report.rigor.evidence import (
    ComparisonFile,
    Difference,
    EvaluationFiles,
    Evidence,
    Finding,
    every,
    method_of,
    no,
    yes,
)
from demotune.report.wording import interval, number, plural

NO_COMPARISON = "no comparison was given: demotune compare RUNS --output FOLDER"
NO_EVALUATION = "no evaluation was given: demotune evaluate --output FOLDER"
EQUAL_TOKENS = 0.1
"""Trained tokens of a control may differ by this share."""
SIGNIFICANCE = 0.05
KINDS = {
    "log-likelihood of demonstrations": "likelihood",
    "gap": "preference",
    "preference accuracy": "preference",
    "reward": "reward",
    "length of answers": "length",
    "distinct bigrams": "variety",
    "repeated 4-grams": "variety",
}
"""How a measure's name begins -> what kind of metric it is."""


def intervals(evidence: Evidence) -> Finding:
    """For every number: a run's gain on held-out rows, measures, task scores (a standard error), qualities."""
    parts = [_run_interval(run) for run in evidence.runs if run.result.check.nll_per_token is not None]
    for one in evidence.evaluations:
        if one.told.measures:
            ends = [(m.low, m.high) for m in one.told.measures if m.value is not None]
            parts.append(_all(f"{one.file}: measures: low and high", [None not in both for both in ends]))
        if scores := _headline(one):
            text = f"{one.name}/tasks.json: headline: stderr"
            parts.append(_all(text, [score["stderr"] is not None for score in scores]))
    if table := evidence.comparison:
        ends = [(q["low"], q["high"]) for line in table.record["lines"] for q in line["qualities"].values()]
        parts.append(_all(f"{table.name}: lines: qualities: low and high", [None not in both for both in ends]))
    return every(parts, "no number about held-out rows, no evaluation, no comparison")


def tests(evidence: Evidence) -> Finding:
    """A p-value for each difference that has any spread."""
    return _of_differences(evidence, "p", [(one, one.p) for one in evidence.differences if one.has_spread])


def corrected(evidence: Evidence) -> Finding:
    """Holm's correction over each table."""
    told = [(one, one.p_corrected) for one in evidence.differences if one.p is not None]
    return _of_differences(evidence, "p_corrected", told)


def effect_sizes(evidence: Evidence) -> Finding:
    """Cohen's d_z or h beside the difference and its baseline."""
    told = [(one, one.effect_size) for one in evidence.differences if one.has_spread]
    return _of_differences(evidence, "baseline, difference, effect_size", told)


def smallest(evidence: Evidence) -> Finding:
    """The least difference that would have been seen with 80% power."""
    told = [(one, one.smallest) for one in evidence.differences if one.has_spread]
    return _of_differences(evidence, "the smallest difference to be seen", told)


def scatter(evidence: Evidence) -> Finding:
    """Two seeds or more in each compared setting."""
    if (table := evidence.comparison) is None:
        return no(NO_COMPARISON)
    single = [str(line["setting"]) for line in table.settings if len(set(line["seeds"])) < 2]
    if single or not table.settings:
        return no(f"{table.name}: one seed only: {', '.join(single)}")
    return yes(f"{table.name}: lines: qualities over seeds; {_runs(table)}")


def ranking(evidence: Evidence) -> Finding:
    """Mean rank and share of first places over the same seeds."""
    if (table := evidence.comparison) is None:
        return no(NO_COMPARISON)
    told = [line for line in table.settings if line["rank"] is not None and len(set(line["seeds"])) > 1]
    if not told or len(told) < len(table.settings):
        return no(f"{table.name}: no ranks over two or more seeds that all settings share")
    ranks = ", ".join(f"{line['setting']} {line['rank']:.1f} (first in {line['best_share']:.0%})" for line in told)
    return yes(f"{table.name}: lines: rank: {ranks}")


def run_counts(evidence: Evidence) -> Finding:
    """Runs of each setting, or an evaluation's word that each model is one run."""
    if table := evidence.comparison:
        return yes(f"{table.name}: lines: runs: {_runs(table)}") if table.settings else no(f"{table.name}: no runs")
    parts = []
    for one in evidence.evaluations:
        said = [text for text in one.told.warnings if "each model is one run" in text]
        parts.append(yes(f"{one.file}: warnings: {said[0]}") if said else no(f"{one.file}: not said"))
    return every(parts, NO_COMPARISON)


def baselines(evidence: Evidence) -> Finding:
    """SFT, SPIN and the start model in one comparison."""
    if (table := evidence.comparison) is None:
        return no(NO_COMPARISON)
    methods = {method_of(line) for line in table.settings}
    missing = [name for name in ("sft", "spin") if name not in methods] + ([] if table.has_start else ["start model"])
    if missing:
        return no(f"{table.name}: without {', '.join(missing)}")
    return yes(f"{table.name}: lines: {', '.join(str(line['setting']) for line in table.record['lines'])}")


def ablations(evidence: Evidence) -> Finding:
    """Two settings of one method that differ in one field of that method, or in its learning rate.

    A label names every field in which settings of its method differ, so labels tell.
    """
    if (table := evidence.comparison) is None:
        return no(NO_COMPARISON)
    pairs = (_turned(one, other) for one, other in combinations(table.settings, 2))
    found = list(dict.fromkeys(pair for pair in pairs if pair))
    text = "; ".join(found) or "no two settings differ in one knob"
    return Finding(bool(found), f"{table.name}: lines: {text}")


def metrics(evidence: Evidence) -> Finding:
    """Two kinds at least, in what runs checked, evaluations measured, tasks scored."""
    kinds: dict[str, str] = {}
    for run in evidence.runs:
        file = f"{run.name}/stages/{run.result.number:02d}/check.json"
        told = {"nll_per_token": "likelihood", "reward": "reward", "gate": "variety"}
        kinds = {kind: f"{file}: {name}" for name, kind in told.items() if getattr(run.result.check, name)} | kinds
    for one in evidence.evaluations:
        for measure in (m for m in one.told.measures if m.value is not None):
            kind = next((kind for start, kind in KINDS.items() if measure.measure.startswith(start)), None)
            kinds |= {kind: f"{one.file}: {measure.measure}"} if kind and kind not in kinds else {}
        if any(comparison.is_win_rate for comparison in one.told.comparisons):
            kinds.setdefault("win rate", f"{one.file}: comparisons: win rate")
        if one.task_names:
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
    told = {tuple(sorted(one.about["data"]["hashes"].values())): one for one in with_data}
    if len(told) > 1:
        return yes(f"{', '.join(f'{one.file}: measures' for one in told.values())}, each on data of its own")
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
    models = [(one.file, model) for one in evidence.evaluations for model in one.about.get("models", ())]
    return every((_inference_cost(file, model) for file, model in models), NO_EVALUATION)


def equal_compute(evidence: Evidence) -> Finding:
    """Quality and operations of each setting, and beside each one SFT that trained on as many tokens."""
    if (table := evidence.comparison) is None:
        return no(NO_COMPARISON)
    if any((line["cost"] or {}).get("flops") is None for line in table.settings):
        return no(f"{table.name}: lines: cost.flops is not known for every setting")
    found = controls(table)
    return yes(f"{table.name}: lines: qualities and cost.flops; {found.text}") if found.found else found


def explained_otherwise(evidence: Evidence) -> Finding:
    """Against compute: SFT of equal tokens. Against length and end tokens: the audit of surfaces."""
    if evidence.comparison is None:
        return no(NO_COMPARISON)
    return every([controls(evidence.comparison), surfaces(evidence)], NO_COMPARISON)


def surfaces(evidence: Evidence) -> Finding:
    """What length, end token (which is the cut), first and last tokens tell, for each run that drew samples."""
    parts = (
        yes("; ".join(audit.text for audit in audits)) if audits else no(f"{run}: too few prompts to audit")
        for run, audits in evidence.audits.items()
    )
    return every(parts, "no run with samples whose surface could be compared with demonstrations")


def controls(table: ComparisonFile) -> Finding:
    """For each setting of another method, SFT whose trained tokens differ by 10% at most."""
    trained = [(line, (line["cost"] or {}).get("trained_tokens")) for line in table.settings]
    plain = [(line, tokens) for line, tokens in trained if method_of(line) == "sft" and tokens]
    parts = []
    for line, tokens in trained:
        if method_of(line) == "sft":
            continue
        beside = [one for one, other in plain if tokens and abs(other - tokens) <= EQUAL_TOKENS * tokens]
        if not beside:
            return no(f"{table.name}: no SFT with the trained tokens of {line['setting']}: add --control sft")
        same = f"{line['setting']} {tokens:,}, {beside[0]['setting']} {beside[0]['cost']['trained_tokens']:,}"
        parts.append(yes(f"{table.name}: lines: cost.trained_tokens: {same}"))
    return every(parts, f"{table.name}: no setting but SFT")


def _run_interval(run: Run) -> Finding:
    file, gain = f"{run.name}/stages/{run.result.number:02d}/heldout.jsonl.gz", gain_of(run)
    if gain is None or not gain.interval.known:
        return no(f"{file}: no numbers of {FEWEST} rows or more, so no interval of nll_per_token")
    ends = f"{number(gain.per_response, signed=True)} [{interval(gain.low, gain.high, signed=True)}]"
    return yes(f"{file} less stages/00/start.jsonl.gz: {ends} nats a response, {plural(gain.prompts, 'prompt')}")


def _all(what: str, there: Sequence[bool]) -> Finding:
    text = f"{what}: {sum(there)} of {len(there)}"
    return yes(text) if there and all(there) else no(text)


def _of_differences(evidence: Evidence, what: str, told: Iterable[tuple[Difference, float | None]]) -> Finding:
    """Every difference has it, in every file; runs side by side need a comparison."""
    if len(evidence.runs) > 1 and evidence.comparison is None:
        return no(f"the runs stand side by side, and {NO_COMPARISON}")
    by_file: dict[str, list[bool]] = {}
    for difference, value in told:
        by_file.setdefault(difference.file, []).append(value is not None)
    return every(
        (_all(f"{file}: {what}", there) for file, there in by_file.items()),
        "no difference is tested: no comparison, and no evaluation with a baseline",
    )


def _turned(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """The one field in which two settings differ, where it is the method's own or its learning rate."""
    method = method_of(one)
    first, second = (re.split(r" (?=\w+=)", str(line["setting"])) for line in (one, other))
    differing = [(a, b) for a, b in zip(first, second, strict=False) if a != b]
    if (
        first[0] != method
        or second[0] != method
        or len(first) != len(second)
        or len(differing) != 1
        or method not in CONFIGS
    ):
        return None
    mine, theirs = differing[0]
    field = mine.partition("=")[0]
    own = field_types(CONFIGS[method]).keys() - field_types(RunConfig).keys() | {"learning_rate"}
    return f"{method} with {mine} and {theirs}" if field in own and field == theirs.partition("=")[0] else None


def _headline(one: EvaluationFiles) -> list[dict[str, Any]]:
    models = one.told.tasks.get("models", {}).values()
    return [score for model in models for score in model["headline"]]


def _inference_cost(file: str, model: Mapping[str, Any]) -> Finding:
    needed = ("seconds", "peak_memory_gib", "sampled_tokens", "scored_tokens")
    if missing := [name for name in needed if not model.get(name)]:
        return no(f"{file}: models: {model['name']}: no {missing[0]}")
    tokens = f"{model['sampled_tokens']} tokens drawn, {model['scored_tokens']} scored"
    return yes(f"{file}: models: {model['name']}: {model['seconds']} s, {tokens}, {model['peak_memory_gib']} GiB")


def _runs(table: ComparisonFile) -> str:
    return ", ".join(f"{line['setting']} {plural(len(line['runs']), 'run')}" for line in table.settings)
