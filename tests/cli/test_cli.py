"""The command line as a user meets it: help, flags over YAML, errors that name the fix, exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.command import call
from helpers.tiny import save_tiny, write_rows
from helpers.tiny_runs import STAGED
from safetensors.torch import load_file

import demotune
from demotune.config.field import field_types
from demotune.config.methods import CONFIGS


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    save_tiny(folder / "start")
    write_rows(folder / "rows.jsonl")
    return folder


def staged_flags(place: Path, output: str) -> list[str]:
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in STAGED.items() if name != "bf16"]
    where = ["--model", str(place / "start"), "--data", str(place / "rows.jsonl"), "--output", str(place / output)]
    return ["--no-bf16", *flags, *where]


@pytest.mark.parametrize("method", CONFIGS)
def test_help_names_every_field_with_its_default(method: str) -> None:
    code, shown = call(method, "--help-all")
    assert code == 0
    for name in field_types(CONFIGS[method]):
        assert f"--{name.replace('_', '-')}" in shown
    assert shown.count("[default") + shown.count("[required]") >= len(field_types(CONFIGS[method])) - 5


def test_version() -> None:
    assert call("--version") == (0, f"demotune {demotune.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["irft", "--betta", "1"], "irft has no field betta; did you mean beta?"),
        (["sft", "--beta", "1"], "beta is a field of spin, irft and rft, which sft does not use"),
        (["spin", "--link=nce"], "link is a field of irft, which spin does not use"),
        (["irft", "--beta", "-1", "--model", "m", "--data", "d", "--output", "x"], "beta must be > 0, got -1.0"),
        (["irft", "--output", "x"], "model and data are missing; add --model MODEL --data DATA"),
        (["rft"], "model, data and output are missing; add --model MODEL --data DATA --output OUTPUT"),
        (["evaluate"], "model and output are missing; add --model MODEL --output OUTPUT"),
        (["sft", "--model", "m", "--data", "gone.jsonl", "--output", "x"], "gone.jsonl does not exist"),
        (["sft", "--model", "a/b/c", "--data", "d/d", "--output", "x"], "model 'a/b/c' is no folder or GGUF file here"),
        (
            ["sft", "--model", "m", "--data", "d/d", "--eval-data", "gone.csv", "--output", "x"],
            "gone.csv does not exist",
        ),
        (
            ["rft", "--model", "m", "--data", "d/d", "--prompts", "gone.txt", "--output", "x"],
            "prompts file gone.txt does not exist",
        ),
        (["score", "--reward", "m", "--data", "gone.jsonl"], "gone.jsonl does not exist"),
        (["sample", "--model", "m", "--prompt", "p", "--top-p", "0"], "top_p must be above 0"),
        (["sample", "--model", "m", "--prompt", "p", "--temperature", "inf"], "temperature must be a finite number"),
        (
            ["sample", "--model", "m", "--prompt", "p", "--max-new-tokens", f"{10**12}"],
            "max_new_tokens must be at most",
        ),
        (["report", "gone"], "gone holds no run; name the folder that a run wrote"),
        (
            ["irft", "--optim", "adam", "--model", "m", "--data", "d/d", "--output", "x"],
            "optim 'adam' is no name that transformers knows; take adamw_torch_fused, rmsprop, adafactor, sgd",
        ),
        (
            ["irft", "--optim", "galore_adamw", "--model", "m", "--data", "d/d", "--output", "x"],
            "optim galore_adamw cannot be used here (",
        ),
        (
            ["irft", "--report-to", "none", "--report-to", "wandb", "--model", "m", "--data", "d", "--output", "x"],
            "report_to is none, wandb, and none stands alone; drop one of them",
        ),
        (
            ["irft", "--report-to", "dvclive", "--model", "m", "--data", "d", "--output", "x"],
            "report_to names dvclive, which is not installed; pip install dvclive",
        ),
        (
            ["irft", "--report-to", "wand", "--model", "m", "--data", "d", "--output", "x"],
            "report_to names 'wand', which accelerate does not know; did you mean wandb?",
        ),
        (["irft", "--model", "m", "--data", "d"], "output is missing; add --output OUTPUT"),
        (["irft", "--config", "nowhere.yaml"], "config nowhere.yaml is neither a file nor a shipped config"),
        (
            ["sft", "--config", "quickstart"],
            "quickstart is a config for irft, not sft; run demotune irft",
        ),
        (["resume", "nowhere"], "nowhere holds no run to resume"),
        (["sample", "--model", "m", "--prompt", "caf\udce9"], r"--prompt 'caf\udce9' is not UTF-8; put it into a file"),
        (["sample", "--model", "m"], "there is no prompt; give --prompt TEXT or --prompts FILE"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_gets_one_line_that_names_the_fix(
    arguments: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, shown = call(*arguments)
    assert code == 1
    assert f"error: {expected}" in shown
    assert "Traceback" not in shown


def test_a_value_of_the_wrong_type_is_refused() -> None:
    code, shown = call("irft", "--learning-rate", "fast")
    assert code == 2
    assert "learning-rate" in shown


def test_every_missing_flag_is_named() -> None:
    code, shown = call("select")
    assert code == 2
    assert "Missing options --reward, --data, --output" in shown
    assert call("score", "--help")[0] == 0
    code, shown = call("score", "--data", "d")
    assert (code, "--reward" in shown) == (2, True)


def test_a_missing_model_names_what_was_tried(place: Path) -> None:
    flags = ["--data", str(place / "rows.jsonl"), "--output", str(place / "none")]
    code, shown = call("sft", "--model", str(place / "no-such-model"), *flags)
    assert code == 1
    assert "no-such-model" in shown
    assert "check the path or the hub id" in shown


def test_yaml_first_then_flags_then_resume_and_sample(place: Path) -> None:
    (place / "run.yaml").write_text("method: irft\nbeta: 0.3\nlink: nce\nlearning_rate: 1e-4\n")
    code, shown = call("irft", "--config", str(place / "run.yaml"), *staged_flags(place, "flags"), "--beta", "0.2")
    assert code == 0, shown
    kept = json.loads((place / "flags" / "manifest.json").read_text())["config"]
    assert (kept["beta"], kept["link"], kept["learning_rate"]) == (0.2, "nce", STAGED["learning_rate"])
    assert "what was learned" in shown
    code, shown = call("resume", str(place / "flags"))
    assert code == 0
    assert "stage 2 is done already" in shown
    model = str(place / "flags" / "model")
    (place / "prompts.txt").write_text("say one\nsay two please\n")
    wanted = ["--prompts", str(place / "prompts.txt"), "--max-new-tokens", "5", "--output", str(place / "out.jsonl")]
    assert call("sample", "--model", model, *wanted)[0] == 0
    rows = [json.loads(line) for line in (place / "out.jsonl").read_text().splitlines()]
    assert [row["prompt"][0]["content"] for row in rows] == ["say one", "say two please"]
    assert all(row["completion"][0]["role"] == "assistant" and isinstance(row["finished"], bool) for row in rows)


def test_underscores_as_in_trl(place: Path) -> None:
    code, shown = call("irft", *staged_flags(place, "underscores"), "--per_device_train_batch_size", "0")
    assert (code, "per_device_train_batch_size must be > 0, got 0" in shown) == (1, True)


def test_doctor_says_what_a_run_would_use() -> None:
    code, shown = call("doctor")
    assert code == 0
    for word in ("torch", "device", "precision", "attention", "quickstart"):
        assert word in shown


ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "ACCELERATE_USE_CPU": "true",
    "PYTHONPATH": str(Path(demotune.__file__).parents[1]),
}


def launch(*command: str) -> str:
    whole = [sys.executable, "-m", *command]
    done = subprocess.run(whole, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_accelerate_launch() -> None:
    assert demotune.__version__ in launch("accelerate.commands.launch", "--cpu", "-m", "demotune", "--version")


def test_two_processes_give_one_model(place: Path) -> None:
    """Sampling and scoring are shared, gradients averaged: two processes step like one that accumulates."""
    even = ["--per-device-train-batch-size", "5"]  # two micro-batches in each stage: one for each process
    torchrun = ["torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29611"]
    launch(*torchrun, "-m", "demotune", "irft", *staged_flags(place, "two"), *even)
    assert call("irft", *staged_flags(place, "one"), *even, "--gradient-accumulation-steps", "2")[0] == 0
    one, two = (place / name / "stages" / "00" for name in ("one", "two"))
    assert (two / "samples.jsonl.gz").read_bytes() == (one / "samples.jsonl.gz").read_bytes()
    assert (two / "reference_logps.jsonl.gz").read_bytes() == (one / "reference_logps.jsonl.gz").read_bytes()
    assert json.loads((two / "state.json").read_text())["train"]["steps"] == 1
    ours, theirs = (load_file(place / name / "model" / "model.safetensors") for name in ("two", "one"))
    for name, expected in theirs.items():
        torch.testing.assert_close(ours[name], expected, atol=2e-5, rtol=0)
