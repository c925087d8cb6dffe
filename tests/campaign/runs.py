"""Small runs of every method to interrupt and damage, and the comparison of two run folders."""

import gzip
import json
from pathlib import Path
from typing import Any

from helpers.tiny import save_tiny, write_rows

SMALL = [
    "--max-length=128", "--per-device-train-batch-size=4", "--no-bf16", "--learning-rate=0.001", "--save-steps=1",
    "--max-rows=16",
]  # fmt: skip
STAGED = [*SMALL, "--max-new-tokens=8", "--sample-batch-size=5"]
PAIRS = [*STAGED, "--epochs-per-stage=1"]
RFT = [
    *STAGED, "--reward-epochs=1", "--prompts-per-batch=4", "--num-generations=2", "--policy-batches=3",
    "--no-finished-only", "--stop-unfinished=0", "--force",
]  # fmt: skip
LORA = ["--use-peft", "--lora-r=2"]

SETTINGS: dict[str, list[str]] = {
    "sft": ["sft", *SMALL],
    "sft-lora": ["sft", *SMALL, *LORA],
    "spin": ["spin", *PAIRS, "--stages=2", "--history=0.5"],
    "irft": ["irft", *PAIRS],
    "irft-carry": ["irft", *PAIRS, "--optimizer-across-stages=carry", "--history=0.5"],
    "irft-initial": ["irft", *PAIRS, "--reference=initial", "--link=nce"],
    "irft-lora": ["irft", *PAIRS, *LORA],
    "rft": ["rft", *RFT, "--stages=2"],
    "rft-gae": ["rft", *RFT, "--stages=1", "--advantage=gae", "--num-iterations=2", "--num-mini-batches=2"],
    "rft-lora": ["rft", *RFT, "--stages=1", *LORA],
}
"""Every method and every phase: with adapters, carried optimizers, pairs of the stage before, a value head."""

# Times stand in the metrics, so their hashes among a phase's outputs differ, too; the metrics themselves are compared.
_VOLATILE = {
    "seconds", "peak_memory_gib", "tokens_per_second", "created", "command", "hardware", "versions", "estimate",
    "profile", "checksum", "metrics.jsonl", "reward-metrics.jsonl", "train_runtime", "train_samples_per_second",
    "train_steps_per_second", "total_flos",
}  # fmt: skip
_NOT_COMPARED = {".lock", "report.html", "card.json", "shortcuts.json", "README.md", "training_args.bin"}
"""The page and what is made for it are written anew from the other files; a card names the day."""


def prepare(place: Path) -> None:
    """The start model and the rows that all runs share."""
    if not (place / "start").is_dir():
        save_tiny(place / "start")
        write_rows(place / "rows.jsonl", 20)


def command(setting: str, place: Path) -> list[str]:
    """What starts a run of this setting, into the folder `run`."""
    return [*SETTINGS[setting], f"--model={place / 'start'}", f"--data={place / 'rows.jsonl'}", "--output=run"]


def differences(found: Path, expected: Path) -> list[str]:
    """In what two finished run folders differ, times and memory left aside; empty where they are equal."""
    ours, theirs = _files(found), _files(expected)
    wrong = [f"{name} is {'missing' if name in theirs else 'left over'}" for name in sorted(ours ^ theirs)]
    return wrong + [
        f"{name} differs" for name in sorted(ours & theirs) if _content(found / name) != _content(expected / name)
    ]


def _files(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in _NOT_COMPARED
    }


def _content(file: Path) -> Any:
    data = file.read_bytes()
    name = file.name.removesuffix(".gz")
    if file.suffix == ".gz":
        data = gzip.decompress(data)
    if name.endswith(".json"):
        return _steady(json.loads(data))
    if name.endswith(".jsonl"):
        return [_steady(json.loads(line)) for line in data.split(b"\n") if line]
    return data


def _steady(value: Any) -> Any:
    """A JSON value without what differs between two runs of the same work."""
    if isinstance(value, dict):
        return {name: _steady(part) for name, part in value.items() if name not in _VOLATILE}
    if isinstance(value, list):
        return [_steady(part) for part in value]
    return value
