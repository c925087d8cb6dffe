"""Runs of RFT on words of ten letters: a random policy, demonstrations, a config, and what lies in a run's folder."""

import json
import random
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor

from demotune import RFTConfig
from demotune.common.files import read_json, read_rows
from demotune.models.policy import attach_adapter, lora_config, save_policy
from helpers.micro import letter_tokenizer, tiny_lm

LETTERS = "abcdefghij"  # with padding and end token, the twelve ids of these models
TEMPLATE = "a{prompt}"
FIELDS: dict[str, Any] = {
    "template": TEMPLATE,
    "max_length": 24,
    "max_new_tokens": 6,
    "samples_per_prompt": 1,
    "learning_rate": 1e-2,
    "reward_learning_rate": 1e-2,
    "stages": 2,
    "reward_epochs": 3.0,
    "reward_eval_steps": 2,
    "per_device_train_batch_size": 4,
    "prompts_per_batch": 3,
    "num_generations": 2,
    "policy_batches": 2,
    "eval_share": 0.25,
    "stop_kl": 0.0,
    "stop_length_ratio": 0.0,
    "stop_unfinished": 0.0,
    "stop_reward_margin": 0.0,
    "bf16": False,
    "force": True,  # rewards of random models are at chance
}


def make_world(folder: Path) -> Path:
    """A random policy of which about two thirds of the samples end by themselves, and 24 demonstrations."""
    save_policy(tiny_lm(seed=0, vocabulary=12), letter_tokenizer(12), folder / "start")
    rng = random.Random(0)
    prompts = sorted({word(rng, 1, 5) for _ in range(40)})[:24]
    rows = [{"prompt": prompt, "completion": word(rng, 1, 4)} for prompt in prompts]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def word(rng: random.Random, low: int, high: int) -> str:
    return "".join(rng.choice(LETTERS) for _ in range(rng.randint(low, high)))


def config(place: Path, name: str, **fields: Any) -> RFTConfig:
    where = {"model": str(place / "start"), "data": (str(place / "rows.jsonl"),), "output": str(place / name)}
    return RFTConfig(**{**where, **FIELDS, **fields})


def state_of(folder: Path, stage: int) -> dict[str, Any]:
    return read_json(folder / "stages" / f"{stage:02d}" / "state.json")


def read(folder: Path, stage: int, name: str) -> list[dict[str, Any]]:
    return read_rows(folder / "stages" / f"{stage:02d}" / name)


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(next(folder.glob("*.safetensors")))


def adapted(seed: int = 0) -> PeftModel:
    """A policy whose adapter is far from nothing."""
    policy = attach_adapter(tiny_lm(seed=seed, vocabulary=12), lora_config(4, 8, ("all-linear",)), seed)
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    return policy
