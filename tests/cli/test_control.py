"""The SFT control of a run: the same start model, rows, steps and tokens; used again, finished, or refused."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.command import call
from helpers.killing import die_before
from helpers.tiny_runs import tiny_runs

from demotune import DemotuneError
from demotune.cli import control
from demotune.cli.control import control_of, train_controls
from demotune.common.files import read_json, read_rows, write_json
from demotune.runs.heldout import HeldoutRow
from demotune.runs.run import Run, load_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs(tmp_path_factory)


@pytest.fixture
def irft(runs: Path, tmp_path: Path) -> Path:
    """A copy, for a control is written beside its run."""
    return shutil.copytree(runs / "irft-1", tmp_path / "irft", symlinks=True)


@pytest.fixture(scope="module")
def trained(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """A run and its control."""
    folder = shutil.copytree(runs / "irft-1", tmp_path_factory.mktemp("control") / "irft", symlinks=True)
    (found,) = train_controls([folder])
    assert found == folder.with_name("irft-control-sft")
    return load_run(folder), load_run(found)


def keys_of(rows: Sequence[HeldoutRow] | None) -> set[str]:
    assert rows
    return {row.key for row in rows}


def test_it_starts_from_the_same_model_on_the_same_rows(trained: tuple[Run, Run]) -> None:
    run, found = trained
    assert found.method == "sft"
    assert found.start_hash == run.start_hash
    assert found.seed == run.seed == 1
    assert found.config["learning_rate"] == run.config["learning_rate"]
    assert found.config["lr_scheduler_type"] == run.config["lr_scheduler_type"]
    rows = [read_rows(one.folder / "rows.jsonl.gz") for one in trained]
    assert rows[0] == rows[1]
    assert keys_of(found.result.heldout) == keys_of(run.result.heldout)
    ours, theirs = ({row.key: row for row in one.start or ()} for one in trained)
    assert ours.keys() == theirs.keys() != set()
    for key, row in ours.items():
        assert (theirs[key].demo_logp, theirs[key].demo_tokens) == (
            pytest.approx(row.demo_logp, abs=1e-4),
            row.demo_tokens,
        )


def test_it_takes_the_steps_and_tokens_of_the_run(trained: tuple[Run, Run]) -> None:
    """Of 19 rows, in 6 steps of 4 pairs at most; a pair has twice its prompt, a demonstration and a sample."""
    run, found = trained
    assert found.cost.steps == run.cost.steps == 6
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


def test_a_finished_control_is_used_again(trained: tuple[Run, Run]) -> None:
    """It is neither trained nor published again: no file is written."""
    files = [file for file in trained[1].folder.rglob("*") if file.is_file()]
    written = [(file.stat().st_ino, file.stat().st_mtime_ns) for file in files]
    assert train_controls([trained[0].folder]) == [trained[1].folder]
    assert [file for file in trained[1].folder.rglob("*") if file.is_file()] == files
    assert [(file.stat().st_ino, file.stat().st_mtime_ns) for file in files] == written


def test_an_unfinished_control_is_finished(
    irft: Path, trained: tuple[Run, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in its check: the result is that of the control that nobody stopped."""
    with monkeypatch.context() as patch:
        die_before("check.json", patch, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            train_controls([irft])
    folder = irft.with_name("irft-control-sft")
    assert not (folder / "summary.json").exists()
    assert train_controls([irft]) == [folder]
    assert load_run(folder).result.heldout == trained[1].result.heldout


def test_sft_runs_have_none(runs: Path) -> None:
    assert train_controls([runs / "sft"]) == []
    assert not (runs / "sft-control-sft").exists()


def test_the_control_of_another_run_is_not_taken(irft: Path, trained: tuple[Run, Run]) -> None:
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


def test_a_run_without_a_step_has_none(irft: Path) -> None:
    for file in irft.glob("stages/*/state.json"):
        state = read_json(file)
        write_json(file, state | {"train": state["train"] | {"steps": 0}})
    with pytest.raises(DemotuneError, match="irft took no step of training, so there is nothing to control for"):
        control_of(load_run(irft))


def test_rft_and_lora_keep_what_sft_knows_of_their_config(runs: Path) -> None:
    finished = load_run(runs / "rft")
    fields = {**finished.config, "use_peft": True, "lora_r": 3}
    config = control_of(replace(finished, manifest=replace(finished.manifest, config=fields)))
    assert (config.use_peft, config.lora_r, config.seed, config.gate) == (True, 3, 42, "off")
    assert config.max_steps == finished.cost.steps
    assert config.learning_rate == finished.config["learning_rate"]


def test_the_command_trains_the_control_and_compares_with_it(irft: Path, tmp_path: Path) -> None:
    code, shown = call("compare", str(irft), "--control", "sft", "--output", str(tmp_path / "out"))
    assert code == 0, shown
    assert "sft, control of irft" in shown
    assert "minus sft, control of irft" in shown, shown
    kept = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [line["setting"] for line in kept["lines"]] == ["start model", "irft", "sft, control of irft"]
    code, shown = call("compare", str(irft), str(irft.with_name("irft-control-sft")), "--control", "sft")
    assert code == 0, shown
    assert "is there already" in shown
