"""`demotune evaluate` on the command line: its tables, its help, and wrong input."""

from pathlib import Path

import pytest
from helpers.command import call
from helpers.evaluations import strict

from demotune.config.evaluation import EvaluationConfig
from demotune.config.field import field_types


def test_the_command(runs: Path, place: Path, tmp_path: Path) -> None:
    code, shown = call(
        "evaluate", "--model", str(runs / "irft-1"), "--baseline", str(runs / "sft"), "--baseline", str(runs / "start"),
        "--data", str(place / "test.jsonl"), "--reward", str(runs / "rft"), "--max-rows", "3", "--max_new_tokens", "4",
        "--no-bf16", "--output", str(tmp_path / "out"),
    )  # fmt: skip
    assert code == 0, shown
    for text in (
        "3 preference rows, 3 models",
        "win rate by rft",
        "the reward itself",
        "3 rows are too few",
        "results in",
    ):
        assert text in shown
    kept = strict(tmp_path / "out" / "evaluation.json")["config"]
    assert (kept["max_new_tokens"], kept["bf16"], len(kept["baseline"])) == (4, False, 2)


def test_help_names_every_field() -> None:
    code, shown = call("evaluate", "--help-all")
    assert code == 0
    for name in field_types(EvaluationConfig):
        assert f"--{name.replace('_', '-')}" in shown


DATA = ["--data", "TEST"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--data", "TEST"], "model is missing; add --model MODEL"),
        (["--model", "START"], "there is nothing to measure on; give --data, or --tasks"),
        (["--model", "nowhere", *DATA], "check the path or the hub id"),
        (["--model", "unfinished", *DATA], "finish it with: demotune resume unfinished"),
        (["--model", "START", "--baseline", "START", *DATA], "is named twice; compare different models"),
        (["--model", "START", "--data", "gone.jsonl"], "gone.jsonl does not exist"),
        (
            ["--model", "START", *DATA, "--columns", "prompt=question,response=answer"],
            "found: prompt, chosen, rejected",
        ),
        (["--model", "START", *DATA, "--judge", "m:f"], "--judge compares the answers of two models; give --data and"),
        (
            ["--model", "START", "--baseline", "SFT", *DATA, "--judge", "m:f", "--no-answers"],
            "--judge compares answers, and --no-answers was given",
        ),
        (["--model", "START", *DATA, "--judge-url", "http://localhost/v1"], "--judge-model is missing"),
        (["--model", "START", *DATA, "--reward", "r", "--reward", "r"], "--reward r is given twice; give it once"),
        (
            ["--model", "START", "--tasks", "t", "--reward", "r"],
            "--reward judges responses to the prompts of test rows",
        ),
        (["--model", "START", *DATA, "--temperature", "-1"], "temperature must be >= 0, got -1.0"),
        (["--model", "START", *DATA, "--max-rows", "0"], "max_rows must be at least 1, got 0"),
        (["--model", "START", *DATA, "--output", "TEST"], "is a file; name a folder for the results with --output"),
        (
            ["--model", "START", "--baseline", "SFT", *DATA, "--judge", "evaluate_judges:mute"],
            "judge evaluate_judges:mute gave no usable answer for any of 9 prompts; the first: raised RuntimeError",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_gets_one_line_that_names_the_fix(
    arguments: list[str], expected: str, runs: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(place)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "manifest.json").write_text("{}")
    names = {"START": str(runs / "start"), "SFT": str(runs / "sft"), "TEST": str(place / "test.jsonl")}
    output = [] if "--output" in arguments else ["--output", "out"]
    code, shown = call("evaluate", *(names.get(argument, argument) for argument in arguments), *output)
    assert code == 1
    assert "error: " in shown
    assert expected in shown
    assert "Traceback" not in shown


def test_output_is_needed(runs: Path, place: Path) -> None:
    code, shown = call("evaluate", "--model", str(runs / "start"), "--data", str(place / "test.jsonl"))
    assert (code, "output is missing; add --output OUTPUT" in shown) == (1, True)
