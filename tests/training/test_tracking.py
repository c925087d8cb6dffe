"""Loggers: one run a demotune run, global steps, everything that was measured; read back from what they stored."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import trackio
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from helpers.tiny import save_tiny, write_rows
from helpers.tiny_runs import FAST, RFT, SMALL, STAGED
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trackio.sqlite_storage import SQLiteStorage
from transformers import TrainerCallback

from demotune import DemotuneError, IRFTConfig, RFTConfig, resume, run
from demotune.common.files import read_rows
from demotune.config.loggers import LOGGERS


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("inputs")
    save_tiny(folder / "start")
    write_rows(folder / "rows.jsonl")
    return {"model": str(folder / "start"), "data": (str(folder / "rows.jsonl"),)}


Scalars = dict[str, list[tuple[int, float]]]


def in_tensorboard(root: Path) -> Scalars:
    """Tag -> (step, value), of the one run below a run folder."""
    (folder,) = (root / "tensorboard").iterdir()
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


class StopAt(TrainerCallback):
    """Ctrl-C after a step of the second stage."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if "01" in args.output_dir and state.global_step == 2:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def whole(inputs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("whole") / "irft"
    run(IRFTConfig(output=str(output), report_to=("tensorboard",), run_name="mine", **inputs, **STAGED | FAST))
    return output


def test_steps_count_over_all_stages(whole: Path) -> None:
    found = in_tensorboard(whole)
    trained = [row for row in read_rows(whole / "metrics.jsonl") if "loss" in row]
    assert [step for step, _ in found["train/loss"]] == list(range(1, len(trained) + 1))
    assert [value for _, value in found["train/loss"]] == pytest.approx([row["loss"] for row in trained])
    assert {row["stage"] for row in trained} == {0, 1}


def test_held_out_gate_and_sampling_numbers_are_logged_at_the_end_of_their_phase(whole: Path) -> None:
    found, checks = in_tensorboard(whole), [row for row in read_rows(whole / "metrics.jsonl") if "gate" in row]
    assert [value for _, value in found["gate/gain"]] == pytest.approx([row["gate"]["gain"]["value"] for row in checks])
    margins = [row["reward"]["margin"] for row in checks]
    assert [value for _, value in found["eval/rewards/margins"]] == pytest.approx(margins)
    assert [step for step, _ in found["eval/nll_per_token"]] == [3, 6]
    assert [step for step, _ in found["sample/completions/mean_length"]] == [0, 3]


def test_the_run_has_its_name(whole: Path) -> None:
    assert [folder.name for folder in (whole / "tensorboard").iterdir()] == ["mine"]


def test_an_interrupted_run_logs_what_an_uninterrupted_one_does_once(
    whole: Path, inputs: dict[str, Any], tmp_path: Path
) -> None:
    config = IRFTConfig(
        output=str(tmp_path / "irft"), report_to=("tensorboard",), run_name="mine", **inputs, **STAGED | FAST
    )
    with pytest.raises(KeyboardInterrupt):
        run(config, callbacks=[StopAt()])
    assert len(in_tensorboard(tmp_path / "irft")["train/loss"]) == 4
    resume(tmp_path / "irft")
    found, expected = in_tensorboard(tmp_path / "irft"), in_tensorboard(whole)
    times = ("seconds", "tokens_per_second", "memory")
    assert found.keys() == expected.keys()
    for tag, values in expected.items():
        assert Counter(step for step, _ in found[tag]) == Counter(step for step, _ in values), tag
        assert found[tag] == values or any(part in tag for part in times), tag


def test_metrics_of_the_reward_have_a_prefix_and_trackio_has_one_run_of_the_project(
    inputs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", tmp_path / "trackio")
    given = inputs | SMALL | FAST | RFT
    run(RFTConfig(output=str(tmp_path / "rft"), report_to=("trackio",), project="kettles", **given))
    api = trackio.Api()
    (stored,) = api.runs("kettles")
    assert stored.name == "rft"
    names = {name for row in SQLiteStorage.get_logs("kettles", "rft") for name in row}
    assert {"train/reward/loss", "eval/reward/rewards/accuracies", "train/reward", "train/objective/kl"} <= names
    assert {"eval/reward", "gate/gain", "sample/completions/mean_length"} <= names
    assert stored.config is not None
    assert stored.config["method"] == "rft"


def test_an_interrupted_run_is_one_run_in_trackio(
    whole: Path, inputs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With each number once, at the step that it has in TensorBoard."""
    monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", tmp_path / "trackio")
    given = inputs | STAGED | FAST
    with pytest.raises(KeyboardInterrupt):
        run(
            IRFTConfig(output=str(tmp_path / "irft"), report_to=("trackio",), project="stopped", **given),
            callbacks=[StopAt()],
        )
    before = steps_in_trackio("stopped", "irft", "train/loss")
    resume(tmp_path / "irft")
    expected = {tag: [step for step, _ in values] for tag, values in in_tensorboard(whole).items()}
    assert before == expected["train/loss"][:4]
    for tag in ("train/loss", "eval/nll_per_token", "gate/gain", "sample/completions/mean_length"):
        assert steps_in_trackio("stopped", "irft", tag) == expected[tag]


def steps_in_trackio(project: str, run_name: str, tag: str) -> list[int]:
    """The steps of a number in the one run of a project."""
    (stored,) = trackio.Api().runs(project)
    assert stored.name == run_name
    return [row["step"] for row in SQLiteStorage.get_logs(project, run_name) if tag in row]


def test_a_logger_that_cannot_start_is_one_sentence_before_any_phase(inputs: dict[str, Any], tmp_path: Path) -> None:
    output = tmp_path / "irft"
    config = IRFTConfig(output=str(output), report_to=("tensorboard",), run_name="a\0b", **inputs, **STAGED)
    with pytest.raises(DemotuneError, match=r"tensorboard could not be started: .*leave it out of --report-to"):
        run(config)
    assert not list(output.glob("stages/*/samples*"))


def test_the_loggers_are_those_of_accelerate() -> None:
    assert set(LOGGERS) == set(LOGGER_TYPE_TO_CLASS)
