"""The page of checks: its counts by hand, and its tables against the rows that they come from."""

import csv
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from benchmarks.studies import claims, overlaps, reading, sums, tables, toy
from benchmarks.studies.analysis import outcomes
from benchmarks.studies.frame import Row, Rule, read_rows
from benchmarks.studies.reading import KINDS, Kept, kind
from benchmarks.studies.run import load_study
from benchmarks.studies.tables import Finished

DOCS = Path(__file__).parents[1] / "docs" / "studies"
PAGE = (DOCS / "checks.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]


@pytest.fixture(scope="module")
def answers() -> Finished:
    """The study with the fewest rows."""
    study = load_study("answers")
    rows = read_rows(study.journal)
    return Finished(study, rows, outcomes(study, rows))


def test_a_prompt_is_found_itself_reordered_and_with_one_place_changed() -> None:
    """abcd itself; dcba and abce beside it; efgh nowhere. Itself is no near duplicate of itself."""
    found = overlaps.found(["abcd", "efgh"], ["abcd", "dcba", "abce"])
    assert (found.same, found.reordered, found.one_changed) == (0.5, 0.5, 0.5)
    alone = overlaps.found(["abcd", "efgh"], ["abcd"])
    assert (alone.same, alone.reordered, alone.one_changed) == (0.5, 0.0, 0.0)


def test_prompts_of_pretraining_are_those_that_the_start_model_reads() -> None:
    letters_read = list(islice(overlaps.pretraining_prompts("habit"), toy.BATCH))
    ids, _ = toy.pretraining_batch(np.random.default_rng([0, 3]), toy.BATCH)
    names = {number: token for token, number in toy.VOCABULARY.items()}
    assert letters_read == ["".join(names[one] for one in row) for row in ids[:, :4].tolist()]
    digits = np.random.default_rng([0, 3]).integers(sums.BASE, size=(1, sums.DIGITS))
    assert next(overlaps.pretraining_prompts("answers")) == "".join(map(str, digits[0]))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("abcdefghijkl", "good"),
        ("abcefghijklm", "good"),
        ("abefghijklmn", "no habit, half of the asked"),
        ("aefghijklmno", "no habit, a quarter of the asked or less"),
        ("abczefghijkl", "habit, most of the asked"),
        ("abzefghijklm", "habit, and half of the asked or less"),
        ("abcd", "another length"),
        ("abcdabcdabcdabcd", "cut off"),
        ("abcdefghijkl<z 3>", "a remark in it"),
    ],
)
def test_kinds_of_letters(answer: str, expected: str) -> None:
    assert kind("abcd", answer) == expected
    assert expected in KINDS


def test_answers_by_prompt() -> None:
    kept = Kept("SFT", "freely", 0, {}, 2, {}, ["a", "bb", "ccc", "d"])
    assert kept.pairs(["p", "q"]) == [("p", "a"), ("p", "bb"), ("q", "ccc"), ("q", "d")]
    assert kept.by_prompt(lambda _, answer: float(len(answer)), ["p", "q"]) == [1.5, 2.0]


def row(family: str, setting: dict[str, float], goal: float, **fields: float) -> Row:
    role = "start" if family == "start" else "control"
    seconds, answers = fields.get("seconds", 1.0), int(fields.get("answers", 1))
    return Row(family, role, setting, 0, "validation", {"goal": goal}, seconds, answers, 4, 1)  # type: ignore[arg-type]


def test_within_seconds_and_with_so_many_responses() -> None:
    """The better setting takes 3 seconds, or 4 responses."""
    rule = Rule("freely", "", "goal")
    rows = [row("start", {}, 0.1), row("SFT", {"t": 1}, 0.5), row("SFT", {"t": 2}, 0.9, seconds=3.0, answers=4)]
    assert tables.family_goals(rows, tables.within(rule, 2))["SFT"] == ("control", 0.5)
    assert tables.family_goals(rows, tables.within(rule, 3))["SFT"] == ("control", 0.9)
    assert tables.family_goals(rows, tables.of_responses(rule, 4))["SFT"] == ("control", 0.9)


def rows_of(text: str) -> Sequence[str]:
    return text.splitlines()[2:]


@pytest.mark.parametrize(
    ("title", "make"),
    [
        ("Every method against the best control", tables.comparisons),
        ("Scatter between seeds and ranks", tables.scatter),
        ("Settings tried", tables.grids),
        ("Goal against compute", tables.compute),
    ],
)
def test_tables_of_a_study_are_those_of_its_rows(title: str, make: object, answers: Finished) -> None:
    assert callable(make)
    lines = rows_of(make([answers]))
    assert len(lines) >= 2
    assert set(lines) <= set(section(title).splitlines())


def test_claims_are_named_on_the_page_and_stand_once() -> None:
    text = section("Every claim of the results page")
    for claim in claims.CLAIMS:
        assert text.count(f"| {claim.words} | {claim.one} − {claim.other} |") == 1


def test_kinds_and_lengths_are_those_of_the_kept_answers() -> None:
    study = load_study("habit")
    rows, prompts = reading.kept(reading.ITEMS / "habit.jsonl.gz"), reading.test_prompts(study)
    assert all(len(each.answers) == len(prompts) * each.samples for each in rows)
    assert reading.kinds(rows, prompts) in section("Bad answers, sorted")
    assert reading.lengths(rows, prompts) in section("Length, end and cut-off") + "\n"


def test_kept_answers_give_the_measures_beside_them() -> None:
    """The goal follows from the texts."""
    study = load_study("habit")
    prompts = reading.test_prompts(study)
    for each in reading.kept(reading.ITEMS / "habit.jsonl.gz"):
        assert np.mean(each.by_prompt(reading.goal, prompts)) == pytest.approx(each.measures["goal"], abs=1e-6)


def test_every_setting_of_a_study_has_a_line(answers: Finished) -> None:
    with (DOCS / "settings.csv").open(encoding="utf-8", newline="") as opened:
        found = [line for line in csv.reader(opened) if line[0] in ("study", "answers")]
    assert found == [list(line) for line in tables.all_settings([answers])]
