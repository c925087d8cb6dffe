"""What an interrupted evaluation, or one that is asked for again, makes anew: the parts that are missing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.evaluations import evaluation, rows_of
from helpers.killing import die_before
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from demotune import DemotuneError


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the models, and rewards, that were loaded with transformers."""
    loaded: list[str] = []

    def counting(load: Callable[..., Any]) -> Callable[..., Any]:
        def counted(folder: str | Path, **options: Any) -> Any:
            if options.get("device_map") != "meta":  # where only names and shapes of the weights are compared
                place = Path(folder)
                loaded.append(place.parent.name if place.name == "model" else place.name)
            return load(folder, **options)

        return counted

    for auto in (AutoModelForCausalLM, AutoModelForSequenceClassification):
        monkeypatch.setattr(auto, "from_pretrained", counting(auto.from_pretrained))
    return loaded


def without_times(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in ("created", "hardware")}


def test_parts_that_are_there_are_not_made_again(runs: Path, place: Path, tmp_path: Path, loads: list[str]) -> None:
    asked = {
        "model": str(runs / "irft-1"),
        "baseline": (str(runs / "start"),),
        "data": (str(place / "test.jsonl"),),
        "reward": (str(runs / "rft"),),
        "max_rows": 3,
    }
    first = evaluation(tmp_path / "out", **asked)
    assert loads == ["irft-1", "start", "reward"]
    raw = rows_of(first)
    for name, expected in (
        (None, []),
        ("irft-1-logps", ["irft-1"]),
        ("start-answers", ["start"]),
        ("reward-rejected", ["reward"]),
    ):
        if name is not None:
            (part,) = (tmp_path / "out" / "parts").glob(f"{name}-*.json")
            part.unlink()
        loads.clear()
        again = evaluation(tmp_path / "out", **asked)
        assert loads == expected
        assert rows_of(again) == raw
        if name is None:
            assert without_times(again.record) == without_times(first.record)
    for change, expected in (
        ({"seed": 43}, ["irft-1", "start", "reward"]),
        ({"max_rows": 2, "answers": False}, ["irft-1", "start", "reward"]),
        ({"template": "Q: {prompt} A: ", "answers": False}, ["irft-1", "start"]),
        ({"model": str(runs / "irft-2")}, ["irft-2", "reward"]),
    ):
        loads.clear()
        evaluation(tmp_path / "out", **{**asked, **change})
        assert loads == expected, change


def test_an_interrupted_evaluation_goes_on(
    runs: Path, place: Path, tmp_path: Path, loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"model": str(runs / "irft-1"), "baseline": (str(runs / "start"),), "data": (str(place / "test.jsonl"),)}
    with monkeypatch.context() as patch:
        die_before("start-answers-*.json", patch, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            evaluation(tmp_path / "out", max_rows=3, **asked)
    assert not (tmp_path / "out" / "evaluation.json").exists()
    loads.clear()
    resumed = evaluation(tmp_path / "out", max_rows=3, **asked)
    assert loads == ["start"]
    assert rows_of(resumed) == rows_of(evaluation(tmp_path / "whole", max_rows=3, **asked))


def test_a_judge_that_cannot_be_had_is_told_before_anything_is_measured(
    runs: Path, place: Path, tmp_path: Path, loads: list[str]
) -> None:
    asked = {"model": str(runs / "sft"), "baseline": (str(runs / "start"),), "data": (str(place / "test.jsonl"),)}
    for wrong, message in (
        ({"judge": ("no_such_judge:f",)}, "there is no module no_such_judge"),
        ({"reward": (str(runs / "start"),)}, "is no sequence classifier"),
        ({"judge_url": "localhost", "judge_model": "m"}, "the judge's address must be http"),
        ({"tasks": ("arc_chalenge",)}, "there is no task 'arc_chalenge'"),
    ):
        with pytest.raises(DemotuneError, match=message):
            evaluation(tmp_path / "out", **asked, **wrong)
    assert loads == []
