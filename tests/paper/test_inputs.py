"""What users must supply, what size tiny makes, and the paper's own settings, checked without its weights."""

import json
from pathlib import Path

import pytest
from helpers.command import call
from helpers.tiny import save_tiny, write_rows
from transformers import AutoTokenizer

from demotune.common.errors import DemotuneError
from demotune.config.paper import PaperConfig
from demotune.data.rendering import Renderer
from demotune.evaluation.tasks.records import PRESETS
from demotune.paper.plans import plan_of
from demotune.paper.reported import AVERAGES, LEADERBOARD_TASKS, reported_average
from demotune.paper.sizes import size_of
from demotune.paper.stand_ins import make_model, write_preferences, write_task
from demotune.records import Demonstration


def test_one_error_lists_all_that_is_missing(tmp_path: Path) -> None:
    code, shown = call("paper", "figure1", "--size", "paper", "--output", str(tmp_path / "out"))
    assert code == 1
    assert [flag for flag in ("--model", "--data", "--preferences", "--reward-model") if flag not in shown] == []
    assert "EleutherAI/pythia-1.4b" in shown
    assert not (tmp_path / "out").exists()


def test_tables_of_tasks_need_their_rows_where_no_hub_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    code, shown = call("paper", "table3", "--size", "paper", "--output", str(tmp_path / "out"))
    assert code == 1
    assert "--task-data" in shown
    assert "--reward-model" not in shown  # the paper selects no rows there


def test_all_at_size_paper_is_refused_and_tiny_takes_no_inputs(tmp_path: Path) -> None:
    with pytest.raises(DemotuneError, match="make them one by one"):
        PaperConfig(artefact="all", size="paper", output=tmp_path)
    with pytest.raises(DemotuneError, match="drop --model, --data"):
        PaperConfig(artefact="all", output=tmp_path, model="m", data=("d",))


def test_what_the_paper_reports_and_nothing_more() -> None:
    assert reported_average("irft", 10) == 61.03
    assert reported_average("spin", 1) == 60.32
    assert reported_average("irft", 2) is None
    assert reported_average("rft", 5) is None
    assert len(AVERAGES) == 6
    assert {task.task: task.few_shots for task in PRESETS["open-llm-leaderboard-v1"]} == {
        "arc_challenge": 25, "truthfulqa_mc2": 0, "winogrande": 5, "gsm8k": 5, "hellaswag": 10, "mmlu": 5,
    }  # fmt: skip
    assert set(LEADERBOARD_TASKS) == {task.task for task in PRESETS["open-llm-leaderboard-v1"]}


def test_the_trials_of_the_paper_have_its_settings(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, ["sft", "spin", "irft", "stages"], size_of("paper", "leaderboard"), "zephyr", ("rows",))
    irft = [trial.config for trial in plan.trials if trial.config.method == "irft"]
    assert sorted({config.stages for config in irft}) == [5, 8, 10, 16]
    assert {config.seed for config in irft} == {0, 1, 2}
    for config in irft:
        assert (config.learning_rate, config.beta, config.optim, config.warmup_steps) == (5e-7, 0.1, "rmsprop", 0.1)
        assert (config.epochs_per_stage, config.max_length, config.lora_r, config.lora_alpha) == (2, 2048, 64, 16)
        assert (config.slices, config.link, config.reference, config.gate) == ("disjoint", "logistic", "stage", "off")
    assert {trial.config.model for trial in plan.trials} == {"zephyr"}  # which is an SFT model already


def test_rows_of_the_paper_are_rendered_by_its_template(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "out", ["irft"], size_of("paper", "hh"), save_tiny(tmp_path / "model"), ("rows",))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    row = Demonstration(({"role": "user", "content": "Why?"},), "Because.", "")
    ids = Renderer(tokenizer, plan.trials[0].config.template, (2,)).render(row).prompt_ids
    assert tokenizer.decode(ids) == "### Instruction: Why?\n\n### Response: "


def test_an_estimate_by_datasheet_runs_nothing(tmp_path: Path) -> None:
    model, rows = str(tmp_path / "model"), write_rows(tmp_path / "rows.jsonl")
    make_model(Path(model))
    given = ["--model", model, "--data", rows, "--preferences", rows, "--reward-model", model]
    out = tmp_path / "out"
    asked = ["figure1", "--size", "paper", "--output", str(out), "--estimate", "--device", "h200"]
    code, shown = call("paper", *asked, *given)
    assert code == 0, shown
    assert "estimate for h200" in shown
    assert "irft from sft" in shown
    assert not (out / "trials").exists()


def test_a_tiny_pair_is_an_answer_and_the_answer_to_the_next_prompt(tmp_path: Path) -> None:
    write_preferences(tmp_path / "pairs.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 52
    assert [row["rejected"] for row in rows] == [row["chosen"] for row in [*rows[1:], rows[0]]]


def test_the_right_choice_of_the_tiny_task_is_the_answer_to_the_prompt(tmp_path: Path) -> None:
    write_preferences(tmp_path / "pairs.jsonl")
    write_task(tmp_path)
    pairs, items = (
        [json.loads(line) for line in (tmp_path / name).read_text(encoding="utf-8").splitlines()]
        for name in ("pairs.jsonl", "arc_challenge/test.jsonl")
    )
    for pair, item in zip(pairs, items, strict=True):
        answers = dict(zip(item["choices"]["label"], item["choices"]["text"], strict=True))
        assert answers[item["answerKey"]] == pair["chosen"][0]["content"]
        assert len(set(answers.values())) == 4
    assert {item["answerKey"] for item in items} == set("ABCD")
