"""Two reward models of preference pairs, and demonstrations that neither has seen, for `demotune paper --size small`.

    python benchmarks/reward_models.py --model MODEL --train PAIRS.jsonl.gz --test PAIRS.jsonl.gz --output FOLDER

The rows of `--train` (prompt, chosen, rejected) are dealt into three parts by a hash of the prompt: one for each reward
model, trained by TRL's RewardTrainer for one epoch, and one of demonstrations. FOLDER then holds `selector`, `judge`,
`demonstrations.jsonl` and `reward_models.json`: rows, settings, seconds, accuracy on the pairs of `--test`; no text.
"""

import argparse
import gzip
import hashlib
import json
import math
import platform
import time
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed
from trl import RewardConfig, RewardTrainer

from demotune.models.policy import resolve_model

Rows = list[dict[str, Any]]
PARTS = ("selector", "judge", "demonstrations")
SETTINGS = {
    "num_train_epochs": 1, "learning_rate": 2e-5, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2,
    "max_length": 256, "lr_scheduler_type": "cosine", "warmup_steps": 5,
}  # fmt: skip


def part_of(row: dict[str, Any]) -> str:
    """The part that a row's prompt falls into."""
    digest = hashlib.sha256(json.dumps(row["prompt"], sort_keys=True).encode()).digest()
    return PARTS[digest[0] % len(PARTS)]


def read(path: Path) -> Rows:
    """Preference rows."""
    with gzip.open(path, "rt") as lines:
        return [json.loads(line) for line in lines]


def train(
    folder: Path, model: Path, name: str, pairs: list[dict[str, Any]], tests: list[dict[str, Any]]
) -> dict[str, Any]:
    """Train a reward model, save it to `folder/name`; its row of `reward_models.json`."""
    seed = PARTS.index(name)
    set_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(model)
    trainer = RewardTrainer(
        model=AutoModelForSequenceClassification.from_pretrained(model, num_labels=1, dtype=torch.float32),
        args=RewardConfig(
            output_dir=str(folder / "work" / name), seed=seed, bf16=True, use_cpu=not torch.cuda.is_available(),
            report_to="none", save_strategy="no", logging_steps=10, gradient_checkpointing=False, **SETTINGS,
        ),
        train_dataset=Dataset.from_list(pairs),
        eval_dataset=Dataset.from_list(tests),
        processing_class=tokenizer,
    )  # fmt: skip
    begin = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - begin
    found = trainer.evaluate()
    trainer.save_model(str(folder / name))
    count, accuracy = len(trainer.eval_dataset), found["eval_accuracy"]
    return {
        "name": name, "seed": seed, "pairs": len(trainer.train_dataset), "seconds": round(seconds, 1),
        "test_pairs": count, "accuracy": accuracy, "standard_error": math.sqrt(accuracy * (1 - accuracy) / count),
        "margin": found["eval_margin"],
    }  # fmt: skip


def main() -> None:
    """Deal the rows, train both models, write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "train", "test", "output"):
        parser.add_argument(f"--{name}", required=True, type=Path)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    model, rows, tests = resolve_model(str(given.model)), read(given.train), read(given.test)
    parts = {name: [row for row in rows if part_of(row) == name] for name in PARTS}
    with (given.output / "demonstrations.jsonl").open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in parts["demonstrations"])
    models = [train(given.output, model, name, parts[name], tests) for name in PARTS[:2]]
    about = {
        "settings": SETTINGS, "demonstrations": len(parts["demonstrations"]), "models": models,
        "versions": {"torch": torch.__version__, "trl": trl.__version__, "python": platform.python_version()},
    }  # fmt: skip
    (given.output / "reward_models.json").write_text(json.dumps(about, indent=1) + "\n")
    print(json.dumps(about, indent=1))


if __name__ == "__main__":
    main()
