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
from demotune.training.launch import refuse_idle_processes, refuse_uneven_steps, say_processes
from demotune.training.microbatches import Deal, deal
from demotune.training.prepare import prepare_run
from demotune.training.setup import Setup


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("launch")
    save_tiny(folder / "start")
    write_rows(folder / "rows.jsonl", 6)
    return folder


def prepared(place: Path, kind: type[AnyConfig], begun_by: int | None = None, **fields: Any) -> Setup:
    config = kind(
        model=str(place / "start"), data=(str(place / "rows.jsonl"),), output=str(place / "out"), eval_share=0.0,
        **{**SMALL, **fields},
    )  # fmt: skip
    return prepare_run(config, RunFolder(place / "out"), (), begun_by)


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


@pytest.mark.parametrize(
    ("microbatches", "processes", "dealt"),
    [
        (4, 1, Deal(parts=1, accumulation=4)),
        (4, 2, Deal(parts=1, accumulation=2)),
        (1, 2, Deal(parts=2, accumulation=1)),
        (4, 8, Deal(parts=2, accumulation=1)),
        (4, 6, Deal(parts=3, accumulation=2)),  # 12 parts, two for each process
    ],
)
def test_how_processes_share_a_step(microbatches: int, processes: int, dealt: Deal) -> None:
    assert deal(microbatches, processes) == dealt
    assert microbatches * dealt.parts == processes * dealt.accumulation


def test_a_step_is_that_of_the_processes_that_began(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """16 demonstrations, in two micro-batches of each of two processes."""
    setup = prepared(place, SFTConfig, begun_by=2, gradient_accumulation_steps=2)
    as_before = (
        "begun by 2 processes, goes on with {}: 16 demonstrations a step as before, {}; equal up to the order of sums"
    )
    assert sentence(setup, capsys) == as_before.format(1, "accumulation 4 instead of 2")
    for count, change in (
        (4, "accumulation 1 instead of 2"),
        (8, "accumulation 1 instead of 2, each micro-batch in 2 parts"),
    ):
        pretend_processes(count, monkeypatch)
        refuse_uneven_steps(setup)
        assert sentence(setup, capsys) == as_before.format(count, change)
    pretend_processes(2, monkeypatch)
    assert sentence(setup, capsys) == "2 processes; 16 demonstrations a step"


def test_a_step_that_processes_cannot_share_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = prepared(place, SFTConfig, begun_by=2, gradient_accumulation_steps=2)
    pretend_processes(3, monkeypatch)
    with pytest.raises(
        DemotuneError,
        match=r"out was begun by 2 processes with 16 demonstrations a step, which 3 processes cannot share in equal "
        r"parts; go on with 1, 2, 4, 8 or 16$",
    ):
        refuse_uneven_steps(setup)


def test_both_kinds_of_steps_of_rft_must_be_shared(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """8 responses could be shared by 8; 4 pairs of the reward's step cannot, where it takes steps."""
    setup = prepared(place, RFTConfig, begun_by=1, **RFT)
    pretend_processes(8, monkeypatch)
    with pytest.raises(
        DemotuneError, match=r"begun by 1 process with 4 pairs and 8 responses a step, .* go on with 1, 2 or 4$"
    ):
        refuse_uneven_steps(setup)
    linear = {name: value for name, value in RFT.items() if name != "reward_epochs"} | {"reward_kind": "linear"}
    refuse_uneven_steps(prepared(place, RFTConfig, begun_by=1, **linear))
