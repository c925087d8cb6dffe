"""What the page says so that nobody misses it: verdicts with their meaning, names, stages, messages, words."""

import json
import re
from pathlib import Path

import pytest
from helpers.page_reader import Page
from helpers.report_folders import FIVE, REWARD, write_evaluation, write_run

from demotune.common.files import read_json, write_json
from demotune.report import build_report
from demotune.report.answer import headline
from demotune.report.charts.stages import quantity_charts
from demotune.report.glossary import FORMS, WORDS, anchor, with_meanings
from demotune.report.messages import messages_of
from demotune.report.overview import cards, overview, warnings
from demotune.report.samples import METRICS
from demotune.runs.evaluation import read_evaluation
from demotune.runs.run import load_run, read_runs

RISEN = (-8.0, -19.0, -30.0, -9.0, -9.0)


def test_the_verdict_says_what_it_means(tmp_path: Path) -> None:
    """Likelihood is imitation; only a judge that learned nothing, or tasks, say whether answers are useful."""
    better = load_run(write_run(tmp_path / "better", **FIVE, stages=[RISEN]))
    none = load_run(write_run(tmp_path / "none", start=None))
    assert headline([better]) == "Imitates better than the start model; usefulness was not judged"
    assert headline([none]) == "Not known whether it helped; usefulness was not judged"
    folder = write_evaluation(tmp_path / "eval")
    assert headline([better], [read_evaluation(folder)]) == "Imitates better than the start model"
    (folder / "tasks.json").unlink()
    record = read_json(folder / "evaluation.json")
    write_json(folder / "evaluation.json", record | {"comparisons": record["comparisons"][:1]})  # by a learned reward
    assert headline([better], [read_evaluation(folder)]).endswith("; usefulness was not judged")


def write_audit(run: Path, stage: int, verdict: str, shortcut: str = "length") -> None:
    accuracy = {"value": 0.95, "low": 0.8, "high": 0.99}
    reward = {"verdict": verdict, "shortcut": shortcut, "pairs": 29, "reward_accuracy": accuracy | {"value": 0.93},
              "shortcut_accuracy": accuracy, "reward_only": 1, "shortcut_only": 2, "p": 1.0,
              "sentence": "s"}  # fmt: skip
    write_json(run / "shortcuts.json", [{"stage": stage, "prompts": 29, "shortcuts": [], "reward": reward}])


def test_the_shortcut_verdict_stands_beside_the_reward_accuracy(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", stages=[(-8, -19, -30), (-7, -19, -30)])
    (alone,) = [card for card in cards(load_run(folder)) if card.name.startswith("Reward accuracy")]
    assert (alone.beside, alone.doubtful) == ("It was not held against shortcuts.", True)
    write_audit(folder, 1, "no better than its shortcuts")
    (held,) = [card for card in cards(load_run(folder)) if card.name.startswith("Reward accuracy")]
    assert (held.name, held.value, held.doubtful) == ("Reward accuracy of stage 2", "70%", True)
    assert held.beside == "Stage 2's reward is no better than length: 93% against 95% of 29 pairs."
    page = Page(build_report([folder]))
    assert held.beside in page.text
    two = read_runs([folder, write_run(tmp_path / "two")])
    assert warnings(two) == [f"run: {held.beside}"]
    assert overview(two).rows[0][2] == "no better than length"
    write_audit(folder, 1, "better than its shortcuts", "all together")
    (better,) = [card for card in cards(load_run(folder)) if card.name.startswith("Reward accuracy")]
    assert (better.beside[:54], better.doubtful) == ("Stage 2's reward is better than its shortcuts together", False)
    assert warnings(two) == []


def test_numbers_of_one_kind_have_names_of_their_own(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path / "run", stages=[(-8, -19, -30), (-7, -19, -30)]))
    check = read_json(run.stages[1].folder / "check.json")
    write_json(run.stages[1].folder / "check.json", check | {"reward_since_start": REWARD})
    names = [card.name for card in cards(load_run(run.folder))]
    assert names == ["Held-out gain per token", "Likelier since the start", "Reward accuracy since the start",
                     "Wall-clock time", "Peak memory", "Compute"]  # fmt: skip
    titles = re.findall(r'<h3 id="[\w-]+">([^<]+)</h3>', build_report([run.folder]).read_text(encoding="utf-8"))
    assert len(titles) == len(set(titles))
    assert len({metric.short for metric in METRICS.values()}) == len(METRICS)


def test_readers_count_stages_from_1(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", stages=[(-8, -19, -30), (-7, -19, -30)])
    page = Page(build_report([folder]))
    assert "stage 2: likelier than stage 1" in json.dumps(page.data["charts"])
    assert not re.search(r"stage 0\b", page.text + json.dumps(page.data["charts"]), re.IGNORECASE)
    assert page.data["samples"]["names"] == ["start model", "stage 1", "stage 2", "stage 1, draw 2"]


def test_one_quantity_is_shown_over_all_stages_of_all_runs(tmp_path: Path) -> None:
    """Gains 2, 1, 0, 1, 1 per response, then as many again; the other run has one stage."""
    twice = tuple(start + 2 * (risen - start) for start, risen in zip(FIVE["start"], RISEN, strict=True))
    runs = read_runs(
        [
            write_run(tmp_path / "two", **FIVE, stages=[RISEN, twice]),
            write_run(tmp_path / "one", method="sft", **FIVE, stages=[RISEN]),
        ]
    )
    charts = {chart.title: chart for chart in quantity_charts(runs)}
    gain = charts["Gain per response since the start"]
    assert [row[:3] for row in gain.table.rows] == [
        ("two", "stage 1", "1.00"), ("two", "stage 2", "2.00"), ("one", "stage 1", "1.00"),
    ]  # fmt: skip
    assert gain.table.rows[0][3] == "0.122 to 1.88"
    assert gain.figure["layout"]["xaxis"]["ticktext"] == ["start", "stage 1", "stage 2"]
    time = charts["Wall-clock time so far"]
    assert [row[2] for row in time.table.rows] == ["0.0 s", "1 min", "2 min", "0.0 s", "1 min"]
    assert charts["Length of answers"].table.rows[0][1:3] == ("start model", "3.00")
    assert "Share of answers that earn more after the policy steps" not in charts


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("system\nBe kind.\nuser\nHello\nthere\nassistant\n", [("system", "Be kind."), ("user", "Hello\nthere")]),
        ("user\nHi\nmodel\nHello\nuser\nBye\nmodel\n", [("user", "Hi"), ("assistant", "Hello"), ("user", "Bye")]),
        ("<|user|>\nHi \n<|assistant|>\nYes \n<|user|>\nSo? \n<|assistant|>\n",
         [("user", "Hi"), ("assistant", "Yes"), ("user", "So?")]),
        ("system\n\nBe kind.user\n\nThe user\n\nis me.assistant\n\n",
         [("system", "Be kind."), ("user", "The user\n\nis me.")]),
        ("user: Hi\n\nassistant: Hello\n\nuser: Bye", [("user", "Hi"), ("assistant", "Hello"), ("user", "Bye")]),
        ("What does a user\nwant?", [("", "What does a user\nwant?")]),
        ("", [("", "")]),
    ],
)  # fmt: skip
def test_a_rendered_prompt_is_shown_as_messages(text: str, messages: list[tuple[str, str]]) -> None:
    assert list(messages_of(text)) == messages


def test_a_prompt_of_a_plain_template_is_the_users_message() -> None:
    template = "### Question: {prompt}\n### Answer:"
    assert messages_of("### Question: Why?\n### Answer:", template) == (("user", "Why?"),)
    other = "Be kind.\n\n### Question: Why?\n### Answer:"
    assert messages_of(other, template) == (("", other),)
    twice = "### Question: Why?\n### Answer: So.\n\n### Question: Really?\n### Answer:"
    assert messages_of(twice, template) == (("", twice),)


def test_words_link_to_their_meanings_and_texts_stay_text() -> None:
    assert with_meanings("held-out demonstrations <b> demonstration") == (
        '<a class="term" href="#word-held-out">held-out</a> <a class="term" href="#word-demonstration">demonstrations'
        "</a> &lt;b&gt; demonstration"
    )
    assert "<a" not in with_meanings("nonsense, subsamples, pair-wise &amp;")
    assert {anchor(word) for word in FORMS.values()} <= {anchor(word) for word in WORDS}
    assert len({anchor(word) for word in WORDS}) == len(WORDS)


def test_every_word_that_is_linked_is_on_the_page(tmp_path: Path) -> None:
    page = Page(build_report([write_run(tmp_path / "run")], evaluations=[write_evaluation(tmp_path / "eval")]))
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    links = {value.removeprefix("#") for name, value in page.attributes if name == "href" and value.startswith("#")}
    assert {"word-nats", "stages-1-1", "samples"} <= links <= set(ids)
