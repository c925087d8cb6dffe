"""What a finished run is in Python: short to look at, its verdict and metrics those of the run's own files."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from helpers.page_reader import Cells
from helpers.tiny import write_rows
from helpers.tiny_runs import tiny_runs

import demotune
from demotune import DemotuneError, ImplicitReward, RunResult, ScalarReward, SFTConfig, run
from demotune.common.json_records import read_records
from demotune.common.statistics import Interval, mean_interval
from demotune.report.answer import answer_sentence
from demotune.result import RunVerdict, read_result
from demotune.runs.folder import RunFolder
from demotune.runs.heldout import HeldoutRow


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs(tmp_path_factory)


def result_of(runs: Path, name: str) -> RunResult:
    return read_result(RunFolder(runs / name))


@pytest.mark.parametrize("name", ["sft", "irft-1", "rft"])
def test_verdict_is_the_mean_gain_over_held_out_rows(runs: Path, name: str) -> None:
    """Worked out from the files of the rows; the report's sentence says the same."""
    result = result_of(runs, name)
    stages = runs / name / "stages"
    before = {row.key: row.demo_logp for row in read_records(HeldoutRow, stages / "00" / "start.jsonl.gz")}
    after = read_records(HeldoutRow, stages / f"{result.best_stage:02d}" / "heldout.jsonl.gz")
    gains = [row.demo_logp - before[row.key] for row in after]
    assert (result.verdict.gain, result.verdict.prompts) == (mean_interval(gains), len(gains))
    low, high = mean_interval(gains).low, mean_interval(gains).high
    expected = "better" if low > 0 else "worse" if high < 0 else "no clear change"
    assert result.verdict.answer == expected
    sentence = answer_sentence([demotune.load_run(runs / name)])
    words = {"better": "likelier", "worse": "less likely", "no clear change": "no clear change"}
    assert words[expected] in sentence


@pytest.mark.parametrize(
    ("verdict", "text"),
    [
        (
            RunVerdict("better", Interval(8.331, 7.903, 8.732), 8),
            "better: gain 8.33 [7.90, 8.73] (95% interval) nats a response over the start model, on 8 prompts",
        ),
        (
            RunVerdict("too few held-out rows to tell", Interval(-1.5, float("nan"), float("nan")), 3),
            "too few held-out rows to tell: gain -1.50 nats a response over the start model, on 3 prompts",
        ),
        (RunVerdict("not known", None, 0), "not known: the run held out no rows"),
    ],
)
def test_verdict_in_words(verdict: RunVerdict, text: str) -> None:
    assert str(verdict) == text


def test_a_run_that_held_nothing_out_has_no_verdict(runs: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 8)
    config = SFTConfig(
        model=str(runs / "start"), data=(rows,), output=str(tmp_path / "run"), max_steps=1, eval_share=0.0,
        max_length=128, bf16=False,
    )  # fmt: skip
    result = run(config)
    assert result.verdict == RunVerdict("not known", None, 0)
    assert not any(name.startswith("eval_") for name in result.metrics)
    assert "not known: the run held out no rows" in repr(result)


def test_metrics_are_those_of_the_files(runs: Path) -> None:
    for name, phase in (("sft", "train"), ("irft-1", "train"), ("rft", "policy")):
        result = result_of(runs, name)
        folder = runs / name / "stages" / f"{result.best_stage:02d}"
        end = json.loads((folder / "state.json").read_text())[phase]["end"]
        assert end.items() <= result.metrics.items()
        check = json.loads((folder / "check.json").read_text())
        assert result.metrics["eval_nll_per_token"] == check["nll_per_token"]
        assert all(isinstance(value, float | int) for value in result.metrics.values())
    assert {"loss", "rewards/margins", "eval_rewards/margins", "eval_rewards/accuracies"} <= set(
        result_of(runs, "irft-1").metrics
    )
    rft = result_of(runs, "rft").metrics
    assert {"objective/kl", "reward_model/loss", "eval_reward"} <= set(rft)
    assert rft["reward_model/loss"] != rft["loss"]
    assert "eval_rewards/margins" not in result_of(runs, "sft").metrics


def test_a_result_is_short_to_look_at(runs: Path) -> None:
    result = result_of(runs, "irft-1")
    assert repr(result) == f"RunResult(irft, {runs / 'irft-1'}, 2 stages, {result.verdict})"
    earlier = dataclasses.replace(result, best_stage=0)
    assert "2 stages, stage 1 is the result" in repr(earlier)


def test_the_table_of_a_notebook_is_escaped(runs: Path) -> None:
    result = result_of(runs, "irft-1")
    odd = dataclasses.replace(result, model_folder=Path("<script>alert(1)</script> & more"))
    cells = Cells(odd._repr_html_())
    assert cells.tags == {"table", "caption", "tr", "th", "td"}
    assert {"demotune irft", str(odd.model_folder), str(result.verdict), "eval_nll_per_token"} <= set(cells.texts)


def test_a_result_whose_folder_moved_can_still_be_shown(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "sft", tmp_path / "sft")
    result = read_result(RunFolder(tmp_path / "sft"))
    (tmp_path / "sft").rename(tmp_path / "elsewhere")
    assert "not known: its folder cannot be read" in repr(result)
    with pytest.raises(DemotuneError, match="holds no run"):
        _ = result.verdict


def test_the_reward_of_a_result(runs: Path) -> None:
    assert isinstance(result_of(runs, "irft-1").reward(), ImplicitReward)
    assert isinstance(result_of(runs, "rft").reward(), ScalarReward)
    assert isinstance(result_of(runs, "sft").reward(), ImplicitReward)
