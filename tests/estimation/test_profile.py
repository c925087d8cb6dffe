"""Where the time of a run went, and the estimate beside what was measured; neither changes a run."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny import save_tiny, write_rows
from helpers.tiny_runs import RFT, SMALL, STAGED
from safetensors.torch import load_file

from demotune import IRFTConfig, RFTConfig, RunResult, SFTConfig, resume, run
from demotune.common.profiling import Profile, profiled, span, timed
from demotune.estimation import forecast
from demotune.estimation.machines import Machine
from demotune.result import read_result
from demotune.runs.folder import RunFolder
from demotune.training.trainer import Interrupted, PhaseTrainer


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("estimate")
    save_tiny(folder / "start")
    write_rows(folder / "rows.jsonl")
    return folder


def where(place: Path, output: str) -> dict[str, Any]:
    return {"model": str(place / "start"), "data": (str(place / "rows.jsonl"),), "output": str(place / output)}


# Profiles


def test_spans_hold_their_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 3.0, 6.0, 10.0, 11.0])
    monkeypatch.setattr("demotune.common.profiling.clock", lambda: next(clock))
    with profiled(True) as profile, span("backward"), span("forward"):
        pass
    assert profile is not None
    assert profile.seconds == {"backward": 2.0 + 4.0, "forward": 3.0}
    assert profile.total == 11.0


def test_an_exception_closes_what_it_left_open() -> None:
    profile = Profile()
    depth = profile.enter("backward")
    with pytest.raises(ValueError), profile.span("forward"):
        profile.enter("optimizer")
        raise ValueError
    profile.leave(depth)
    profile.close()
    assert sum(profile.seconds.values()) <= profile.total


def test_spans_without_a_profile_do_nothing() -> None:
    @timed("scoring")
    def double(number: int) -> int:
        return 2 * number

    with profiled(False) as profile, span("files"):
        assert double(4) == 8
    assert profile is None


@pytest.fixture(scope="module")
def plain(place: Path) -> RunResult:
    return run(IRFTConfig(**where(place, "plain") | STAGED))


def same_weights(ours: Path, theirs: Path) -> bool:
    one, two = (load_file(folder / "model" / "model.safetensors") for folder in (ours, theirs))
    return all(torch.equal(one[name], two[name]) for name in two)


def test_a_profile_changes_nothing_and_adds_up(
    place: Path, plain: RunResult, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(IRFTConfig(**where(place, "profiled") | STAGED, profile=True))
    shown = capsys.readouterr().out
    assert same_weights(result.run_folder, plain.run_folder)
    for name in ("samples.jsonl.gz", "reference_logps.jsonl.gz", "heldout.jsonl.gz"):
        stage = Path("stages") / "01" / name
        assert (result.run_folder / stage).read_bytes() == (plain.run_folder / stage).read_bytes()
    assert result.profile is not None
    spans = {name: seconds for name, seconds in result.profile.items() if name != "total"}
    assert set(spans) == {"sampling", "scoring", "forward", "backward", "optimizer", "files"}
    assert all(seconds > 0 for seconds in spans.values())
    assert sum(spans.values()) <= result.profile["total"]
    assert "where the time went" in shown
    assert "ceilings measured on the spot" in shown
    for name in (*spans, "other", "in all"):
        assert f" {name} " in shown
    assert read_result(RunFolder(result.run_folder)).profile == result.profile
    assert plain.profile is None


def test_rft_is_profiled(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(RFTConfig(**where(place, "rft") | SMALL | RFT, profile=True))
    assert result.profile is not None
    assert sum(result.profile.values()) <= 2 * result.profile["total"]  # of which one is the total itself
    assert set(result.profile) == {"sampling", "scoring", "forward", "backward", "optimizer", "files", "total"}
    assert " sampling " in capsys.readouterr().out


# Estimate and fact


def test_a_tiny_run_measures_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> Machine:
        raise AssertionError("a tiny run must not measure the machine")

    monkeypatch.setattr(forecast, "measure_machine", refuse)
    result = run(SFTConfig(**where(place, "tiny") | SMALL, max_steps=1))
    assert result.estimate is None
    assert json.loads((result.run_folder / "summary.json").read_text())["estimate"] is None


def test_the_end_compares_estimate_and_fact(
    place: Path, plain: RunResult, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(forecast, "TINY", 0.0)
    result = run(IRFTConfig(**where(place, "compared") | STAGED))
    shown = capsys.readouterr().out
    assert "estimate for the whole run: " in shown
    assert "estimated before the run, and measured" in shown
    assert same_weights(result.run_folder, plain.run_folder)
    kept = json.loads((result.run_folder / "summary.json").read_text())["estimate"]
    assert kept == result.estimate
    assert list(kept["seconds"]) == ["sample", "start", "reference", "train", "check"]
    measured = sum(phase["seconds"] for stage in result.stages for phase in stage["phases"].values())
    assert sum(both[1] for both in kept["seconds"].values()) == pytest.approx(measured, abs=0.5)
    assert kept["tokens"][0] == pytest.approx(kept["tokens"][1], rel=0.03)
    assert kept["machine"]["precision"] == "float32"


def test_a_resumed_run_is_compared_and_profiled_without_ceilings(
    place: Path, plain: RunResult, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(forecast, "TINY", 0.0)
    config = IRFTConfig(**where(place, "stopped") | STAGED, profile=True)
    with monkeypatch.context() as patch:
        patch.setattr(PhaseTrainer, "compute_loss", _interrupt)
        with pytest.raises(Interrupted):
            run(config)
    capsys.readouterr()
    result = resume(config.output)
    shown = capsys.readouterr().out
    assert same_weights(result.run_folder, plain.run_folder)
    assert result.estimate is not None
    assert result.profile is not None
    assert "since the run was resumed" in shown
    assert "ceilings measured on the spot" not in shown


def _interrupt(*_: object, **__: object) -> None:
    raise Interrupted
