"""What artefacts say of judged answers, and what their pages do with hostile text."""

from pathlib import Path

import pytest
from helpers.page_browser import open_browser

from demotune.paper.judged import Judged, JudgedSeed, share_over_seeds
from demotune.paper.page import draw, render, ticks
from demotune.paper.record import ArtefactRecord, Chart, Point, Sample, Series
from demotune.paper.table5 import samples_of
from demotune.runs.evaluation import EvaluatedRow, Evaluation

HOSTILE = "</pre><script>window.hurt=1</script><img src=x onerror=alert(1)>"


def judged(gains: dict[str, float | None]) -> Judged:
    """One seed, one prompt for each gain of IRFT over SFT."""
    rows = tuple(
        EvaluatedRow(
            key=key, source="", prompt=key, demonstration="", rewards={}, verdicts={},
            models={name: {"sample": key, "finished": True, "rewards": {"rm": reward}}
                    for name, reward in {"sft": 1.0, "irft": None if gain is None else 1.0 + gain}.items()},
        )
        for key, gain in gains.items()
    )  # fmt: skip
    evaluation = Evaluation(Path(), "", {}, (), (), rows, {})
    return Judged((JudgedSeed(evaluation, "sft", {("irft", 1): "irft"}),), ("rm",), None)


def test_the_best_and_the_worst_answers_are_shown_by_gain_and_equal_ones_in_the_order_of_the_data() -> None:
    gains = {"a": 0.0, "b": 3.0, "c": -2.0, "d": 3.0, "e": None, "f": 1.0, "g": -4.0, "h": 0.0}
    shown = samples_of(judged(gains), "irft", ("irft", 1))
    assert [sample.prompt for sample in shown] == ["b", "d", "f", "g", "c", "a"]
    assert shown[0].rule == "IRFT: best 1 of 7, gain +3"
    assert shown[3].rule == "IRFT: worst 1 of 7, gain -4"
    assert shown[0].rewards == (1.0, 4.0)


def test_prompts_without_a_reward_are_left_out_of_all_models() -> None:
    found = judged({"a": 1.0, "b": None, "c": 2.0})
    assert found.rewards(("irft", 1), "rm") == [[2.0, 3.0]]
    assert found.rewards(None, "rm") == [[1.0, 1.0]]


def test_a_judge_that_selected_is_named_and_the_last_one_chooses() -> None:
    found = Judged(judged({"a": 1.0}).seeds, ("first", "second"), "first")
    assert found.names("first") == "the reward model first, which selected the training rows"
    assert found.names("second") == "the reward model second, which selected nothing"
    assert found.best_judge == "second"
    assert found.warnings == ("first selected the training rows: it is no impartial judge of models trained on them.",)


def test_a_share_over_seeds_stays_a_share() -> None:
    found = share_over_seeds([[1.0] * 9 + [0.0], [1.0] * 5 + [0.0] * 5])
    assert found.value == pytest.approx(0.7)
    assert (found.low, found.high) == (0.0, 1.0)


def test_a_chart_holds_its_intervals_and_its_level() -> None:
    series = (Series("a", (Point(0, 2.0, 1.0, 3.0),)), Series("b", (Point(0, -1.0, None, None),)))
    drawn = draw(Chart("intervals", "t", "nats", series, 0.0))
    ends = [end for row in drawn.rows for end in (row.low, row.at, row.high) if end is not None]
    assert all(0 < end < 100 for end in ends)
    assert drawn.rows[1].at < (drawn.level or 0) < (drawn.rows[0].low or 0) < drawn.rows[0].at
    assert [row.shown for row in drawn.rows] == ["2.00 [1.00, 3.00] nats", "−1.00 nats"]


@pytest.mark.parametrize(
    ("low", "high", "unit", "names"),
    [
        (-0.0071, 0.0031, "reward", ["−0.006", "−0.004", "−0.002", "0.000", "0.002"]),
        (0.0, 1.0, "share", ["0%", "20%", "40%", "60%", "80%", "100%"]),
        (-3.0, 41.0, "reward", ["0", "10", "20", "30", "40"]),
    ],
)
def test_an_axis_has_round_numbers_of_one_step(low: float, high: float, unit: str, names: list[str]) -> None:
    found = ticks(low, high, unit)
    assert [name for _, name in found] == names
    assert all(low <= value <= high for value, _ in found)


def page_of(text: str) -> str:
    """A page with a chart of each kind and one sample, all named by a text."""
    sample = Sample(text, text, text, (text,), (text,), (0.0,))
    series = (Series(text, (Point(0, 0.2, 0.1, 0.3), Point(1, 0.4, 0.3, 0.5))),)
    charts = (Chart("lines", text, "share", series, 0.5), Chart("intervals", text, "nats", series, 0.0))
    return render(
        ArtefactRecord(
            artefact="table5", title=text, size="tiny", command=text, created="", versions={}, answer=text,
            warnings=(text,), charts=charts,
            grids=(), samples=(sample,), paper=(text,), rigor=(), leaks=(text,), limits=(text,), trials=(),
        )
    )  # fmt: skip


def test_a_printed_page_shows_intervals_rewards_and_whole_answers(tmp_path: Path) -> None:
    """The report, whose style the page shares, hides or cuts them."""
    page = tmp_path / "page.html"
    page.write_text(page_of("words " * 2000), encoding="utf-8")
    for browser in open_browser(tmp_path / "profile"):
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
        browser.get(page.as_uri())
        hidden = """return [...document.querySelectorAll('.interval, .facts, .sample pre')]
            .filter((e) => !e.clientHeight || e.scrollHeight > e.clientHeight + 1).map((e) => e.className)"""
        assert browser.execute_script(hidden) == []
        assert len(browser.find_elements("css selector", ".interval")) == 2


def test_hostile_text_stays_text() -> None:
    page = page_of(HOSTILE)
    assert "<script" not in page
    assert "<img" not in page
    assert page.count("window.hurt") > 10
