"""Rigor questions that the page's own section on limits answers, where it has something to say about these files."""

from collections.abc import Sequence

from demotune.report.answer import headline_comparison
from demotune.report.rigor.evidence import EvaluationFiles, Evidence, Finding, every, no, yes

LIKELIHOOD = "log-likelihood of demonstrations"


def limits_section(evidence: Evidence) -> Finding:
    """The page's section, where it can begin with these runs' own seeds."""
    if not evidence.runs or any(run.config.get("seed") is None for run in evidence.runs):
        return no("the page's section on limits has no seed to speak of: run.yaml names none")
    return yes(f"the page, What this does not show: {len(evidence.limits)} sentences; the first: {evidence.limits[0]}")


def threats(evidence: Evidence) -> Finding:
    """A limit that is a number about these numbers: what so few prompts could not have shown."""
    words = ("a change smaller than about", "could have seen a difference of about")
    return _said(evidence, words, "no held-out rows, and no tested difference, whose least visible size is known")


def scope(evidence: Evidence) -> Finding:
    """What these files say nothing about; there must be a result to bound."""
    if not evidence.evaluations and all(run.result.check.nll_per_token is None for run in evidence.runs):
        return no("there are no results whose scope could be bounded")
    return _said(evidence, ("nothing here s",), "no sentence of the page bounds the scope of these results")


def proxy(evidence: Evidence) -> Finding:
    """Of the metrics in the page's first sentence: likelihood, and each evaluation's headline judge."""
    if all(run.result.check.nll_per_token is None for run in evidence.runs):
        return no("no run with a held-out likelihood, which the page explains")
    parts = [_said(evidence, ("Likelihood of demonstrations says",), "the page does not say what likelihood is")]
    return every([*parts, *(_judge_explained(evidence, one) for one in evidence.evaluations)], "")


def _judge_explained(evidence: Evidence, one: EvaluationFiles) -> Finding:
    headline = headline_comparison(one.told)
    if headline is None or headline.measure.startswith(LIKELIHOOD):
        return yes(f"{one.name} has no headline by a judge")
    said = [text for text in evidence.limits if text.startswith(f"{one.name}:") and "no independent witness" in text]
    if headline.judge and any(headline.judge in text for text in said):
        return yes(f"the page, What this does not show: {said[0]}")
    return no(f"{one.file}: what {headline.measure} stands for is not said")


def _said(evidence: Evidence, words: Sequence[str], missing: str) -> Finding:
    found = next((text for text in evidence.limits if any(word in text for word in words)), None)
    return yes(f"the page, What this does not show: {found}") if found else no(missing)
