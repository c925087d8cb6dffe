"""Tables of the page of checks that the journals of the studies give: claims, sizes, scatter, grids, compute."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from benchmarks.studies.analysis import Outcome, outcomes, readings
from benchmarks.studies.claims import tested
from benchmarks.studies.frame import Row, Rule, Study, choose, read_rows, setting_key
from benchmarks.studies.run import STUDIES, load_study
from demotune.common.statistics import Comparison, ranks

BUDGETS = (2.0, 4.0, 8.0, 16.0)
"""Seconds."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A study whose test prompts were read."""

    study: Study
    rows: Sequence[Row]
    found: Sequence[Outcome]


def finished() -> list[Finished]:
    known = [(study, read_rows(study.journal)) for study in map(load_study, STUDIES) if study.journal.exists()]
    made = [Finished(study, rows, outcomes(study, rows)) for study, rows in known]
    return [each for each in made if any(outcome.differences for outcome in each.found)]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)) + "\n"


def size(found: Comparison) -> list[str]:
    """Difference with its interval, standardised size, the smallest difference that would have been shown."""
    return [found.difference.text(3), f"{found.effect_size:.1f}", f"{found.smallest:.3f}"]


SIZE = ["difference [95%]", "d_z", "would show"]


def claims() -> str:
    rows = [
        [
            f"[{each.claim.study}]({each.claim.study}.md), {each.claim.rule}",
            each.claim.words,
            f"{each.claim.one} − {each.claim.other}",
            *size(each.found),
            f"{each.corrected_p:.2g}",
            each.claim.alone or "more: no cause is named",
        ]
        for each in tested()
    ]
    return table(["study", "claim", "less", *SIZE, "p, Holm", "what alone differs"], rows)


def comparisons(studies: Sequence[Finished]) -> str:
    rows = [
        [
            f"{each.study.name}, {outcome.rule.name}",
            f"{one.family} − {one.control}",
            *size(one.found),
            str(one.found.items),
            f"{one.found.p:.2g}",
            f"{one.corrected_p:.2g}",
        ]
        for each in studies
        for outcome in each.found
        for one in outcome.differences
    ]
    return table(["study", "method − best control", *SIZE, "seeds", "p", "p, Holm"], rows)


def scatter(studies: Sequence[Finished]) -> str:
    """Of the chosen settings: scatter between seeds, what choosing on validation prompts flattered, rank."""
    rows = []
    for each in studies:
        for rule in each.study.rules:
            read = readings(each.study, each.rows, rule)
            goals = {name: one.goals(rule.goal) for name, one in read.items() if one.tests[0].role != "oracle"}
            found = ranks(goals)
            for name, values in goals.items():
                picked = fmean(row.measures[rule.goal] for row in read[name].picks)
                rows.append([
                    f"{each.study.name}, {rule.name}", name, f"{fmean(values):.3f}", f"{stdev(values):.3f}",
                    f"{min(values):.3f}, {max(values):.3f}", f"{picked - fmean(values):+.3f}",
                    f"{found.mean[name]:.1f} of {len(goals)}", f"{found.best_share[name]:.0%}",
                ])  # fmt: skip
    return table(
        ["study", "family", "goal", "SD over seeds", "least, most", "validation − test", "mean rank", "first"], rows
    )


def grids(studies: Sequence[Finished]) -> str:
    """How many settings each family tried."""
    rows = []
    for each in studies:
        for family in each.study.families:
            own = [row for row in each.rows if row.family == family.name and row.part == "validation"]
            tried = {setting_key(row.setting) for row in own}
            dropped = len(tried - {setting_key(setting) for setting in family.settings})
            spent = sum({(row.seed, _model_of(row)): row.seconds for row in own}.values())
            rows.append([
                each.study.name, f"{family.name} ({family.role})", str(len(tried)), str(dropped or ""),
                str(len({row.seed for row in own})), f"{spent / 60:.0f}",
            ])  # fmt: skip
    return table(["study", "family", "settings", "of them dropped later", "seeds", "minutes, at most"], rows)


def _model_of(row: Row) -> str:
    """The setting without what costs no training."""
    return setting_key({name: value for name, value in row.setting.items() if name not in ("temperature", "n")})


def compute(studies: Sequence[Finished]) -> str:
    """The best control and the best method among settings of at most so many seconds, on validation prompts."""
    rows = []
    for each in studies:
        for rule in each.study.rules:
            cells = [_both(each, within(rule, seconds)) for seconds in BUDGETS]
            rows.append([f"{each.study.name}, {rule.name}", *cells])
    return table(["study", *(f"{seconds:g} s" for seconds in BUDGETS)], rows)


def within(rule: Rule, seconds: float) -> Rule:
    """The rule among settings of at most so many seconds."""
    return replace(rule, allows=lambda row, start: rule.allows(row, start) and row.seconds <= seconds)


def _both(each: Finished, rule: Rule) -> str:
    goals = family_goals(each.study.own(each.rows), rule)
    best = [max((value for role, value in goals.values() if role == side), default=None) for side in SIDES]
    return " / ".join("–" if value is None else f"{value:.3f}" for value in best)


SIDES = ("control", "method")


def family_goals(rows: Sequence[Row], rule: Rule) -> Mapping[str, tuple[str, float]]:
    """Family -> role, mean goal over seeds of its chosen settings, on validation prompts."""
    chosen: dict[str, list[Row]] = {}
    for (family, _), row in choose(rows, rule).items():
        chosen.setdefault(family, []).append(row)
    return {name: (each[0].role, fmean(row.measures[rule.goal] for row in each)) for name, each in chosen.items()}


def responses(study: Study, rows: Sequence[Row]) -> str:
    """Best of n, as varied: every reward with the same number of responses, on validation prompts."""
    rule = next(each for each in study.rules if each.name == "as varied")
    names = [each.name for each in study.families if all(set(one) == {"n", "temperature"} for one in each.settings)]
    counts = sorted({row.answers for row in rows if row.family in names})
    found = [family_goals(study.own(rows), of_responses(rule, count)) for count in counts]
    cells = [
        [name, *(f"{goals[name][1]:.3f}" if name in goals else "–" for goals in found)]
        for name in names
        if any(name in goals for goals in found)
    ]
    return table(["reward", *(f"n = {count}" for count in counts)], cells)


def of_responses(rule: Rule, count: int) -> Rule:
    """The rule among settings whose answers cost so many responses."""
    return replace(rule, allows=lambda row, start: rule.allows(row, start) and row.answers == count)


def all_settings(studies: Sequence[Finished]) -> Iterator[Sequence[str]]:
    """Of every setting tried, on validation prompts: mean and scatter over seeds. Lines of a CSV file."""
    yield "study", "family", "role", "setting", "seeds", "goal", "sd", "least", "most"
    for each in studies:
        groups: dict[tuple[str, str], list[Row]] = {}
        for row in each.rows:
            if row.part == "validation":
                groups.setdefault((row.family, setting_key(row.setting)), []).append(row)
        for (family, setting), rows in sorted(groups.items()):
            goals = [row.measures[each.study.quality] for row in rows]
            scattered = stdev(goals) if len(goals) > 1 else float("nan")
            numbers = (f"{value:.4f}" for value in (fmean(goals), scattered, min(goals), max(goals)))
            yield each.study.name, family, rows[0].role, setting, str(len(goals)), *numbers
