"""Tiny finished runs to evaluate and compare, trained once in a test session: sft, irft-1, irft-2 (seeds), rft."""

import json
from pathlib import Path
from typing import Any

import pytest

from demotune import IRFTConfig, RFTConfig, SFTConfig, run
from helpers.tiny import save_tiny, write_rows

SMALL = {"max_length": 128, "per_device_train_batch_size": 4, "bf16": False, "learning_rate": 1e-3}
STAGED = {**SMALL, "max_new_tokens": 8, "samples_per_prompt": 1, "epochs_per_stage": 1.0, "sample_batch_size": 5}
FAST = {"learning_rate": 1e-2}
"""At 1e-3 the models hardly differ, and most of their answers are the same."""
RFT: dict[str, Any] = {
    "stages": 1,
    "max_new_tokens": 8,
    "samples_per_prompt": 1,
    "reward_epochs": 1.0,
    "prompts_per_batch": 4,
    "num_generations": 2,
    "policy_batches": 2,
    "finished_only": False,
    "stop_unfinished": 0.0,
    "force": True,
}


def tiny_runs(factory: pytest.TempPathFactory) -> Path:
    """A folder with start/, rows.jsonl and the four runs on them. Nobody writes there."""
    folder = factory.getbasetemp() / "tiny-runs"
    if folder.exists():
        return folder
    save_tiny(folder / "start")
    write_rows(folder / "rows.jsonl")
    same: dict[str, Any] = {"model": str(folder / "start"), "data": (str(folder / "rows.jsonl"),)}
    run(SFTConfig(output=str(folder / "sft"), **same, **SMALL | FAST))
    for seed in (1, 2):
        run(IRFTConfig(output=str(folder / f"irft-{seed}"), seed=seed, **same, **STAGED | FAST))
    run(RFTConfig(output=str(folder / "rft"), **same, **SMALL | FAST, **RFT))
    return folder


PREFERENCES = 9


def write_preferences(file: Path, count: int = PREFERENCES) -> str:
    """Prompts that no run saw. The rejected response is of like length in every third row, else far longer."""
    rows = [
        {
            "prompt": f"tell {number}{' now' * (number % 3)}",
            "chosen": f"{number}, of course {number % 5}",
            "rejected": f"{number}, or perhaps {number % 4}{' and so on' * (number % 3)}",
        }
        for number in range(count)
    ]
    return write_json_lines(file, rows)


def write_json_lines(file: Path, rows: list[dict[str, Any]]) -> str:
    """The rows, one a line; returns the file's name."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)
