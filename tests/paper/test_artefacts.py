"""What artefacts say of judged answers, and what their pages do with hostile text."""

from pathlib import Path

import pytest

from demotune.paper.judged import Judged, JudgedSeed, share_over_seeds
from demotune.paper.page import draw, render
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


def test_hostile_text_stays_text() -> None:
    sample = Sample(HOSTILE, HOSTILE, HOSTILE, (HOSTILE,), (HOSTILE,), (0.0,))
    lines = Chart(
        "lines", HOSTILE, "share", (Series(HOSTILE, (Point(0, 0.2, 0.1, 0.3), Point(1, 0.4, 0.3, 0.5))),), 0.5
    )
    page = render(
        ArtefactRecord(
            artefact="table5", title=HOSTILE, size="tiny", command=HOSTILE, created="", versions={}, answer=HOSTILE,
            warnings=(HOSTILE,), charts=(lines,), grids=(), samples=(sample,), paper=(HOSTILE,), rigor=(),
            leaks=(HOSTILE,), limits=(HOSTILE,), trials=(),
        )
    )  # fmt: skip
    assert "<script" not in page
    assert "<img" not in page
    assert page.count("window.hurt") > 10
