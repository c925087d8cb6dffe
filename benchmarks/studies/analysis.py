"""What a study found: chosen settings on test prompts, differences from the best control, and the picture's points."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from benchmarks.studies.frame import Role, Row, Rule, Study, choose, setting_key
from demotune.common.statistics import Comparison, Interval, compare_paired, holm, mean_interval


@dataclass(frozen=True, slots=True)
class Line:
    """A family under a rule: what its chosen settings are worth on test prompts, means over seeds."""

    family: str
    role: Role
    goal: Interval
    measures: Mapping[str, Interval]
    seconds: Interval
    answers: float
    settings: tuple[str, ...]
    """Those chosen, one a seed, each once."""
    validation: float
    """The goal on validation prompts, by which the best control is known."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A method less the best control, the same seeds."""

    family: str
    control: str
    found: Comparison
    corrected_p: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one rule found."""

    rule: Rule
    lines: tuple[Line, ...]
    left_out: tuple[str, ...]
    """Families of which the rule allowed no setting with some seed."""
    differences: tuple[Difference, ...]
    seeds: int


def outcomes(study: Study, rows: Sequence[Row]) -> list[Outcome]:
    """One for each rule; p-values are corrected by Holm over all comparisons of the study."""
    found = [_outcome(study, rows, rule) for rule in study.rules]
    corrected = iter(holm([each.found.p for outcome in found for each in outcome.differences]))
    return [
        replace(outcome, differences=tuple(replace(each, corrected_p=next(corrected)) for each in outcome.differences))
        for outcome in found
    ]


@dataclass(frozen=True, slots=True)
class Reading:
    """A family's chosen settings, one a seed in the seeds' order: their rows on test and on validation prompts."""

    tests: tuple[Row, ...]
    picks: tuple[Row, ...]

    def goals(self, goal: str) -> list[float]:
        return [row.measures[goal] for row in self.tests]


def readings(study: Study, rows: Sequence[Row], rule: Rule) -> dict[str, Reading]:
    """Of each family with a setting that the rule allows in every seed, and with its test rows."""
    own = study.own(rows)
    chosen = choose(own, rule)
    tests = {row.key: row for row in own if row.part == "test"}
    seeds = sorted({seed for _, seed in chosen})
    found = {}
    for family in study.families:
        picks = [chosen[family.name, seed] for seed in seeds if (family.name, seed) in chosen]
        keys = [(row.family, setting_key(row.setting), row.seed, "test") for row in picks]
        if picks and all(key in tests for key in keys):
            found[family.name] = Reading(tuple(tests[key] for key in keys), tuple(picks))
    return found


def _outcome(study: Study, rows: Sequence[Row], rule: Rule) -> Outcome:
    read = readings(study, rows, rule)
    lines = [_line(each, rule.goal) for each in read.values()]
    best = best_control(lines)
    differences = [
        Difference(line.family, best.family, compare_goals(read[line.family], read[best.family], rule.goal), math.nan)
        for line in lines
        if best is not None and line.role == "method"
    ]
    left_out = tuple(family.name for family in study.families if family.name not in read)
    seeds = len({row.seed for row in rows if row.part == "validation"})
    return Outcome(rule, tuple(lines), left_out, tuple(differences), seeds)


def best_control(lines: Sequence[Line]) -> Line | None:
    """The control with the highest goal on validation prompts."""
    controls = [line for line in lines if line.role == "control"]
    return max(controls, key=lambda line: line.validation) if controls else None


def _line(read: Reading, goal: str) -> Line:
    tests = read.tests
    shared = set.intersection(*(set(row.measures) for row in tests))
    return Line(
        family=tests[0].family,
        role=tests[0].role,
        goal=mean_interval(read.goals(goal)),
        measures={name: mean_interval(read.goals(name)) for name in tests[0].measures if name in shared},
        seconds=mean_interval([row.seconds for row in tests]),
        answers=fmean(row.answers for row in tests),
        settings=tuple(dict.fromkeys(setting_key(row.setting) for row in tests)),
        validation=fmean(row.measures[goal] for row in read.picks),
    )


def compare_goals(one: Reading, other: Reading, goal: str) -> Comparison:
    """Paired by seed."""
    by_seed = {row.seed: row.measures[goal] for row in other.tests}
    return compare_paired(one.goals(goal), [by_seed[row.seed] for row in one.tests])


@dataclass(frozen=True, slots=True)
class Point:
    """One setting on validation prompts, mean over seeds."""

    family: str
    role: Role
    setting: str
    quality: float
    entropy: float | None
    nll: float | None


def points(study: Study, rows: Sequence[Row]) -> list[Point]:
    """All settings tried, in the order of the study's families."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.part == "validation":
            groups.setdefault((row.family, setting_key(row.setting)), []).append(row)
    order = [family.name for family in study.families]
    return [
        Point(family, members[0].role, setting, fmean(row.measures[study.quality] for row in members),
              _mean(members, "entropy"), _mean(members, "nll"))
        for (family, setting), members in sorted(groups.items(), key=lambda each: (order.index(each[0][0]), each[0][1]))
    ]  # fmt: skip


def _mean(rows: Sequence[Row], name: str) -> float | None:
    return fmean(row.measures[name] for row in rows) if all(name in row.measures for row in rows) else None
