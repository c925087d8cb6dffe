"""People compare answers on a local page: what they see, that no vote is lost or counted twice, what votes say."""

import json
import math
import urllib.error
from pathlib import Path
from typing import Any

import pytest
from helpers.annotations import BASELINE, MODEL, Rater, items_of, rating, write_contest
from helpers.command import call
from helpers.evaluations import evaluation
from helpers.report_folders import START_LOGPS, TOKENS, write_run

from demotune.common.errors import DemotuneError
from demotune.common.files import read_json, write_json
from demotune.common.journals import Journal
from demotune.common.statistics import compare_wins
from demotune.evaluation.annotation.items import ItemName
from demotune.evaluation.annotation.votes import agreement, join_votes, together
from demotune.report import build_report
from demotune.runs.annotations import read_votes


def people(folder: Path) -> Any:
    (found,) = (one for one in read_json(folder / "evaluation.json")["comparisons"] if one["judge"] == "people")
    return found


def refused(rater: Rater, *given: Any, **headers: str) -> int:
    with pytest.raises(urllib.error.HTTPError) as error:
        rater.post(*given, **headers)
    return error.value.code


def test_the_page_shows_messages_and_two_answers_and_does_not_say_whose(tmp_path: Path) -> None:
    folder = write_contest(tmp_path, rows=12)
    with rating(folder) as anna, rating(folder, "ben") as ben:
        shown, other = anna.state(), ben.state()
    assert shown["items"][3]["messages"] == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "question 3"},
    ]
    assert sorted(shown["items"][3]["answers"]) == ["bad 3", "good 3"]
    assert MODEL not in json.dumps(shown)
    sides = [[item["answers"][0].startswith("good") for item in state["items"]] for state in (shown, other)]
    assert all(0 < sum(one) < 12 for one in sides)
    assert sides[0] != sides[1]


def test_votes_outlive_the_page_and_sides_stay(tmp_path: Path) -> None:
    folder = write_contest(tmp_path)
    with rating(folder) as anna:
        first = anna.state()
        anna.prefer(0, "good")
        anna.vote(1, "tie")
        anna.vote(1, "tie")
        anna.vote(2, "left")
        anna.vote(2, None)
        anna.vote(2, None)
    with rating(folder) as anna:
        again = anna.state()
        anna.prefer(0, "bad")
    assert again["items"] == first["items"]
    assert [place for place, _ in again["votes"]] == [0, 1]
    lines = read_votes(folder)["anna"]
    assert [vote.verdict for vote in lines[:2]] == [1.0, 0.5]
    assert [vote.key for vote in lines] == ["key0", "key1", "key2", "key2", "key0"]  # nothing twice
    assert lines[3].verdict is None
    assert people(folder)["difference"] == 0.25
    assert people(folder)["items"] == 2


def test_votes_join_the_evaluation_as_a_judge(tmp_path: Path) -> None:
    folder = write_contest(tmp_path, rows=6, identical=(1, 5))
    with rating(folder) as anna:
        assert len(anna.state()["items"]) == 4  # identical answers are not asked about
        for item in range(3):
            anna.prefer(item, "good")
    found, expected = people(folder), compare_wins([1, 0.5, 1, 1])  # row 5 stands after the last vote
    assert found["difference"] == expected.difference.value == 0.875
    assert (found["low"], found["high"], found["p"]) == (
        expected.difference.low,
        expected.difference.high,
        expected.p,
    )
    record = read_json(folder / "evaluation.json")
    assert [one["p_corrected"] for one in record["comparisons"]] == [0.08, found["p"]]  # Holm over both
    assert [judge["name"] for judge in record["judges"]] == ["j:better", "people"]
    assert record["judges"][1]["raters"] == {"anna": 3}
    assert join_votes(folder) == record  # once more changes nothing


def test_the_report_page_shows_what_people_said(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", method="sft", start=START_LOGPS, tokens=TOKENS)
    folder = write_contest(tmp_path / "eval")
    with rating(folder) as anna:
        anna.prefer(0, "good")
    page = build_report([run], tmp_path / "report.html", evaluations=[folder]).read_text(encoding="utf-8")
    assert "Judge people (people): 1 rater, 1 blind vote." in page
    assert "win rate, by people" in page


def test_raters_are_counted_together_and_their_agreement_is_shown(tmp_path: Path) -> None:
    folder = write_contest(tmp_path, rows=3)
    wanted = {"anna": ("good", "good", "bad"), "ben": ("good", "bad", "bad")}
    for name, answers in wanted.items():
        with rating(folder, name) as rater:
            for item, answer in enumerate(answers):
                rater.prefer(item, answer)
    assert people(folder)["difference"] == 0.5  # 1, tie, 0
    (judge,) = (one for one in read_json(folder / "evaluation.json")["judges"] if one["kind"] == "people")
    assert judge["agreement"]["kappa"] == pytest.approx(0.4)  # po = 2/3, pe = 4/9
    code, shown = call("annotate", str(folder), "--results")
    assert code == 0
    assert "67% alike of 3 that all 2 rated, Cohen's kappa 0.40" in shown
    for name, share in (("all raters", "0.500"), ("anna", "0.667"), ("ben", "0.333")):
        assert any(name in line and share in line for line in shown.splitlines()), shown


def test_three_raters_have_the_kappa_of_fleiss() -> None:
    names = [ItemName(str(row), BASELINE, "x") for row in range(4)]
    rows = [(1, 1, 1), (0, 0, 0.5), (1, 1, 0), (0.5, 0.5, 0.5)]
    raters = {str(n): {name: float(row[n]) for name, row in zip(names, rows, strict=True)} for n in range(3)}
    found = agreement(raters)
    assert found is not None
    observed = (1 + 1 / 3 + 1 / 3 + 1) / 4
    shares = [3 / 12, 4 / 12, 5 / 12]  # of 0, tie, 1
    expected = sum(share**2 for share in shares)
    assert found.kappa == pytest.approx((observed - expected) / (1 - expected))
    assert found.measure == "Fleiss' kappa"
    assert list(together(raters).values()) == [1, 0, 1, 0.5]


def test_agreement_on_one_verdict_has_no_kappa() -> None:
    name = ItemName("a", BASELINE, "x")
    found = agreement({"anna": {name: 1.0}, "ben": {name: 1.0}})
    assert found is not None
    assert math.isnan(found.kappa)
    assert agreement({"anna": {name: 1.0}}) is None


def test_an_evaluation_made_again_keeps_votes_on_the_same_answers_only(tmp_path: Path) -> None:
    folder = write_contest(tmp_path)
    with rating(folder) as anna:
        for item in range(4):
            anna.prefer(item, "good")
    write_contest(tmp_path, text="other ")
    record = join_votes(folder)
    assert record is not None
    assert [judge["name"] for judge in record["judges"]] == ["j:better"]
    write_contest(tmp_path)
    assert (join_votes(folder) or {})["judges"][1]["raters"] == {"anna": 4}


def test_evaluate_writes_messages_and_keeps_the_votes(tmp_path: Path, runs: Path, place: Path) -> None:
    given: dict[str, Any] = {
        "model": str(runs / "rft"),
        "baseline": (str(runs / "sft"),),
        "data": (str(place / "test.jsonl"),),
    }
    found = evaluation(tmp_path, **given)
    contest = items_of(found.folder)
    assert contest.model == "rft"
    assert contest.items[0].messages[0]["role"] == "user"
    asked = [item for item in contest.items if not item.identical]
    assert asked
    with rating(tmp_path) as anna:
        for item in range(len(asked)):
            anna.vote(item, "tie")
    again = evaluation(tmp_path, **given)
    (one,) = (one for one in again.record["comparisons"] if one["judge"] == "people")
    assert one["difference"] == 0.5
    assert again.record["judges"][-1]["raters"] == {"anna": len(asked)}


def test_only_who_has_the_address_votes(tmp_path: Path) -> None:
    folder = write_contest(tmp_path)
    vote = {"item": 0, "choice": "left"}
    with rating(folder) as anna:
        port = anna.url.split(":")[2].split("/")[0]
        assert anna.url.startswith("http://127.0.0.1:")
        assert refused(Rater(f"http://127.0.0.1:{port}/guess/"), "vote", vote) == 404
        assert refused(Rater(f"http://127.0.0.1:{port}/"), "vote", vote) == 404
        assert refused(anna, "vote", vote, Host="evil.example") == 403  # a name that was bound to 127.0.0.1
        assert refused(anna, "vote", vote, Origin="http://evil.example") == 403
        assert refused(anna, "finish", vote, Origin="http://evil.example") == 403
        assert refused(anna, "vote", vote, Content_Type="text/plain") == 400  # what another page's form can send
        for wrong in ({"item": 9, "choice": "left"}, {"item": 0, "choice": "both"}, {"item": True, "choice": None}, []):
            assert refused(anna, "vote", wrong) == 400
        assert refused(anna, "vote", {"item": 0, "choice": "left", "more": "x" * 20_000}) == 400
        assert anna.state()["votes"] == []
        assert anna.vote(0, "left") == 200


def test_one_process_votes_as_a_rater(tmp_path: Path) -> None:
    folder = write_contest(tmp_path)
    with rating(folder), pytest.raises(DemotuneError, match=r"anna votes on .* already"), rating(folder):
        pass


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("{folder}", "--rater", "../x"), "rater '../x' cannot be the name of a file"),
        (("{folder}", "--port", "70000"), "port must be"),
        (("no-such-folder",), "no-such-folder holds no evaluation"),
        (("{empty}",), "holds no evaluation"),
        (("{alone}",), "has no answers of two models to compare"),
    ],
)
def test_what_cannot_be_annotated_is_one_sentence(tmp_path: Path, given: tuple[str, ...], message: str) -> None:
    write_contest(tmp_path / "folder")
    write_contest(tmp_path / "alone", rows=0)
    (tmp_path / "empty").mkdir()
    places = {name: str(tmp_path / name) for name in ("folder", "empty", "alone")}
    code, shown = call("annotate", *(one.format(**places) for one in given))
    assert code in {1, 2}
    assert message in " ".join(shown.split())
    assert "Traceback" not in shown


def test_damaged_files_are_named(tmp_path: Path) -> None:
    folder = write_contest(tmp_path)
    record = read_json(folder / "evaluation.json")
    write_json(folder / "evaluation.json", record | {"models": [{}]})
    code, shown = call("annotate", str(folder), "--results")
    assert (code, "its files do not fit together" in " ".join(shown.split())) == (1, True)
    write_contest(tmp_path)
    (folder / "annotations").mkdir()
    Journal(folder / "annotations" / "anna.jsonl").append([{"key": "key0"}])
    code, shown = call("annotate", str(folder), "--results")
    assert (code, "anna.jsonl cannot be read (it lacks baseline" in " ".join(shown.split())) == (1, True)


def test_results_without_votes_say_so(tmp_path: Path) -> None:
    code, shown = call("annotate", str(write_contest(tmp_path)), "--results")
    assert code == 0
    assert "nobody has voted" in shown
