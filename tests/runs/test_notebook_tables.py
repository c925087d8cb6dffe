"""What a notebook shows of a run and of a comparison: small tables with the numbers of the records, escaped."""

import dataclasses
from pathlib import Path

import pytest
from helpers.page_reader import Cells
from helpers.tiny_runs import tiny_runs

from demotune import compare, load_run
from demotune.common.notebook import facts_table, html_table

HOSTILE = "<script>alert('x')</script> & more"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs(tmp_path_factory)


@pytest.mark.parametrize(
    "text", [facts_table(HOSTILE, {HOSTILE: HOSTILE}), html_table(HOSTILE, [HOSTILE], [[HOSTILE], [HOSTILE]])]
)
def test_nothing_in_a_table_is_markup(text: str) -> None:
    cells = Cells(text)
    assert cells.tags <= {"table", "caption", "tr", "th", "td"}
    assert cells.texts == [HOSTILE] * len(cells.texts)
    assert len(cells.texts) >= 3


def test_a_run_has_a_line_for_each_stage(runs: Path) -> None:
    run = load_run(runs / "irft-1")
    cells = Cells(run._repr_html_())
    assert cells.texts[0] == f"irft run {runs / 'irft-1'}, finished"
    marked = [f"stage {stage.number + 1}" + ", the result" * (stage.number == run.result_stage) for stage in run.stages]
    assert [text for text in cells.texts if text.startswith("stage ")] == marked
    for stage in run.stages:
        assert f"{stage.check.nll_per_token:.3f}" in cells.texts
        assert stage.check.whole_reward is not None
        assert stage.check.whole_reward.accuracy.text() in cells.texts
        assert stage.check.gate is not None
        assert stage.check.gate.verdict in cells.texts


def test_a_run_without_a_finished_stage_can_be_shown(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "manifest.json").write_bytes((runs / "sft" / "manifest.json").read_bytes())
    cells = Cells(load_run(tmp_path / "begun")._repr_html_())
    assert cells.texts[0].endswith("unfinished")
    assert "start model" in cells.texts


def test_a_comparison_has_a_line_for_each_setting(runs: Path) -> None:
    table = compare([runs / "sft", runs / "irft-1", runs / "irft-2"])
    odd = dataclasses.replace(table, rows=HOSTILE)
    cells = Cells(odd._repr_html_())
    assert cells.tags == {"table", "caption", "tr", "th", "td"}
    assert HOSTILE in cells.texts[0]
    assert {line.setting for line in table.lines} <= set(cells.texts)
    heads = cells.texts[1 : 1 + cells.texts[1:].index(table.lines[0].setting)]
    assert heads == ["runs", "log-likelihood of demonstrations, nats/token", "minus sft", "p", "mean rank"]
    for line in table.lines:
        assert {text for text in table.quality_cells(line) if text} <= set(cells.texts)
