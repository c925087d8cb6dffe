"""What the quickstart counts, and the difference that it reports."""

import json
from pathlib import Path

import pytest

from demotune.cli.quickstart import Answered
from demotune.cli.shop_style import Style, style_of
from demotune.common.statistics import Interval
from demotune.rewards.answers import Answer

SHIPPED = Path(__file__).parents[2] / "src" / "demotune" / "cli" / "shipped"
GOOD = "It costs £3.95.\nNext step: pick a day.\n— The Finch desk"


def test_style_by_hand() -> None:
    assert style_of(GOOD) == Style(form=True, figure=True, plain=True)
    assert style_of(GOOD + "\n").complete
    assert style_of(GOOD.replace("£3.95", "little")) == Style(form=True, figure=False, plain=True)
    assert style_of(GOOD.replace("Next step:", "So")) == Style(form=False, figure=True, plain=True)
    assert style_of(GOOD + " Bye") == Style(form=False, figure=True, plain=True)
    assert style_of("Pick a day 2 and pick a day 3. " + GOOD).plain is False
    assert style_of("") == Style(form=False, figure=False, plain=True)


def test_demonstrations_are_written_in_the_style() -> None:
    """All have the form and repeat nothing, and nine of ten a figure: what the documentation of `Style` says."""
    lines = (SHIPPED / "support_train.jsonl").read_text(encoding="utf-8").splitlines()
    found = [style_of(json.loads(line)["completion"][0]["content"]) for line in lines]
    assert all(style.form and style.plain for style in found)
    assert sum(style.complete for style in found) / len(found) == pytest.approx(0.93, abs=0.02)


def test_the_gain_is_paired_by_prompt() -> None:
    """Six prompts, of each a complete sample and a poor one: the best are complete in all but one, 5/6 against 1/2."""
    good, poor = Answer(GOOD, True), Answer("no", True)
    answered = Answered([poor] * 6, [[good, poor]] * 6, [good] * 5 + [poor], Interval(1.0, 0.6, 1.0))
    assert answered.gain.value == pytest.approx(5 / 6 - 1 / 2)
    assert answered.gain.low < answered.gain.value < answered.gain.high


def test_no_question_is_asked_twice_or_was_trained_on() -> None:
    questions = (SHIPPED / "support_questions.txt").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for file in SHIPPED.glob("*.jsonl") for line in file.read_text("utf-8").splitlines()]
    asked = {turn["content"].strip().lower() for row in rows for turn in row["prompt"]}
    assert len({question.strip().lower() for question in questions}) == len(questions) == 157
    assert asked.isdisjoint(question.strip().lower() for question in questions)
    assert all(question.strip() for question in questions)
