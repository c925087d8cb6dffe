"""Rigor questions about the comparison of runs: seeds, ranking, baselines, ablations, equal compute."""

from collections.abc import Callable
from functools import wraps
from itertools import combinations

from demotune.common.amounts import plural
from demotune.report.rigor.evidence import ComparisonFile, Evidence, Finding, every, no, yes
from demotune.report.settings import own_fields
from demotune.runs.comparison import Line

NO_COMPARISON = "no comparison was given: demotune compare RUNS --output FOLDER"
EQUAL_TOKENS = 0.1
"""Trained tokens of a control may differ by this share."""


def _compared(find: Callable[[ComparisonFile], Finding]) -> Callable[[Evidence], Finding]:
    """A question about the comparison is answered no where none was given."""

    @wraps(find)
    def answer(evidence: Evidence) -> Finding:
        return no(NO_COMPARISON) if evidence.comparison is None else find(evidence.comparison)

    return answer


@_compared
def scatter(table: ComparisonFile) -> Finding:
    """Two seeds or more in each compared setting."""
    single = [line.setting for line, _ in table.settings if len(set(line.seeds)) < 2]
    if single or not table.settings:
        return no(f"{table.name}: one seed only: {', '.join(single)}")
    return yes(f"{table.name}: lines: qualities over seeds; {run_counts_of(table)}")


@_compared
def ranking(table: ComparisonFile) -> Finding:
    """Mean rank and share of first places over the same seeds."""
    ranked = [line for line, _ in table.settings if line.rank is not None and len(set(line.seeds)) > 1]
    if not ranked or len(ranked) < len(table.settings):
        return no(f"{table.name}: no ranks over two or more seeds that all settings share")
    ranks = ", ".join(f"{line.setting} {line.rank:.1f} (first in {line.best_share:.0%})" for line in ranked)
    return yes(f"{table.name}: lines: rank: {ranks}")


@_compared
def baselines(table: ComparisonFile) -> Finding:
    """SFT, SPIN and the start model in one comparison."""
    there = {line.method for line in table.lines}
    if missing := [name or "start model" for name in ("sft", "spin", None) if name not in there]:
        return no(f"{table.name}: without {', '.join(missing)}")
    return yes(f"{table.name}: lines: {', '.join(line.setting for line in table.lines)}")


@_compared
def ablations(table: ComparisonFile) -> Finding:
    """Two settings of one method that differ in one field of that method, or in its learning rate."""
    pairs = (_ablation(one, other) for (one, _), (other, _) in combinations(table.settings, 2))
    found = list(dict.fromkeys(pair for pair in pairs if pair))
    text = "; ".join(found) or "no two settings differ in one field"
    return Finding(bool(found), f"{table.name}: lines: {text}")


@_compared
def equal_compute(table: ComparisonFile) -> Finding:
    """Quality and operations of each setting, and beside each one SFT that trained on as many tokens."""
    found = _controls(table)
    return yes(f"{table.name}: lines: qualities and cost.flops; {found.text}") if found.found else found


def _controls(table: ComparisonFile) -> Finding:
    """For each setting of another method, SFT whose trained tokens differ by 10% at most."""
    plain = [(line.setting, cost.trained_tokens) for line, cost in table.settings if line.method == "sft"]
    parts = []
    for line, cost in table.settings:
        if line.method == "sft":
            continue
        tokens = cost.trained_tokens
        beside = [one for one in plain if abs(one[1] - tokens) <= EQUAL_TOKENS * tokens]
        if not beside:
            return no(f"{table.name}: no SFT with the trained tokens of {line.setting}: add --control sft")
        same = f"{line.setting} {tokens:,}, {beside[0][0]} {beside[0][1]:,}"
        parts.append(yes(f"{table.name}: lines: cost.trained_tokens: {same}"))
    return every(parts, f"{table.name}: no setting but SFT")


controls = _compared(_controls)


def _ablation(one: Line, other: Line) -> str | None:
    """The one field in which two settings differ, where it is the method's own or its learning rate."""
    method, mine, theirs = one.method, one.fields, other.fields
    if method is None or other.method != method or one.control_of or other.control_of:
        return None
    differing = [name for name in mine if mine[name] != theirs.get(name)]
    if len(mine) != len(theirs) or len(differing) != 1 or differing[0] not in (*own_fields(method), "learning_rate"):
        return None
    name = differing[0]
    return f"{method} with {name}={mine[name]} and {name}={theirs[name]}"


def run_counts_of(table: ComparisonFile) -> str:
    return ", ".join(f"{line.setting} {plural(len(line.runs), 'run')}" for line, _ in table.settings)
