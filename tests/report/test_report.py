"""The report as files and HTML: numbers worked out by hand, what is missing said, user text never markup."""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from helpers.page_reader import Page
from helpers.report_folders import FIVE, write_evaluation, write_run

from demotune.common.amounts import flops
from demotune.common.errors import DemotuneError
from demotune.common.files import read_json, write_json, write_rows
from demotune.common.statistics import Interval
from demotune.report import build_report
from demotune.report.answer import answer_sentence, headline_comparison
from demotune.report.charts.figures import histogram, label
from demotune.report.comparison_text import CostPoint, PageComparison
from demotune.report.facts import facts_of
from demotune.report.gains import against_baseline, baseline_of, gain_between, gain_of
from demotune.report.limits import limits
from demotune.report.page import script_json
from demotune.report.rigor.card import RigorAnswer
from demotune.report.samples import CHANGE, GAP, LENGTH, MARGIN, REWARD, collect_samples
from demotune.report.settings import changed_settings
from demotune.report.tables import task_table
from demotune.report.wording import bounds, duration, number
from demotune.runs.evaluation import Evaluation, read_evaluation
from demotune.runs.heldout import HeldoutRow
from demotune.runs.run import Run, load_run, read_runs

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>{{7*7}}"


RISEN = (-8.0, -19.0, -30.0, -9.0, -9.0)


def test_a_gain_is_the_mean_paired_difference_with_its_interval(tmp_path: Path) -> None:
    """Gains 2, 1, 0, 1, 1: mean 1, variance 1/2, no skewness: half width of Student's t 2.7764 / sqrt(10) = .87799."""
    gain = gain_of(load_run(write_run(tmp_path / "run", **FIVE, stages=[RISEN])))
    assert gain is not None
    assert (gain.prompts, gain.per_response.value, gain.wins) == (5, 1.0, 4.5 / 5)
    assert gain.per_response.low == pytest.approx(1 - 0.87799, abs=1e-4)
    assert gain.per_response.high == pytest.approx(1 + 0.87799, abs=1e-4)
    assert gain.per_token.value == pytest.approx(0.1)
    assert gain.per_token.high - gain.per_token.value == pytest.approx(0.087799, abs=1e-5)
    assert gain.verdict == "better"


def test_gains_pair_by_key_not_by_place() -> None:
    def row(key: str, logp: float) -> HeldoutRow:
        return HeldoutRow(key, "p", "d", logp, 10, "s", (5,), True)

    before = [row(key, logp) for key, logp in zip("abcdefg", (-1, -50, -9, -4, -5, -6, -7), strict=True)]
    after = [row(key, logp) for key, logp in zip("fedcba", (-4, -3, -2, -7, -48, 1), strict=True)]
    gain = gain_between(before, after)
    assert gain is not None
    assert (gain.prompts, gain.per_response, gain.verdict) == (6, Interval(2.0, 2.0, 2.0), "better")
    assert gain_between([row("a", -1.0)], [row("b", -1.0)]) is None


def test_cost_counts_work_and_not_measuring(tmp_path: Path) -> None:
    """Two stages of 10 + 20 + 30 s; 1000 * (2 * 150 + 6 * 200) operations each, 4 instead of 6 with LoRA."""
    run = load_run(write_run(tmp_path / "run", stages=[(-8, -19, -30), (-7, -19, -30)]))
    assert (run.cost_until(0).seconds, run.cost_until(1).seconds, run.peak_memory_gib) == (60.0, 120.0, 4.0)
    assert (run.cost_until(0).flops, run.cost_until(1).flops) == (1_500_000, 3_000_000)
    assert load_run(write_run(tmp_path / "lora", config={"use_peft": True})).cost_until(0).flops == 1_100_000


def test_scores_of_earlier_stages_do_not_shift_the_heldout_ones(tmp_path: Path) -> None:
    rows = load_run(write_run(tmp_path / "run")).stages[0].samples
    heldout = [row for row in rows if row.heldout]
    assert [row.demo_logp - row.sample_logp for row in heldout] == [5.0, 6.0, 7.0]  # type: ignore[operator]
    assert [row.demo_reward for row in heldout] == [0.5, 1.5, 2.5]
    assert [row.demo_reward for row in rows if not row.heldout] == [None, None]


def test_the_sentence_says_better_only_when_the_interval_does(tmp_path: Path) -> None:
    """Gains 4, 1, -2, 1, 1: mean 1, variance 9/2, so half the interval is three times .87799."""
    unclear = load_run(write_run(tmp_path / "unclear", **FIVE, stages=[(-6.0, -19.0, -32.0, -9.0, -9.0)]))
    assert answer_sentence([unclear]) == (
        "unclear shows no clear change against its start model: held-out demonstrations moved by +1.00 nats a response "
        "(95% interval −1.63 to 3.63, 5 prompts), at a cost of 1 min of wall-clock time and 1.5 MFLOP."
    )
    better = load_run(write_run(tmp_path / "better", **FIVE, stages=[RISEN]))
    assert answer_sentence([better]).startswith("better makes held-out demonstrations likelier than its start model")
    worse = load_run(write_run(tmp_path / "worse", **FIVE, stages=[(-12.0, -22.1, -32.0, -12.0, -12.0)]))
    assert "less likely than its start model does, by 2.02 nats a response" in answer_sentence([worse])


def test_the_sentence_for_runs_that_cannot_know(tmp_path: Path) -> None:
    none = load_run(write_run(tmp_path / "none", start=None))
    assert answer_sentence([none]) == (
        "Whether none helped is not known: it held out no rows; it took 1 min of wall-clock time and 1.5 MFLOP."
    )
    text = answer_sentence([none, load_run(write_run(tmp_path / "sft", method="sft", start=None))])
    assert text == (
        "Against their start models: none not known (no held-out rows) in 1 min, "
        "sft not known (no held-out rows) in 1 min."
    )


def test_a_report_of_few_rows_says_that_they_are_too_few(tmp_path: Path) -> None:
    """Alone and beside a baseline, in sentences, limits, tables and charts; nan is nowhere."""
    run = load_run(write_run(tmp_path / "run"))
    assert answer_sentence([run]) == (
        "run held out too few rows to tell whether it helped: held-out demonstrations moved by +1.00 nats a response "
        "(3 prompts, fewer than the 5 that an interval needs), at a cost of 1 min of wall-clock time and 1.5 MFLOP."
    )
    assert "3 held-out prompts, and an interval needs 5" in limits_of([run])
    control = load_run(write_run(tmp_path / "control", method="sft"))
    assert "run too few held-out rows to tell (+1.00) in 1 min" in answer_sentence([run, control])
    for page in (Page(build_report([run.folder])), Page(build_report([run.folder, control.folder], tmp_path / "two"))):
        assert "too few rows to tell" in page.text
        assert not re.search(r"\bnan\b", page.text + json.dumps(page.data), re.IGNORECASE)
    one = load_run(write_run(tmp_path / "one", start=(-3.0,), stages=[(-1.0,)], tokens=(4,)))
    assert "(1 prompt, fewer than the 5 that an interval needs)" in answer_sentence([one])
    build_report([one.folder])


def test_runs_side_by_side_are_compared_with_the_only_sft_run(tmp_path: Path) -> None:
    """The other run's rows beat the baseline's by 1 each."""
    runs = read_runs(
        [
            write_run(tmp_path / "irft", **FIVE, stages=[(-8.0, -18.0, -28.0, -8.0, -8.0)]),
            write_run(tmp_path / "control", method="sft", **FIVE, stages=[(-9.0, -19.0, -29.0, -9.0, -9.0)]),
        ]
    )
    assert baseline_of(runs) is runs[1]
    [(run, baseline, gain)] = against_baseline(runs)
    assert (run.name, baseline.name, gain.per_response.value, gain.verdict) == ("irft", "control", 1.0, "better")
    text = answer_sentence(runs)
    assert "irft better (+2.00, 2.00 to 2.00) in 1 min, control better (+1.00, 1.00 to 1.00) in 1 min" in text
    assert "; against control: irft better (+1.00, 1.00 to 1.00)" in text


def test_a_run_that_starts_from_the_baseline_is_not_compared_with_it_twice(tmp_path: Path) -> None:
    runs = read_runs(
        [write_run(tmp_path / "sft", method="sft"), write_run(tmp_path / "irft", manifest={"model": "hash-of-result"})]
    )
    assert against_baseline(runs) == []


def test_runs_of_one_name_get_longer_names(tmp_path: Path) -> None:
    runs = read_runs([write_run(tmp_path / "a" / "run"), write_run(tmp_path / "b" / "run")])
    assert [run.name for run in runs] == ["a/run", "b/run"]
    with pytest.raises(DemotuneError, match="a run is named twice"):
        read_runs([tmp_path / "a" / "run", tmp_path / "a" / "run"])


def test_the_headline_comparison_is_not_a_learned_rewards(tmp_path: Path) -> None:
    evaluation = read_evaluation(write_evaluation(tmp_path / "eval"))
    one = headline_comparison(evaluation)
    assert one is not None
    assert (one.judge, one.difference) == ("judge", 0.61)
    text = answer_sentence([load_run(write_run(tmp_path / "irft"))], [evaluation])
    assert "judged by judge, irft wins against start in 61% of 200 prompts (95% interval 54% to 68%)" in text


def limits_of(runs: Sequence[Run], evaluations: Sequence[Evaluation] = ()) -> str:
    return " ".join(fact.text for fact in limits(runs, evaluations))


def test_limits_speak_of_these_numbers(tmp_path: Path) -> None:
    """Half the interval, .87799, times 2.8 / 1.96 is 1.25."""
    refused = [{"source": "rows.jsonl:3", "reason": "over-long", "detail": "too long"}]
    run = load_run(write_run(tmp_path / "run", **FIVE, stages=[(-9, -19, -31, -9, -9), RISEN], refused=refused))
    text = limits_of([run], [read_evaluation(write_evaluation(tmp_path / "eval"))])
    assert "one run with one seed (7)" in text
    assert "With 5 held-out prompts, a change smaller than about 1.25 nats" in text
    assert "Stage 2 was chosen among 2 by the same held-out rows" in text
    assert "1 row of the data did not enter the run" in text
    assert "eval: own reward learned from demonstrations" in text
    assert "eval: 2 of 9 rows of the test rows are like training rows of irft" in text
    assert "eval: test data was not looked for in the training data of start: no run is known behind it" in text
    assert "eval: the judge knows little" in text
    others = limits_of(read_runs([run.folder, write_run(tmp_path / "two")]))
    assert "There is no run with plain SFT" in others
    assert "the longest took 2 min, the shortest 1 min" in others


def test_each_limit_has_its_kind(tmp_path: Path) -> None:
    """What one asks for is a kind: no wording decides what a limit is about."""
    refused = [{"source": "rows.jsonl:3", "reason": "over-long", "detail": "too long"}]
    run = load_run(write_run(tmp_path / "run", **FIVE, stages=[RISEN], refused=refused))
    facts = limits([run], [read_evaluation(write_evaluation(tmp_path / "eval"))])
    assert [fact.kind for fact in facts] == [
        "seeds", "smallest difference", "scope", "warning", "warning", "warning", "judge", "smallest difference",
        "many tests", "meaning", "cost",
    ]  # fmt: skip
    (judge,) = facts_of("judge", facts)
    assert (judge.source, judge.judges) == ("eval", ("own reward",))
    none = limits([load_run(write_run(tmp_path / "none", start=None, finished=False))], [])
    assert [fact.kind for fact in none] == ["seeds", "unfinished", "scope", "meaning", "abilities", "cost"]


def test_a_run_too_fast_to_time_is_compared_in_words(tmp_path: Path) -> None:
    """A run whose phases took 0.0 s is no reason to divide by zero."""
    runs = [write_run(tmp_path / name) for name in ("fast", "slow")]
    state = runs[0] / "stages" / "00" / "state.json"
    phases = {name: phase | {"seconds": 0.0} for name, phase in read_json(state).items()}
    write_json(state, phases)
    assert "the shortest 0.0 s" in limits_of(read_runs(runs))


def test_samples_join_what_belongs_together(tmp_path: Path) -> None:
    runs = read_runs([write_run(tmp_path / "irft"), write_run(tmp_path / "sft", method="sft")])
    browser = collect_samples(runs, [read_evaluation(write_evaluation(tmp_path / "eval"))])
    assert [row.key for row in browser.rows] == ["key0", "key1", "key2"]
    assert list(browser.rows[1].answers) == [
        "start model", "irft, stage 1", "sft, stage 1", "eval: rejected response", "eval: irft",
    ]  # fmt: skip
    start, trained = (browser.rows[1].answers[name] for name in ("start model", "irft, stage 1"))
    assert start.numbers == {LENGTH: 2, GAP: 6.0, REWARD: 0.0, MARGIN: 1.5}
    assert trained.numbers == {LENGTH: 2, CHANGE: 1.0}
    assert browser.rows[1].answers["eval: irft"].numbers == {LENGTH: 6, GAP: -2.0, "reward by judge": 0.5}
    assert browser.rows[1].answers["eval: rejected response"].numbers == {"reward by judge": 0.0}
    assert browser.rows[1].numbers == {"reward by judge": 1.0}
    assert not browser.rows[0].answers["start model"].finished


def test_a_second_draw_stands_beside_the_first(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", stages=[(-8, -19, -30), (-7, -19, -30)])
    browser = collect_samples([load_run(folder)], [])
    assert list(browser.rows[0].answers) == ["start model", "stage 1", "stage 2", "stage 1, draw 2"]


def test_without_heldout_rows_the_browser_shows_training_rows_and_says_so(tmp_path: Path) -> None:
    browser = collect_samples([load_run(write_run(tmp_path / "run", start=None))], [])
    assert [row.key for row in browser.rows] == ["trained0", "trained1"]
    assert "its prompts here were trained on" in browser.note


def test_histogram_counts() -> None:
    """Values 0 to 5 and 1 to 9 over width 1.5 -> 2: edges 0, 2, ..., 10."""
    figure, numbers = histogram([("a", [0.0, 1.0, 5.0]), ("b", [1.0, 2.0, 9.0])], x_title="x")
    assert [row[1:] for row in numbers.rows] == [("2", "1"), ("0", "1"), ("1", "0"), ("0", "0"), ("0", "1")]
    assert figure["data"][0]["x"] == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]


def test_settings_that_differ(tmp_path: Path) -> None:
    runs = [load_run(write_run(tmp_path / "run", config={"beta": 0.5, "temperature": 1.0}))]
    rows = {row[0]: row[1:3] for row in changed_settings(runs).rows}
    assert rows["beta"] == ("0.5", "0.1")
    assert rows["seed"] == ("7", "42")
    assert "temperature" not in rows


def test_task_scores_have_intervals(tmp_path: Path) -> None:
    found = task_table(read_evaluation(write_evaluation(tmp_path / "eval")), "headline")
    assert found.rows[0] == ("arc", "acc", "0.500 ± 0.196", "25", "40")
    assert found.rows[1][:3] == ("average of the preset's tasks", "", "0.500")


def test_numbers_as_people_read_them() -> None:
    found = [number(0.0412), number(-3.071, signed=True), number(152.4), number(0.0003), number(None), number(0.0)]
    assert found == ["0.041", "−3.07", "152", "0.0003", "–", "0.000"]
    assert [duration(9.44), duration(454), duration(7500), duration(60)] == [
        "9.4 s",
        "7 min 34 s",
        "2 h 5 min",
        "1 min",
    ]
    assert [flops(3.1e15), flops(12.0)] == ["3.1 PFLOP", "12 FLOP"]
    assert bounds(Interval(0.1, float("nan"), float("nan"))) == "too few rows to tell"
    assert bounds(Interval(0.1, -0.21, 0.5), signed=True) == "−0.210 to +0.500"
    assert bounds(Interval(0.1, 0.054, 0.5), percent=True) == "5% to 50%"


def test_one_page_holds_all_sections_in_order(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    file = build_report([folder], evaluations=[write_evaluation(tmp_path / "eval", name="run")])
    assert file == folder / "report.html"
    page = Page(file)
    titles = ["Stages and runs side by side", "Training, step by step",
              "Gaps on held-out pairs", "Win rates", "Quality against cost", "Time and memory",
              "Measures and comparisons", "Configuration and provenance", "Rows that were refused", "Samples",
              "What this does not show", "Words"]  # fmt: skip
    headings = re.findall(r'<h2 id="\w+">([^<]+)</h2>', file.read_text(encoding="utf-8"))
    assert headings == ["Too few held-out rows to tell", *titles]
    assert page.elements["figure"] == len(page.data["charts"])
    assert [one["key"] for one in page.data["samples"]["rows"]] == ["key0", "key1", "key2"]
    assert not list(folder.glob("*.unfinished"))


def test_the_page_asks_the_network_for_nothing(tmp_path: Path) -> None:
    page = Page(build_report([write_run(tmp_path / "run")]))
    links = {value for name, value in page.attributes if name in ("src", "href", "action", "srcset")}
    assert all(link.startswith("#") or link == "data:," for link in links)
    policy = next(value for name, value in page.attributes if name == "content" and "default-src" in value)
    assert "default-src 'none'" in policy
    assert "http" not in policy


def test_user_text_never_becomes_markup(tmp_path: Path) -> None:
    """Run name, setting, refused row, sample, gate warning, evaluation and method texts, all hostile."""
    refused = [{"source": HOSTILE, "reason": HOSTILE, "detail": HOSTILE}]
    hostile_folder = HOSTILE.replace("/", "∕")
    folder = write_run(
        tmp_path / hostile_folder, texts=HOSTILE, config={"run_name": HOSTILE}, refused=refused,
        manifest={"command": HOSTILE, "hardware": {HOSTILE: HOSTILE}},
    )  # fmt: skip
    plain = Page(build_report([write_run(tmp_path / "plain")], tmp_path / "plain.html"))
    evaluation = write_evaluation(tmp_path / "eval", name=HOSTILE, texts=HOSTILE)
    file = build_report([folder], tmp_path / "hostile.html", evaluations=[evaluation])
    page = Page(file)
    assert page.elements["script"] == plain.elements["script"]
    assert "img" not in page.elements
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert "{{7*7}}" in page.text
    assert page.data["samples"]["rows"][0]["answers"][0]["text"] == f"{HOSTILE} of start 0"
    raw = file.read_text(encoding="utf-8")
    assert HOSTILE not in raw
    assert "<" not in json.dumps([chart["data"] for chart in page.data["charts"]]).replace("<br>", "")


def test_json_in_a_script_element_cannot_end_it() -> None:
    value = {"a": ["</script>", "<!--", "\u2028", float("nan"), float("inf"), 1.5]}
    text = script_json(value)
    assert "<" not in text
    assert json.loads(text) == {"a": ["</script>", "<!--", "\u2028", None, None, 1.5]}
    assert label("<b>x</b>&") == "&lt;b&gt;x&lt;/b&gt;&amp;"
    assert len(label("x" * 500)) < 60


def test_missing_parts_say_how_to_get_them(tmp_path: Path) -> None:
    text = Page(build_report([write_run(tmp_path / "none", start=None)])).text
    assert "No evaluation was given. demotune evaluate" in text
    assert "none: no rows were held out. Set eval_share or eval_data next time." in text
    assert "Without held-out rows there is no quality to compare." in text


def test_unfinished_runs(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "half", finished=False)
    page = Page(build_report([folder]))
    assert f"half is unfinished: 1 stage so far. Continue it with: demotune resume {folder}" in page.text
    (folder / "stages" / "00" / "state.json").write_text("{}")
    with pytest.raises(DemotuneError, match=r"has not finished a stage.*demotune resume"):
        build_report([folder])


def test_a_worse_last_stage_is_not_the_result(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", stages=[(-8, -19, -30), (-12, -25, -40)])
    summary = json.loads((folder / "summary.json").read_text())
    write_json(folder / "summary.json", summary | {"best_stage": 0})
    run = load_run(folder)
    gain = gain_of(run)
    assert gain is not None
    assert (run.result_stage, gain.per_response.value) == (0, 1.0)
    assert "stage 1 of 2 is the result; later ones were worse" in Page(build_report([folder])).text


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DemotuneError, match="holds no run; name the folder that a run wrote with --output"):
        build_report([tmp_path])
    with pytest.raises(DemotuneError, match="at least one run folder"):
        build_report([])
    run = write_run(tmp_path / "run")
    with pytest.raises(DemotuneError, match="name a file with --output"):
        build_report([run, write_run(tmp_path / "other")])
    with pytest.raises(DemotuneError, match="holds no evaluation"):
        build_report([run], evaluations=[tmp_path])
    (run / "summary.json").write_text('{"torn": ')
    with pytest.raises(DemotuneError, match=r"summary\.json cannot be read"):
        build_report([run])


def test_the_rigor_card_and_the_comparison_have_their_places(tmp_path: Path) -> None:
    rigor = [
        RigorAnswer("artifacts", "code", "Is the code public?", "yes", "LICENSE", "yes"),
        RigorAnswer("artifacts", "data", "Is the data public?", "no", None, "yes"),
        RigorAnswer("artifacts", "money", "Who paid?", "no", "nobody says", "no", "people"),
        RigorAnswer("statistics", "raters", "Were raters paid?", "not applicable", None, "not applicable"),
    ]
    compared = PageComparison(
        columns=("method", "quality"),
        rows=(("irft", "0.61"),),
        sentences=("irft wins in 3 of 3 seeds.",),
        points=(
            CostPoint("irft", 3e15, 60.0, Interval(0.6, 0.5, 0.7)),
            CostPoint("sft", 1e13, 60.0, Interval(0.5, 0.4, 0.6)),
        ),
    )
    file = build_report([write_run(tmp_path / "run")], rigor=rigor, comparison=compared)
    page = Page(file)
    counted = "1 of the 2 questions that these files can answer are answered with evidence; 1 need what was not given"
    assert f"{counted}: people (1). The paper answers 2 of 3." in page.text
    assert page.text.index("Is the data public?") < page.text.index("1 about people") < page.text.index("Who paid?")
    assert "Were raters paid?" in page.text
    assert "irft wins in 3 of 3 seeds." in page.text
    points = [chart for chart in page.data["charts"] if chart["layout"]["yaxis"]["title"].get("text") == "quality"]
    assert points[0]["layout"]["xaxis"]["type"] == "log"
    assert points[0]["data"][0]["x"] == [3e15]


def test_rft_has_its_curves_and_shares(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "rft", method="rft")
    stage = folder / "stages" / "00"
    steps = [{"step": n, "reward": 0.1 * n, "objective/kl": 0.2, "completions/mean_length": 50.0} for n in (1, 2)]
    write_rows(stage / "metrics.jsonl", steps)
    write_rows(stage / "reward-metrics.jsonl", [{"step": 1, "rewards/margins": 0.5}, {"eval_loss": 1.0, "step": 1}])
    check = json.loads((stage / "check.json").read_text())
    policy = {
        **dict.fromkeys(("demo_reward", "reward_before", "reward_after", "finished_share", "mean_length"), 1.0),
        "prompts": 29,
        "better": {"value": 0.38, "low": 0.23, "high": 0.56},
    }
    write_json(stage / "check.json", check | {"policy": policy})
    page = Page(build_report([folder]))
    for title in ("Margin of the reward model", "Reward of on-policy samples", "KL to the start model"):
        assert title in page.text
    shares = {
        trace["name"]: trace["x"] for chart in page.data["charts"] for trace in chart["data"] if "error_x" in trace
    }
    assert shares["stage 1: answers get a higher reward"] == [0.38]
    assert shares["stage 1: likelier than start model"] == [pytest.approx(2 / 3)]


HEAVY = {"torch", "transformers", "datasets", "accelerate", "sklearn", "statsmodels", "pandas"}
ABOVE = ("demotune.evaluation", "demotune.training", "demotune.models")


def imported_by(code: str) -> set[str]:
    """Heavy packages, and packages of demotune that a report does not need, which a process has after `code`."""
    show = f"import sys\n{code}\nprint(*(m for m in sys.modules if m in {HEAVY} or m.startswith({ABOVE})))"
    done = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_a_report_of_a_run_needs_no_torch(tmp_path: Path) -> None:
    """The page module, the model card, and the whole of `demotune report RUN --evaluation FOLDER`."""
    assert imported_by("import demotune.report.page, demotune.report.model_card") == set()
    run, evaluation = write_run(tmp_path / "run"), write_evaluation(tmp_path / "eval")
    arguments = f"{str(run)!r}, '--evaluation', {str(evaluation)!r}"
    command = f"from demotune.cli.main import app\napp(['report', {arguments}], standalone_mode=False)"
    assert imported_by(command) == set()
    assert (run / "report.html").exists()
    assert (run / "card.json").exists()


def test_the_check_of_imports_sees_torch() -> None:
    assert "torch" in imported_by("import torch")
