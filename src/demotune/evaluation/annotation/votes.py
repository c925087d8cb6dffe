"""What the votes say: win rates with intervals, by rater and together, and how far raters agree."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from demotune.common.amounts import plural
from demotune.common.files import write_json
from demotune.common.json_records import as_json
from demotune.common.progress import say, show_table
from demotune.evaluation.annotation.items import Contest, ItemName, contest_of
from demotune.evaluation.comparisons import corrected, win_rate
from demotune.runs.annotations import Vote, read_votes
from demotune.runs.evaluation import Comparison, read_evaluation
from demotune.runs.file_names import ANNOTATIONS, EVALUATION
from demotune.runs.heldout import win

PEOPLE = "people"
"""The judge's name, and its kind."""

Verdicts = Mapping[ItemName, float]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far raters agree on what all of them rated."""

    raters: int
    items: int
    same: float
    """Share of items on which all gave the same verdict."""
    measure: str
    kappa: float
    """Over the three verdicts; nan where everything got the same one."""

    @property
    def text(self) -> str:
        kappa = "not defined: all verdicts are one" if math.isnan(self.kappa) else f"{self.kappa:.2f}"
        return f"{self.same:.0%} alike of {self.items} that all {self.raters} rated, {self.measure} {kappa}"


def standing(votes: Iterable[Vote]) -> dict[ItemName, float]:
    """The votes of one rater that hold, in the order in which they were cast."""
    found: dict[ItemName, float] = {}
    for vote in votes:
        name = ItemName(vote.key, vote.baseline, vote.answers)
        found.pop(name, None)
        if vote.verdict is not None:
            found[name] = vote.verdict
    return found


def by_rater(contest: Contest) -> dict[str, Verdicts]:
    """Votes on the answers that the evaluation holds now; a rater without any is not there."""
    asked = {item.name for item in contest.items}
    found = {rater: standing(votes) for rater, votes in read_votes(contest.folder).items()}
    kept = {rater: {name: own[name] for name in own if name in asked} for rater, own in found.items()}
    return {rater: own for rater, own in kept.items() if own}


def together(raters: Mapping[str, Verdicts]) -> Verdicts:
    """One verdict an item: what most raters prefer; a tie where as many prefer either, or neither."""
    names = dict.fromkeys(name for own in raters.values() for name in own)
    return {name: win(fmean(own[name] for own in raters.values() if name in own), 0.5) for name in names}


def verdicts_against(contest: Contest, baseline: str, given: Verdicts) -> list[float]:
    """One verdict a prompt; identical answers are ties, up to the last prompt that was voted on."""
    items = [item for item in contest.items if item.name.baseline == baseline]
    last = max((place for place, item in enumerate(items) if item.name in given), default=-1)
    found = [0.5 if item.identical else given.get(item.name) for item in items[: last + 1]]
    return [verdict for verdict in found if verdict is not None]


def agreement(raters: Mapping[str, Verdicts]) -> Agreement | None:
    """Cohen's kappa of two raters, Fleiss' of more; None for one rater, or where no item was rated by all."""
    from sklearn.metrics import cohen_kappa_score  # noqa: PLC0415 (slow)
    from statsmodels.stats.inter_rater import aggregate_raters, fleiss_kappa  # noqa: PLC0415 (slow)

    shared = sorted(set[ItemName].intersection(*map(set, raters.values())), key=str) if len(raters) > 1 else []
    if not shared:
        return None
    rated = [[int(2 * own[name]) for own in raters.values()] for name in shared]  # (items, raters)
    same = fmean(len(set(row)) == 1 for row in rated)
    measure = "Cohen's kappa" if len(raters) == 2 else "Fleiss' kappa"
    if len({verdict for row in rated for verdict in row}) == 1:
        kappa = math.nan
    elif len(raters) == 2:
        kappa = float(cohen_kappa_score(*zip(*rated, strict=True)))
    else:
        kappa = float(fleiss_kappa(aggregate_raters(rated)[0]))
    return Agreement(len(raters), len(shared), same, measure, kappa)


def win_rates(judge: str, contest: Contest, given: Verdicts) -> list[Comparison]:
    """Against each baseline on which there is a vote."""
    return [
        win_rate(judge, contest.model, baseline, verdicts)
        for baseline in contest.baselines
        if (verdicts := verdicts_against(contest, baseline, given))
    ]


def join_votes(folder: Path) -> dict[str, Any] | None:
    """Put the votes that were cast in this folder into its evaluation.json, as judge `people`; returns what it holds.

    The p-values of all comparisons are corrected anew. None where nobody ever voted here.
    """
    if not (folder / ANNOTATIONS).is_dir():
        return None
    evaluation = read_evaluation(folder)
    record = dict(evaluation.about)
    contest = contest_of(evaluation)
    raters = by_rater(contest)
    others = [one for one in evaluation.comparisons if one.judge != PEOPLE]
    record["comparisons"] = corrected([*others, *win_rates(PEOPLE, contest, together(raters))])
    record["judges"] = [judge for judge in record.get("judges", ()) if judge["kind"] != PEOPLE]
    if raters:
        record["judges"].append(_judge(raters))
    joined: dict[str, Any] = as_json(record)
    write_json(folder / EVALUATION, joined)
    return joined


def _judge(raters: Mapping[str, Verdicts]) -> dict[str, Any]:
    found = agreement(raters)
    votes = sum(map(len, raters.values()))
    note = f"{plural(len(raters), 'rater')}, {plural(votes, 'blind vote')}" + (f"; {found.text}" if found else "")
    return {
        "name": PEOPLE,
        "kind": PEOPLE,
        "hash": None,
        "note": note,
        "abstained": {},
        "order_dependent": None,
        "raters": {rater: len(own) for rater, own in raters.items()},
        "agreement": found,
    }


def show_votes(folder: Path) -> None:
    """Win rates by all raters together and by each, and how far they agree."""
    contest = contest_of(read_evaluation(folder))
    raters = by_rater(contest)
    if not raters:
        say(f"nobody has voted on {folder} yet")
        return
    lines = [*win_rates("all raters" if len(raters) > 1 else next(iter(raters)), contest, together(raters))]
    for rater, own in raters.items() if len(raters) > 1 else ():
        lines += win_rates(rater, contest, own)
    title = f"win rate of {contest.model}, 95% intervals over prompts; p by the sign test, not corrected"
    show_table(title, ("", "against", "win rate", "p", "prompts"), map(_cells, lines), texts=2)
    if found := agreement(raters):
        say(f"agreement: {found.text}")
    elif len(raters) > 1:
        say("agreement: no pair of answers was rated by all raters")
    asked = {item.name for item in contest.items}
    cast = [standing(votes) for votes in read_votes(folder).values()]
    if old := sum(name not in asked for own in cast for name in own):
        say(f"{plural(old, 'vote')} on answers that the evaluation no longer holds: not counted", style="yellow")
    say(f"in {folder / EVALUATION}, as judge {PEOPLE}; a page shows it: demotune report RUN --evaluation {folder}")


def _cells(line: Comparison) -> Sequence[str]:
    found = "-" if line.interval is None else line.interval.text(3)
    return str(line.judge), line.baseline, found, "-" if line.p is None else f"{line.p:.2g}", str(line.items)
