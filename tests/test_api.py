"""The public functions: runs as folders, results or records; what a function returns, only a command shows."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.rewards import LONG, ODD_TOKENS, PROMPTS, Counting, ask, save_reward
from helpers.tiny import tiny_model
from helpers.tiny_runs import tiny_runs

from demotune import (
    DemotuneError,
    EvaluationConfig,
    IRFTConfig,
    best_of,
    compare,
    estimate_run,
    evaluate,
    generate,
    load_run,
    write_report,
)
from demotune.config.drawing import GenerationOptions
from demotune.result import read_result
from demotune.rewards.answers import BestOf, answer
from demotune.runs.folder import RunFolder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs(tmp_path_factory)


def in_each_form(run: Path) -> list[Any]:
    """A run as somebody may have it at hand."""
    return [run, str(run), read_result(RunFolder(run)), load_run(run)]


# Use -----------------------------------------------------------------------------------------------------------------


def test_generate_gives_the_texts_of_answer(runs: Path) -> None:
    options = GenerationOptions(max_new_tokens=12, seed=3)
    expected = [given.text for given in answer(str(runs / "sft"), PROMPTS, options)]
    for model in in_each_form(runs / "sft"):
        assert generate(model, PROMPTS, max_new_tokens=12, seed=3) == expected
    texts = [prompt[0]["content"] for prompt in PROMPTS]
    assert generate(runs / "sft" / "model", texts, max_new_tokens=12, seed=3) == expected


def test_best_of_n_gives_the_answers_of_the_command(runs: Path) -> None:
    start, counting = str(runs / "start"), Counting(ODD_TOKENS)
    expected = answer(start, PROMPTS, GenerationOptions(max_new_tokens=LONG), best_of=BestOf(4, counting))
    assert best_of(4, counting, start, PROMPTS, max_new_tokens=LONG) == expected
    assert (
        best_of(1, counting, start, PROMPTS, max_new_tokens=9)[0].text == generate(start, PROMPTS, max_new_tokens=9)[0]
    )


def test_best_of_n_loads_the_reward_that_is_named(runs: Path, tmp_path: Path) -> None:
    for reward in [*in_each_form(runs / "rft"), save_reward(tmp_path / "reward")]:
        (best,) = best_of(2, reward, runs / "start", PROMPTS[:1], max_new_tokens=6)
        assert best.reward is not None


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda start: generate(start, "hello"), r"prompts is one text, expected a list; give prompts=\[text\]"),
        (lambda start: generate(start, ["a", []]), r"prompts\[1\] is no prompt \(the prompt has no messages\)"),
        (lambda start: generate(start, [[*ask("a"), {"role": "robot", "content": "b"}]]), "has the role text 'robot'"),
        (
            lambda start: generate(tiny_model(), ["a"]),
            "model is of type LlamaForCausalLM; give a run, a folder",
        ),
        (lambda start: generate(start, ["a"], max_new_tokens=0), "max_new_tokens must be at least 1, got 0"),
        (lambda start: generate(start, ["a"], temperature=-1.0), r"temperature must be >= 0, got -1\.0"),
        (
            lambda start: generate(start, ["a"], top_p=0.0),
            r"top_p must be above 0, at most 1, got 0\.0; the default is 1",
        ),
        (lambda start: best_of(0, Counting([]), start, ["a"]), "n must be at least 1, got 0; 4 is usual"),
        (lambda start: best_of(2, Counting([]), start, ["a"], top_k=1), "greedy ones are all alike"),
    ],
)
def test_wrong_input_is_one_error(runs: Path, call: Callable[[str], Any], expected: str) -> None:
    with pytest.raises(DemotuneError, match=expected):
        call(str(runs / "start"))


# Measure -------------------------------------------------------------------------------------------------------------


def test_evaluate_takes_a_config_or_its_fields(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"tell {n}", "completion": str(n)}) + "\n" for n in range(6)))
    one = evaluate(
        model=read_result(RunFolder(runs / "irft-1")), baseline=runs / "sft", data=rows, output=tmp_path / "one",
        answers=False,
    )  # fmt: skip
    config = EvaluationConfig(
        model=str(runs / "irft-1"), baseline=(str(runs / "sft"),), data=(str(rows),), output=str(tmp_path / "two"),
        answers=False,
    )  # fmt: skip
    two = evaluate(config)
    three = evaluate(config, output=str(tmp_path / "three"))
    assert one.record["measures"] == two.record["measures"] == three.record["measures"] != []
    assert (one.folder, three.folder) == (tmp_path / "one", tmp_path / "three")
    assert "results in" not in capsys.readouterr().out
    with pytest.raises(DemotuneError, match=r"evaluate has no field modle; it has .*model, baseline"):
        evaluate(config, modle="x")


def test_compare_takes_runs_in_any_form(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = [compare([sft, runs / "irft-1"]) for sft in in_each_form(runs / "sft")]
    assert all(len(table.lines) == 3 and table.lines == tables[0].lines for table in tables)
    assert not (tmp_path / "comparison.json").exists()
    compare([runs / "sft", runs / "irft-1"], output=tmp_path)
    assert json.loads((tmp_path / "comparison.json").read_text())["prompts"] == tables[0].prompts
    assert capsys.readouterr().out == ""
    on_data = compare([runs / "sft", runs / "irft-1"], data=runs / "rows.jsonl", output=tmp_path / "measured")
    assert "rows.jsonl" in on_data.rows
    with pytest.raises(DemotuneError, match="data needs output=FOLDER"):
        compare([runs / "sft"], data="rows.jsonl")


def test_an_estimate_is_returned_and_not_shown(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = IRFTConfig(
        model=str(runs / "start"),
        data=(str(runs / "rows.jsonl"),),
        output="unused",
        max_length=128,
        max_new_tokens=8,
        samples_per_prompt=1,
    )
    here = estimate_run(config, "h100")
    assert min(here.seconds, here.flops, here.memory) > 0
    assert "it fits" not in capsys.readouterr().out
    with pytest.raises(DemotuneError, match="abacus"):
        estimate_run(config, "abacus")


def test_a_report_of_one_run_and_of_several(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write_report(read_result(RunFolder(runs / "sft")), tmp_path / "one.html")
    both = write_report([runs / "sft", load_run(runs / "irft-1")], tmp_path / "both.html")
    assert (one, both) == (tmp_path / "one.html", tmp_path / "both.html")
    assert "<html" in one.read_text(encoding="utf-8")
    assert "irft-1" in both.read_text(encoding="utf-8")
    assert "irft-1" not in one.read_text(encoding="utf-8")
    assert "Report:" not in capsys.readouterr().out
