"""The SFT control of a run: the same start model, rows, steps and tokens; used again, finished, or refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_evaluate import call
from tiny_runs import tiny_runs

from demotune import DemotuneError
from demotune.cli import control
from demotune.cli.control import control_of, train_controls
from demotune.common.files import read_json, read_rows, write_json
from demotune.runs.finished import FinishedRun, read_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs(tmp_path_factory)


@pytest.fixture
def irft(runs: Path, tmp_path: Path) -> Path:
    """A copy, for a control is written beside its run."""
    return shutil.copytree(runs / "irft-1", tmp_path / "irft", symlinks=True)


@pytest.fixture(scope="module")
def trained(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[FinishedRun, FinishedRun]:
    """A run and its control."""
    folder = shutil.copytree(runs / "irft-1", tmp_path_factory.mktemp("control") / "irft", symlinks=True)
    (found,) = train_controls([folder])
    assert found == folder.with_name("irft-control-sft")
    return read_run(folder), read_run(found)


def test_it_starts_from_the_same_model_on_the_same_rows(trained: tuple[FinishedRun, FinishedRun]) -> None:
    run, found = trained
    assert found.method == "sft"
    assert found.start_hash == run.start_hash
    assert found.seed == run.seed == 1
    assert found.config["learning_rate"] == run.config["learning_rate"]
    assert found.config["lr_scheduler_type"] == run.config["lr_scheduler_type"]
    rows = [read_rows(one.folder / "rows.jsonl.gz") for one in trained]
    assert rows[0] == rows[1]
    assert found.heldout().keys() == run.heldout().keys()
    for key, (logp, tokens) in run.heldout_at_start().items():
        assert found.heldout_at_start()[key] == (pytest.approx(logp, abs=1e-4), tokens)


def test_it_takes_the_steps_and_tokens_of_the_run(trained: tuple[FinishedRun, FinishedRun]) -> None:
    """Of 19 rows, in 6 steps of 4 pairs at most; a pair has twice its prompt, a demonstration and a sample."""
    run, found = trained
    assert found.cost.steps == run.cost.steps == 6
    assert run.cost.trained_tokens is not None
    assert found.cost.trained_tokens == pytest.approx(run.cost.trained_tokens, rel=0.1)


@pytest.mark.parametrize(
    ("rows", "per_step", "largest", "expected"),
    [
        (64, 16.0, 8, (8, 2)),  # 8 micro-batches of 8
        (64, 8.1, 8, (8, 1)),  # 1.2% less is near enough
        (20, 13.0, 8, (8, 2)),  # 8, 8 and 4: 13.3 on average, 2.6% more
        (20, 12.0, 8, (4, 3)),  # 8 would give 13.3, 11% more; 6 and 5 give 10
        (20, 10.0, 16, (16, 1)),  # 16 and 4: 10 on average
        (6, 6.0, 8, (6, 1)),  # no micro-batch is larger than the data
        (100, 1.2, 4, (1, 1)),
    ],
)
def test_sizes_of_a_step(rows: int, per_step: float, largest: int, expected: tuple[int, int]) -> None:
    assert control._batches(rows, per_step, largest) == expected


def test_a_finished_control_is_used_again(
    trained: tuple[FinishedRun, FinishedRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(control, "run", never)
    monkeypatch.setattr(control, "resume", never)
    assert train_controls([trained[0].folder]) == [trained[1].folder]


def test_an_unfinished_control_is_finished(
    irft: Path, trained: tuple[FinishedRun, FinishedRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before its check: the result is that of the control that nobody stopped."""

    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("demotune.training.phases.check.trained_rows", stopped)
        with pytest.raises(KeyboardInterrupt):
            train_controls([irft])
    folder = irft.with_name("irft-control-sft")
    assert not (folder / "summary.json").exists()
    assert train_controls([irft]) == [folder]
    assert read_run(folder).heldout() == trained[1].heldout()


def test_sft_runs_have_none(runs: Path) -> None:
    assert train_controls([runs / "sft"]) == []
    assert not (runs / "sft-control-sft").exists()


def test_the_control_of_another_run_is_not_taken(irft: Path, trained: tuple[FinishedRun, FinishedRun]) -> None:
    """The run was made anew, with another learning rate, and its old control is still there."""
    shutil.copytree(trained[1].folder, irft.with_name("irft-control-sft"), symlinks=True)
    manifest = read_json(irft / "manifest.json")
    manifest["config"]["learning_rate"] = 3e-3
    write_json(irft / "manifest.json", manifest)
    with pytest.raises(DemotuneError, match=r"irft-control-sft holds another run .*\(output, learning_rate differ\)"):
        train_controls([irft])


def test_another_start_model_is_refused(irft: Path) -> None:
    manifest = read_json(irft / "manifest.json")
    write_json(irft / "manifest.json", manifest | {"model": "c" * 64})
    with pytest.raises(DemotuneError, match=r"start is not the model that .*irft started from; put it back"):
        train_controls([irft])
    assert not irft.with_name("irft-control-sft").exists()


def test_a_run_that_did_not_count_its_tokens_has_none(runs: Path) -> None:
    finished = read_run(runs / "irft-1")
    old = replace(finished, cost=replace(finished.cost, trained_tokens=None, flops=None))
    with pytest.raises(
        DemotuneError, match=r"irft-1 did not count its rows and tokens \(an older version\).*run it again"
    ):
        control_of(old)


def test_rft_and_lora_keep_what_sft_knows_of_their_config(runs: Path) -> None:
    finished = read_run(runs / "rft")
    config = control_of(replace(finished, config={**finished.config, "use_peft": True, "lora_r": 3}))
    assert (config.use_peft, config.lora_r, config.seed, config.gate) == (True, 3, 42, "off")
    assert config.max_steps == finished.cost.steps
    assert config.learning_rate == finished.config["learning_rate"]


def test_the_command_trains_the_control_and_compares_with_it(irft: Path, tmp_path: Path) -> None:
    code, shown = call("compare", str(irft), "--control", "sft", "--output", str(tmp_path / "out"))
    assert code == 0, shown
    assert "sft, control of irft" in shown
    assert "less sft, control of irft" in shown
    kept = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [line["setting"] for line in kept["lines"]] == ["start model", "irft", "sft, control of irft"]
    code, shown = call("compare", str(irft), str(irft.with_name("irft-control-sft")), "--control", "sft")
    assert code == 0, shown
    assert "is there already" in shown
