"""docs/rigor.md: every question that applies is answered once, the counts are those of its rows, evidence is linked."""

import re
from pathlib import Path

from demotune.report.rigor.card import NOT_APPLICABLE, checklist

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "rigor.md"
TEXT = PAGE.read_text(encoding="utf-8")
ROW = re.compile(r"^\| ([^|]*\?) \| (yes|no) \| (.*) \| (yes|no) \|$", re.MULTILINE)
ROWS = ROW.findall(TEXT)
QUESTIONS = {
    asked["question"]: asked["paper"]
    for questions in checklist()["checklist"].values()
    for asked in questions.values()
    if asked["paper"] != NOT_APPLICABLE
}
SHORT = "*Not:*"
"""Begins the words about the pages that a yes does not hold for."""


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_question_that_applies_is_answered_once_and_in_order() -> None:
    assert [question for question, *_ in ROWS] == list(QUESTIONS)
    assert len(QUESTIONS) == 54


def test_the_papers_answers_are_those_of_the_checklist() -> None:
    assert {question: paper for question, _, _, paper in ROWS} == QUESTIONS


def test_the_counts_at_the_top_are_those_of_the_rows() -> None:
    """All yes; those among them that name no page they do not hold for."""
    yes = [evidence for _, answer, evidence, _ in ROWS if answer == "yes"]
    whole = sum(SHORT not in evidence for evidence in yes)
    paper = sum(answer == "yes" for answer in QUESTIONS.values())
    assert f"**{len(yes)} of 54; the paper: {paper}.**" in TEXT
    assert f"{whole} of the {len(yes)} hold for every page" in TEXT


def test_each_yes_links_evidence_that_exists_and_each_no_says_why() -> None:
    wrong = []
    for question, answer, evidence, _ in ROWS:
        links = [link for link in re.findall(r"\]\(([^)\s]+)\)", evidence) if not link.startswith("https:")]
        for link in links:
            path, _, anchor = link.partition("#")
            file = (PAGE.parent / path).resolve() if path else PAGE
            if not file.exists() or (anchor and anchor not in anchors(file)):
                wrong.append(f"{question} {link}")
        if (answer == "yes" and not links) or (answer == "no" and len(evidence) < 20):
            wrong.append(question)
    assert wrong == []
