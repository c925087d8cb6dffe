"""Benchmark tasks: the same numbers as the harness's own command, and rows from folders.

Rows are written here in the harness's columns. The command's task files are written here too, by hand.
"""

import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
from helpers.outside import OUTSIDE
from helpers.tiny import save_tiny, tiny_tokenizer
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from demotune.common.errors import DemotuneError
from demotune.common.files import read_rows, write_rows
from demotune.evaluation.tasks.data import choose_splits, harness_index, single_tasks
from demotune.evaluation.tasks.loading import load_tasks
from demotune.evaluation.tasks.records import PRESETS, TaskOptions, TaskScores
from demotune.evaluation.tasks.run import evaluate_tasks, task_documents, write_task_scores

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'demotune[tasks]'")

REAL = OUTSIDE / "data"
THINGS = ("stone", "feather", "kettle", "ladder", "button", "river", "candle")
HARNESS_TASKS = Path(next(iter(importlib.util.find_spec("lm_eval").submodule_search_locations))) / "tasks"


def arc_row(number: int) -> dict:
    texts = [THINGS[number % 7], THINGS[(number + 3) % 7] + " and more"]
    return {
        "id": str(number),
        "question": f"Which thing is number {number}?",
        "choices": {"text": texts, "label": ["A", "B"]},
        "answerKey": "AB"[number % 2],
    }


def winogrande_row(number: int) -> dict:
    first, second = THINGS[number % 7], THINGS[(number + 1) % 7]
    sentence = f"The {first} hit the {second}, so _ broke {number} times."
    return {"sentence": sentence, "option1": first, "option2": second, "answer": str(number % 2 + 1)}


def gsm8k_row(number: int) -> dict:
    return {"question": f"What is {number} and 2?", "answer": f"It is {number + 2}.\n#### {number + 2}"}


def hellaswag_row(number: int) -> dict:
    return {
        "context": f"Person {number} lifts a",
        "endings": [f"{thing}." for thing in THINGS[:4]],
        "label": number % 4,
    }


def write_task(folder: Path, row, counts: dict[str, int]) -> None:
    start = 0
    for split, count in counts.items():
        write_rows(folder / f"{split}.jsonl", [row(number) for number in range(start, start + count)])
        start += count


def mmlu_row(subject: str, number: int) -> dict:
    return {
        "subject": subject,
        "question": f"{subject} {number}?",
        "choices": list(THINGS[number % 3 :][:4]),
        "answer": (number + len(subject)) % 4,
    }


def write_mmlu(folder: Path, subjects: list[str]) -> None:
    """Five rows for few-shots and one to evaluate for each subject, two for the first three."""
    write_rows(folder / "dev.jsonl", [mmlu_row(subject, number) for subject in subjects for number in range(5)])
    tested = [mmlu_row(subject, 7) for subject in subjects] + [mmlu_row(subject, 8) for subject in subjects[:3]]
    write_rows(folder / "test.jsonl.gz", tested)


def mmlu_subjects() -> list[str]:
    return [harness_index()[task].cfg["dataset_name"] for task in single_tasks("mmlu")]


@pytest.fixture(scope="module", autouse=True)
def nothing_is_cached(tmp_path_factory: pytest.TempPathFactory):
    """Data sets that this machine's user once loaded are not found, nor is anything added to them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        yield


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, and room for long prompts: the harness wants 256 tokens for an answer."""
    folder = tmp_path_factory.mktemp("model")
    save_tiny(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 2048}))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_task(folder / "arc_challenge", arc_row, {"train": 26, "test": 5})
    write_task(folder / "winogrande", winogrande_row, {"train": 6, "validation": 5})
    write_task(folder / "gsm8k", gsm8k_row, {"train": 5, "test": 4})
    write_task(folder / "hellaswag", hellaswag_row, {"train": 3})
    write_mmlu(folder / "mmlu", mmlu_subjects())
    return folder


def options(*folders: Path, **chosen) -> TaskOptions:
    return TaskOptions(task_data=folders, **{"batch_size": 1, **chosen})


def test_presets_are_the_leaderboards():
    found = {(task.task, task.metric, task.few_shots) for task in PRESETS["open-llm-leaderboard-v1"]}
    assert found == {
        ("arc_challenge", "acc_norm", 25),
        ("hellaswag", "acc_norm", 10),
        ("mmlu", "acc", 5),
        ("truthfulqa_mc2", "acc", 0),
        ("winogrande", "acc", 5),
        ("gsm8k", "exact_match,strict-match", 5),
    }


@pytest.fixture(scope="module")
def three_tasks(model_folder: Path, data: Path) -> TaskScores:
    return evaluate_tasks(
        model_folder, ["arc_challenge", "winogrande", "gsm8k"], options(data, limit=3, few_shots=2, batch_size=2)
    )


def run_harness(model_folder: Path, data: Path, folder: Path) -> tuple[dict, dict[str, list[dict]]]:
    """The harness's own command: its results, and its samples by task."""
    own_files = {"arc_challenge": "arc/arc_challenge", "winogrande": "winogrande/default", "gsm8k": "gsm8k/gsm8k"}
    (folder / "files").mkdir()
    for task, own in own_files.items():
        splits = {file.stem: str(file) for file in (data / task).iterdir()}
        lines = [f"include: {HARNESS_TASKS / own}.yaml", "dataset_path: json", "dataset_name: null"]
        lines += ["dataset_kwargs:", f"  data_files: {json.dumps(splits)}"]
        (folder / "files" / f"{task}.yaml").write_text("\n".join(lines))
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={model_folder}"]
    command += ["--tasks", ",".join(own_files), "--include_path", str(folder / "files"), "--num_fewshot", "2"]
    command += ["--limit", "3", "--batch_size", "2", "--device", "cpu"]
    command += ["--output_path", str(folder / "out"), "--log_samples"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "cache"), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=os.environ | offline, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (results,) = (folder / "out").glob("*/results_*.json")
    samples = {
        re.match(r"samples_(.+)_\d{4}-", file.name)[1]: [json.loads(line) for line in file.read_text().splitlines()]
        for file in (folder / "out").glob("*/samples_*.jsonl")
    }
    return json.loads(results.read_text()), samples


def test_scores_equal_the_harness_command(three_tasks, model_folder, data, tmp_path):
    results, samples = run_harness(model_folder, data, tmp_path)
    found = {}
    for result in three_tasks.results:
        metric, _, filter_name = result.metric.partition(",")
        of_task = results["results"][result.task]
        found[result.task, result.metric] = result.value
        assert result.value == of_task[f"{metric},{filter_name or 'none'}"]
        assert result.stderr == of_task[f"{metric}_stderr,{filter_name or 'none'}"]
        assert (result.few_shots, result.items) == (2, 3)
        assert result.version == str(results["versions"][result.task])
    assert set(found) == {
        ("arc_challenge", "acc"),
        ("arc_challenge", "acc_norm"),
        ("winogrande", "acc"),
        ("gsm8k", "exact_match,strict-match"),
        ("gsm8k", "exact_match,flexible-extract"),
    }
    expected = {
        (task, sample["doc_id"], metric if sample["filter"] == "none" else f"{metric},{sample['filter']}"): sample
        for task, of_task in samples.items()
        for sample in of_task
        for metric in sample["metrics"]
    }
    assert len(expected) == len(three_tasks.rows) == 3 * 5
    for row in three_tasks.rows:
        sample = expected[row.task, row.doc_id, row.metric]
        assert (row.value, row.target) == (sample[row.metric.partition(",")[0]], sample["target"])
        if row.task == "gsm8k":
            assert row.logps is None
            assert [row.answer] == sample["filtered_resps"]
        else:
            assert row.logps == tuple(float(logp) for logp, _ in sample["filtered_resps"])


def test_scores_follow_from_the_log_probabilities(three_tasks):
    """acc: the likeliest choice is the right one. acc_norm: the likeliest per character. From the rows above."""
    for row in three_tasks.rows:
        if row.task == "winogrande":
            right = winogrande_row(6 + row.doc_id)["answer"]
            assert row.value == float(row.logps.index(max(row.logps)) == int(right) - 1)
        elif row.metric == "acc_norm":
            asked = arc_row(26 + row.doc_id)
            per_character = [logp / len(text) for logp, text in zip(row.logps, asked["choices"]["text"], strict=True)]
            assert row.value == float(per_character.index(max(per_character)) == "AB".index(asked["answerKey"]))
            assert row.target == str("AB".index(asked["answerKey"]))


def logp_by_hand(model_folder: Path, before: str, after: str) -> float:
    """log p(after | before) in nats, straight from transformers."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(model_folder), tiny_tokenizer()
    context, rest = tokenizer.encode(before), tokenizer.encode(after)
    with torch.no_grad():
        token_logps = model(torch.tensor([context + rest])).logits[0].log_softmax(-1)
    return sum(float(token_logps[len(context) + place - 1, token]) for place, token in enumerate(rest))


def test_log_probabilities_are_the_models(model_folder, data):
    """Winogrande without few-shots: log p(rest of the sentence | sentence up to the blank, filled)."""
    (row,) = evaluate_tasks(model_folder, ["winogrande"], options(data, limit=1)).rows
    asked = winogrande_row(6)
    before, after = asked["sentence"].split("_")
    expected = [logp_by_hand(model_folder, before + asked[choice], after) for choice in ("option1", "option2")]
    assert row.logps == pytest.approx(expected, abs=1e-3)


def test_chat_template(model_folder, data, tmp_path):
    """On demand only: the question in a user turn, the choice where the assistant begins."""
    chosen = options(data, limit=1, apply_chat_template=True)
    row = evaluate_tasks(model_folder, ["arc_challenge"], chosen).rows[0]
    asked = arc_row(26)
    before = f"<|im_start|>user\nQuestion: {asked['question']}\nAnswer:<|im_end|>\n<|im_start|>assistant"
    # the harness counts white space at the end of a prompt with the choice
    expected = [logp_by_hand(model_folder, before, f"\n{text}") for text in asked["choices"]["text"]]
    assert row.logps == pytest.approx(expected, abs=1e-3)

    for file in model_folder.iterdir():
        if file.name != "chat_template.jinja":
            (tmp_path / file.name).symlink_to(file)
    with pytest.raises(DemotuneError, match="no chat template"):
        evaluate_tasks(tmp_path, ["arc_challenge"], chosen)


def test_an_adapter_scores_as_its_merged_model(model_folder, data, tmp_path):
    torch.manual_seed(1)
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(model_folder),
        LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False, task_type="CAUSAL_LM"),
    )
    adapted.save_pretrained(tmp_path / "adapter")
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    tiny_tokenizer().save_pretrained(tmp_path / "merged")
    logps = {}
    for folder in (model_folder, tmp_path / "adapter", tmp_path / "merged"):
        rows = evaluate_tasks(folder, ["winogrande"], options(data, limit=2)).rows
        logps[folder.name] = [logp for row in rows for logp in row.logps]
    assert logps["adapter"] == pytest.approx(logps["merged"], abs=1e-3)
    assert max(abs(a - b) for a, b in zip(logps["adapter"], logps[model_folder.name], strict=True)) > 1e-2


@pytest.fixture(scope="module")
def preset_scores(model_folder, data, tmp_path_factory) -> TaskScores:
    """ARC, MMLU and Winogrande are in folders; the other three are nowhere, as the hub is not there."""
    folder = tmp_path_factory.mktemp("three")
    for task in ("arc_challenge", "mmlu", "winogrande"):
        (folder / task).symlink_to(data / task)
    return evaluate_tasks(model_folder, ["open-llm-leaderboard-v1"], options(folder, limit=2, batch_size=8))


def test_a_preset_averages_what_was_run_and_names_what_is_missing(preset_scores):
    headline = preset_scores.headline
    assert [(result.task, result.metric, result.few_shots) for result in headline] == [
        ("arc_challenge", "acc_norm", 25),
        ("mmlu", "acc", 5),
        ("winogrande", "acc", 5),
    ]
    assert preset_scores.average == pytest.approx(sum(result.value for result in headline) / 3)
    assert preset_scores.missing == ("hellaswag", "truthfulqa_mc2", "gsm8k")
    assert len(preset_scores.notes) == 3
    assert all("--task-data" in note for note in preset_scores.notes)


def test_mmlu_is_57_subjects_from_one_file_weighted_by_size(preset_scores):
    rows = [row for row in preset_scores.rows if row.task.startswith("mmlu_")]
    subjects = mmlu_subjects()
    assert len(subjects) == 57
    assert {row.task for row in rows} == {f"mmlu_{subject}" for subject in subjects}
    assert len(rows) == 57 + 3
    (mmlu,) = [result for result in preset_scores.results if result.task == "mmlu"]
    assert mmlu.items == 60
    assert mmlu.value == pytest.approx(sum(row.value for row in rows) / 60)
    assert 0 < mmlu.value < 1
    for group in ("mmlu_stem", "mmlu_humanities", "mmlu_other", "mmlu_social_sciences"):
        (result,) = [result for result in preset_scores.results if result.task == group]
        inside = [row.value for row in rows if row.task in single_tasks(group)]
        assert (result.value, result.items) == (pytest.approx(sum(inside) / len(inside)), len(inside))


def test_files(preset_scores, tmp_path):
    write_task_scores(tmp_path, {"tuned": preset_scores, "start": preset_scores}, options(limit=2))
    written = json.loads((tmp_path / "tasks.json").read_text())
    assert re.fullmatch(r"lm-eval \d+\.\d+.*", written["harness"])
    assert written["options"]["limit"] == 2
    assert list(written["models"]) == ["tuned", "start"]
    tuned = written["models"]["tuned"]
    assert tuned["average"] == preset_scores.average
    assert tuned["missing"] == ["hellaswag", "truthfulqa_mc2", "gsm8k"]
    assert tuned["headline"][0] == {
        "task": "arc_challenge",
        "metric": "acc_norm",
        "value": preset_scores.headline[0].value,
        "stderr": preset_scores.headline[0].stderr,
        "few_shots": 25,
        "items": 2,
        "higher_is_better": True,
        "version": "1.0",
    }
    rows = read_rows(tmp_path / "task-rows.jsonl.gz")
    assert len(rows) == 2 * len(preset_scores.rows)
    assert {row["model"] for row in rows} == {"tuned", "start"}
    assert set(rows[0]) == {
        *("model", "task", "doc_id", "doc_hash", "metric", "value", "target", "logps", "answer"),
    }


ARC_SPLITS = {"training_split": "train", "validation_split": "validation", "test_split": "test"}
WINOGRANDE_SPLITS = {"training_split": "train", "validation_split": "validation"}


@pytest.mark.parametrize(
    ("config", "there", "expected", "notes"),
    [
        # as the harness has it, but for a split that it does not use
        (ARC_SPLITS, {"train", "test"}, ("train", None, "test", None), []),
        (WINOGRANDE_SPLITS, {"train", "validation"}, ("train", "validation", None, None), []),
        # another split is evaluated
        (ARC_SPLITS, {"train", "validation"}, ("train", "validation", None, None), ["evaluated on the validation"]),
        (
            WINOGRANDE_SPLITS,
            {"dev", "test"},
            (None, None, "test", "dev"),
            ["evaluated on the test", "from the dev split"],
        ),
        # one split for both
        (
            WINOGRANDE_SPLITS,
            {"train"},
            ("train", None, "train", "train"),
            ["evaluated on the train", "other evaluated rows"],
        ),
        (WINOGRANDE_SPLITS, {"validation"}, (None, "validation", "validation", "validation"), ["other evaluated rows"]),
        ({"validation_split": "validation"}, {"validation"}, (None, "validation", None, None), []),
        # few-shots of a split of their own
        ({"test_split": "test", "fewshot_split": "dev"}, {"test", "dev"}, (None, None, "test", "dev"), []),
        ({"test_split": "test", "fewshot_split": "dev"}, {"test"}, (None, None, "test", "test"), ["other evaluated"]),
        # few-shots that are listed in the task itself
        ({"test_split": "test", "fewshot_config": {"samples": [{}]}}, {"test"}, (None, None, "test", None), []),
    ],
)
def test_splits(config, there, expected, notes):
    settings, said = choose_splits({**config, "num_fewshot": 5}, there)
    names = ("training_split", "validation_split", "test_split", "fewshot_split")
    assert tuple(settings[name] for name in names) == expected
    assert len(said) == len(notes)
    assert all(part in note for part, note in zip(notes, said, strict=True))


def test_few_shots_from_evaluated_rows_leave_the_item_itself_out(data):
    with load_tasks({"hellaswag": 2}, [data], limit=None, optional=frozenset()) as tasks:
        (task,) = tasks.singles()
        task.set_fewshot_seed(1234)
        prompts = [task.fewshot_context(doc, num_fewshot=2) for _, doc in task.doc_iterator()]
    texts = [f"Person {number} lifts a" for number in range(3)]
    for number, prompt in enumerate(prompts):
        assert prompt.endswith(texts[number])  # asked once, without its answer
        assert [prompt.count(text) for text in texts] == [1, 1, 1]
        answered = [other for other in range(3) if other != number]
        assert all(f"{texts[other]} {THINGS[other]}.\n\n" in prompt for other in answered)
    assert [note.split(":")[0] for note in tasks.notes] == ["hellaswag"] * 3
    assert "one piece" in tasks.notes[2]


def test_documents_are_questions_with_their_answers(data):
    found = task_documents(["arc_challenge", "winogrande", "gsm8k", "mmlu_virology"], options(data, limit=2))
    assert found == {
        "arc_challenge": [
            "Question: Which thing is number 26?\nAnswer: river",  # 26 % 7 = 5, right answer A
            "Question: Which thing is number 27?\nAnswer: kettle and more",  # (27 + 3) % 7 = 2, right answer B
        ],
        "winogrande": [
            "The candle hit the stone, so candle broke 6 times.",
            "The stone hit the feather, so feather broke 7 times.",
        ],
        "gsm8k": [
            "Question: What is 5 and 2?\nAnswer: It is 7.\n#### 7",
            "Question: What is 6 and 2?\nAnswer: It is 8.\n#### 8",
        ],
        "mmlu_virology": ["virology 7?\nA. feather\nB. kettle\nC. ladder\nD. button\nAnswer: D"],
    }


def fails(names: list[str], chosen: TaskOptions) -> str:
    with pytest.raises(DemotuneError) as caught:
        task_documents(names, chosen)
    return str(caught.value)


def test_unknown_names_get_near_ones(data):
    assert "'arc_chalenge'; did you mean arc_challenge" in fails(["arc_chalenge"], options(data))
    assert "did you mean open-llm-leaderboard-v1" in fails(["open-llm-leaderboard"], options(data))
    assert "no task is named" in fails([], options(data))


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"batch_size": 0}, {"few_shots": -1}])
def test_numbers_without_sense_are_refused(wrong):
    with pytest.raises(DemotuneError, match=r"must be [01] or more, got (0|-1)"):
        TaskOptions(**wrong)


def test_unknown_precision_is_refused():
    with pytest.raises(DemotuneError, match=r"dtype must be one of auto, .*, got 'fp16'"):
        TaskOptions(dtype="fp16")


def test_rows_that_are_nowhere(data, tmp_path):
    assert "is no folder" in fails(["piqa"], options(tmp_path / "absent"))
    message = fails(["piqa"], options(data))
    assert "task piqa has no rows: no folder piqa in --task-data" in message
    assert "baber/piqa" in message
    (tmp_path / "piqa").mkdir()
    assert "holds no rows" in fails(["piqa"], options(tmp_path))
    message = fails(["open-llm-leaderboard-v1"], options())
    assert "none of arc_challenge, hellaswag, mmlu, truthfulqa_mc2, winogrande, gsm8k has rows" in message
    assert "DIR with mmlu/test.jsonl in it" in fails(["mmlu"], options())
    assert "DIR with winogrande/validation.jsonl in it" in fails(["winogrande"], options())


def test_rows_that_do_not_fit(tmp_path):
    rows = [winogrande_row(number) for number in range(3)]
    without = [{column: value for column, value in row.items() if column != "option2"} for row in rows]
    file = tmp_path / "winogrande" / "validation.jsonl"
    write_rows(file, without)
    message = fails(["winogrande"], options(tmp_path))
    assert "KeyError: 'option2'" in message
    assert "their columns are sentence, option1, answer" in message
    write_rows(file, [rows[0], without[1]])
    assert "validation.jsonl:2 and the rows before it differ in columns: option2" in fails(
        ["winogrande"], options(tmp_path)
    )
    write_rows(file, [*rows[:2], {**rows[2], "answer": "3"}])
    assert "KeyError: '3'" in fails(["winogrande"], options(tmp_path))
    file.write_text(json.dumps(rows[0]) + "\n{broken\n")
    assert "validation.jsonl:2 is no benchmark row: broken JSON" in fails(["winogrande"], options(tmp_path))


def test_too_few_rows_for_the_few_shots(tmp_path):
    write_task(tmp_path / "winogrande", winogrande_row, {"validation": 3})
    message = fails(["winogrande"], options(tmp_path, few_shots=3))
    assert "3 few-shots needs 4 rows" in message
    assert len(task_documents(["winogrande"], options(tmp_path, few_shots=2))["winogrande"]) == 3


def test_subjects_without_rows_and_tasks_asked_for_twice(data, tmp_path):
    write_mmlu(tmp_path / "mmlu", ["anatomy"])
    assert list(task_documents(["mmlu_anatomy"], options(tmp_path))) == ["mmlu_anatomy"]
    assert "no row with subject" in fails(["mmlu"], options(tmp_path))
    assert "mmlu_virology is asked for twice" in fails(["mmlu_virology", "mmlu_other"], options(data))


def test_no_harness(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(DemotuneError, match=r"pip install 'demotune\[tasks\]'"):
        harness_index.__wrapped__()  # not what an earlier test left in its cache


def test_real_folders(model_folder):
    if not (REAL / "open_llm_leaderboard").is_dir():
        pytest.skip(f"{REAL} is not here; it is not part of the project")
    names = ["arc_challenge", "hellaswag", "truthfulqa_mc1", "winogrande", "gsm8k", "mmlu_social_sciences"]
    chosen = options(REAL / "open_llm_leaderboard", REAL, limit=2, batch_size=8)
    scores = evaluate_tasks(model_folder, names, chosen)
    assert {result.task for result in scores.headline} == set(names)
    assert all(math.isfinite(result.value) for result in scores.results)
    (mmlu,) = [result for result in scores.headline if result.task == "mmlu_social_sciences"]
    assert mmlu.items == 12 * 2
    assert [note.split(",")[0] for note in scores.notes] == [
        "hellaswag: evaluated on the train split",
        "hellaswag: rows with their context in one piece; the score is not the leaderboard's",
    ]
    assert scores.average is None
