"""What the quickstart counts, and the difference that it reports."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from demotune.cli.quickstart import TEMPERATURE, Answered, _rows_of, _show_answers, _show_shares
from demotune.cli.shop_style import Style, style_of
from demotune.common.statistics import Interval
from demotune.rewards.answers import Answer

SHIPPED = Path(__file__).parents[2] / "src" / "demotune" / "cli" / "shipped"
GOOD = "It costs £3.95. It leaves today.\nNext step: pick a day.\n— The Finch desk"
ALL = {"form": True, "figure": True, "plain": True, "full": True}


def test_style_by_hand() -> None:
    assert style_of(GOOD) == Style(**ALL)
    assert style_of(GOOD + "\n").complete
    for text, missing in (
        (GOOD.replace("£3.95", "little"), {"figure"}),
        (GOOD.replace("Next step:", "So"), {"form"}),
        (GOOD + " Bye", {"form"}),
        ("Pick a day 2 and pick a day 3. " + GOOD, {"plain"}),
        (GOOD.replace(" It leaves today.", ""), {"full"}),  # £3.95 has a point, and ends no sentence there
        (GOOD.replace("£3.95. It leaves", "little, it leaves"), {"figure", "full"}),
        ("", {"form", "figure", "full"}),
    ):
        assert style_of(text) == Style(**ALL | dict.fromkeys(missing, False)), text
        assert not style_of(text).complete


def test_demonstrations_are_written_in_the_style() -> None:
    """All have the form and two sentences and repeat nothing, and nine of ten a figure, as `Style` says."""
    lines = (SHIPPED / "support_train.jsonl").read_text(encoding="utf-8").splitlines()
    found = [style_of(json.loads(line)["completion"][0]["content"]) for line in lines]
    assert all(style.form and style.plain and style.full for style in found)
    assert sum(style.complete for style in found) / len(found) == pytest.approx(0.93, abs=0.02)


def answered(best: list[str], samples: list[list[str]]) -> Answered:
    """Greedy answers are poor ones."""
    drawn = [[Answer(text, True) for text in own] for own in samples]
    chosen = [Answer(text, True) for text in best]
    return Answered([Answer("no", True)] * len(best), drawn, chosen, Interval(0.9, 0.8, 0.95))


IN_FORM = GOOD.replace(" It leaves today.", "")
"""In the shop's form, and too short."""


def test_gains_are_paired_by_prompt() -> None:
    """Six prompts with a complete sample, one in the form and two poor: chosen are complete in 5 of 6."""
    found = answered([GOOD] * 5 + ["no"], [[GOOD, IN_FORM, "no", "no"]] * 6)
    assert found.gain.value == pytest.approx(5 / 6 - 1 / 4)
    assert found.gain_beyond_form.value == pytest.approx(5 / 6 - 1 / 2)
    for gain in (found.gain, found.gain_beyond_form):
        assert gain.low < gain.value < gain.high


def test_samples_that_ended_are_preferred_to_those_that_were_cut_off() -> None:
    samples = [[Answer(GOOD, True), Answer("no", False)], [Answer("no", False), Answer("so", False)]]
    found = Answered([], samples, [], Interval(0.9, 0.8, 0.95))
    assert found.that_ended == [samples[0][:1], samples[1]]


def test_where_no_sample_is_in_the_form_any_of_them_counts() -> None:
    assert [len(own) for own in answered(["no"] * 2, [["no", "yes"], [IN_FORM, "no"]]).in_form] == [2, 1]


@pytest.mark.parametrize(
    ("best", "said", "beyond"),
    [
        (GOOD, "has all four more often than the model's samples: +75% (95% interval", True),
        (IN_FORM, "has all four more often than the model's samples is not shown: -25% (95% interval", False),
    ],
)
def test_what_is_printed_states_temperatures_and_both_gains(
    best: str, said: str, beyond: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = [[GOOD, IN_FORM, "no", "no"] if number % 5 else [GOOD, IN_FORM, "so", "no"] for number in range(20)]
    _show_shares(answered([best] * 20, samples))
    shown = " ".join(capsys.readouterr().out.split())
    assert said in shown
    control = "samples that a program chose by the form alone"
    assert f"{control}: +50%" in shown if beyond else f"{control} is not shown: -50%" in shown
    for row in (
        "SFT, temperature 0 0% 0% 100% 0% 0%",
        f"SFT, temperature {TEMPERATURE:g} 50% 50% 100% 25% 25%",
        "any of 4 that ended 50% 50% 100% 25% 25%",
        "any of 4 in the form 100% 100% 100% 50% 50%",
        "best of 4 by the reward 100% 100% 100% " + ("100% 100%" if beyond else "0% 0%"),
    ):
        assert row in shown
    assert "prefers the demonstration to a finished sample of the same prompt in 0.90 [0.80, 0.95]" in shown


def test_all_answers_are_kept_with_what_was_counted() -> None:
    """The first of two equal samples is the chosen one: they are the same text, with one reward."""
    samples = [Answer("no", True, 0.5), Answer(GOOD, True, 1.5), Answer(GOOD, True, 1.5)]
    found = Answered([Answer("so", False)], [samples], [samples[1]], Interval(0.9, 0.8, 0.95))
    row: dict[str, Any]
    (row,) = _rows_of([[{"role": "user", "content": "when?"}]], found)
    assert (row["prompt"], row["chosen"]) == ([{"role": "user", "content": "when?"}], 1)
    poor = {"form": False, "figure": False, "plain": True, "full": False}
    assert row["greedy"] == {"text": "so", "finished": False, **poor}
    assert row["samples"][:2] == [
        {"text": "no", "finished": True, **poor, "reward": 0.5},
        {"text": GOOD, "finished": True, **ALL, "reward": 1.5},
    ]


def test_no_question_is_asked_twice_or_was_trained_on() -> None:
    questions = (SHIPPED / "support_questions.txt").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for file in SHIPPED.glob("*.jsonl") for line in file.read_text("utf-8").splitlines()]
    asked = {turn["content"].strip().lower() for row in rows for turn in row["prompt"]}
    assert len({question.strip().lower() for question in questions}) == len(questions) == 172
    assert asked.isdisjoint(question.strip().lower() for question in questions)
    assert all(question.strip() for question in questions)


def test_shown_answers_say_their_temperature_and_which_sample_was_chosen(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("demotune.cli.quickstart.console", Console(width=200))
    found = answered([GOOD], [["no", "so", GOOD, "no"]])
    _show_answers([[{"role": "user", "content": "When does it leave [today]?"}]], found)
    shown = capsys.readouterr().out
    assert "> When does it leave [today]?" in shown
    for cell in (
        "SFT, temperature 0",
        f"sample 1 of 4, temperature {TEMPERATURE:g}",
        f"best of 4: sample 3, temperature {TEMPERATURE:g}",
        "It costs £3.95. It leaves today.",
    ):
        assert cell in shown
