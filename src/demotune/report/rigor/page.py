"""Rigor questions that the page's own section on limits answers, where it states something about these files."""

from demotune.report.answer import headline_comparison
from demotune.report.facts import facts_of
from demotune.report.rigor.evidence import Evidence, Finding, every, file_of, no, on_the_page, yes
from demotune.runs.evaluation import Evaluation


def limits_section(evidence: Evidence) -> Finding:
    """The page's section, where it can begin with these runs' own seeds."""
    if not evidence.runs or any(run.config.get("seed") is None for run in evidence.runs):
        return no("the page's section on limits cannot name the seeds: run.yaml has none")
    facts = evidence.limits
    return yes(f"the page, What this does not show: {len(facts)} sentences; the first: {facts[0].text}")


def threats(evidence: Evidence) -> Finding:
    """A limit that is a number about these numbers: what so few prompts could not have shown."""
    return evidence.stated(
        "smallest difference", "no held-out rows, and no tested difference, whose smallest detectable size is known"
    )


def scope(evidence: Evidence) -> Finding:
    """What these files say nothing about; there must be a result to bound."""
    if not evidence.evaluations and all(run.result.check.nll_per_token is None for run in evidence.runs):
        return no("there are no results whose scope could be bounded")
    return evidence.stated("scope", "no sentence of the page bounds the scope of these results")


def proxy(evidence: Evidence) -> Finding:
    """Of the metrics in the page's first sentence: likelihood, and each evaluation's headline judge."""
    if all(run.result.check.nll_per_token is None for run in evidence.runs):
        return no("no run with a held-out likelihood, which the page explains")
    meaning = evidence.stated("meaning", "the page does not say what likelihood measures")
    return every([meaning, *(_judge_explained(evidence, one) for one in evidence.evaluations)], "")


def _judge_explained(evidence: Evidence, evaluation: Evaluation) -> Finding:
    headline = headline_comparison(evaluation)
    if headline is None or headline.kind == "likelihood":
        return yes(f"{evaluation.name} has no headline by a judge")
    for fact in facts_of("judge", evidence.limits):
        if fact.source == evaluation.name and headline.judge in fact.judges:
            return on_the_page(fact)
    return no(f"{file_of(evaluation)}: what {headline.measure} measures is not said")
