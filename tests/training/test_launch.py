"""Processes that would have nothing to do are refused before anything is trained; the others are counted."""

from pathlib import Path
from typing import Any

import pytest
from helpers.processes import pretend_processes
from helpers.tiny import save_tiny, write_rows
from helpers.tiny_runs import RFT, SMALL, STAGED

from demotune import DemotuneError, IRFTConfig, RFTConfig, SFTConfig
from demotune.config.methods import AnyConfig
from demotune.runs.folder import RunFolder
from demotune.training.launch import refuse_idle_processes, say_processes
from demotune.training.prepare import prepare_run
from demotune.training.setup import Setup


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("launch")
    save_tiny(folder / "start")
    write_rows(folder / "rows.jsonl", 6)
    return folder


def prepared(place: Path, kind: type[AnyConfig], **fields: Any) -> Setup:
    config = kind(
        model=str(place / "start"), data=(str(place / "rows.jsonl"),), output=str(place / "out"), eval_share=0.0,
        **{**SMALL, **fields},
    )  # fmt: skip
    return prepare_run(config, RunFolder(place / "out"), ())


def sentence(setup: Setup, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    say_processes(setup)
    return capsys.readouterr().out.strip()


def test_processes_and_what_a_step_holds(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sft = prepared(place, SFTConfig, gradient_accumulation_steps=2)
    irft = prepared(place, IRFTConfig, **STAGED, stages=1)
    rft = prepared(place, RFTConfig, **RFT, num_mini_batches=2)
    assert sentence(sft, capsys) == "1 process; 8 demonstrations a step"
    pretend_processes(2, monkeypatch)
    assert sentence(sft, capsys) == "2 processes; 16 demonstrations a step"
    assert sentence(irft, capsys) == "2 processes; 8 pairs a step"
    assert sentence(rft, capsys) == "2 processes; 4 responses a step"


def test_a_step_holds_no_more_than_there_is(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    setup = prepared(place, SFTConfig, per_device_train_batch_size=32)
    assert sentence(setup, capsys) == "1 process; 6 demonstrations a step"


def test_more_processes_than_rows_are_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = prepared(place, IRFTConfig, **STAGED, stages=2)
    pretend_processes(4, monkeypatch)
    with pytest.raises(
        DemotuneError, match=r"^4 processes share 3 demonstrations of a stage, so some have none; start"
    ):
        refuse_idle_processes(setup)


@pytest.mark.parametrize(("passes", "refused"), [(1.0, True), (2.0, False)])
def test_fewer_micro_batches_than_processes_are_refused(
    passes: float, refused: bool, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """6 rows are two micro-batches of 4; three processes need three."""
    setup = prepared(place, SFTConfig, num_train_epochs=passes)
    pretend_processes(3, monkeypatch)
    if not refused:
        refuse_idle_processes(setup)
        return
    with pytest.raises(DemotuneError, match=r"^phase train has 2 micro-batches for 3 processes, so some have none of"):
        refuse_idle_processes(setup)


def test_one_process_may_train_on_one_micro_batch(place: Path) -> None:
    refuse_idle_processes(prepared(place, SFTConfig, per_device_train_batch_size=32, num_train_epochs=1.0))
