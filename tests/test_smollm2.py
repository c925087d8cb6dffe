"""SmolLM2-135M-Instruct itself, short: fetched, converted, trained by SFT, IRFT and RFT, and asked.

In bfloat16 where the hardware multiplies in it: where it does not, that takes hours.
"""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from demotune import IRFTConfig, RFTConfig, SFTConfig, load_reward, run
from demotune.cli.quickstart import fetch_smollm2
from demotune.common.files import read_rows
from demotune.common.machine import has_fast_bf16
from demotune.config.drawing import GenerationOptions
from demotune.models.policy import resolve_model
from demotune.models.tokenizers import load_tokenizer
from demotune.rewards.answers import answer

SHIPPED = Path(__file__).parents[1] / "src" / "demotune" / "cli" / "shipped"


@pytest.fixture(scope="module")
def start() -> Path:
    return resolve_model(str(fetch_smollm2()))


def test_converted_gguf_is_an_ordinary_model(start: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(start), AutoTokenizer.from_pretrained(start)
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    assert model.dtype == torch.float32
    assert not hasattr(model.config, "quantization_config")
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    assert "Paris" in tokenizer.decode(model.generate(**prompt, max_new_tokens=5, do_sample=False)[0])
    assert resolve_model(str(fetch_smollm2())) == start  # converted once


def test_sft_then_irft_and_rft(start: Path, tmp_path: Path) -> None:
    """Eight demonstrations let each part do its work; the run asserts log 2 itself, within 1e-3 in bfloat16."""
    for name, rows in (("support_train", 8), ("support_heldout", 4)):
        lines = sorted((SHIPPED / f"{name}.jsonl").read_text(encoding="utf-8").splitlines(), key=len)[:rows]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    data = {"data": (str(tmp_path / "support_train.jsonl"),), "eval_data": (str(tmp_path / "support_heldout.jsonl"),)}
    shared = {**data, "bf16": has_fast_bf16(torch.device("cpu")), "max_length": 256, "per_device_train_batch_size": 4}
    sft = run(
        SFTConfig(
            model=str(start), output=str(tmp_path / "sft"), max_steps=4, learning_rate=2e-4, warmup_steps=0, **shared
        )
    )
    assert sft.start_nll_per_token is not None
    assert sft.stages[0]["check"]["nll_per_token"] < sft.start_nll_per_token - 0.3
    irft = run(
        IRFTConfig(
            model=str(sft.model_folder), output=str(tmp_path / "irft"), stages=1, max_new_tokens=24,
            samples_per_prompt=1, steps_per_stage=3, learning_rate=1e-5, warmup_steps=0, **shared,
        )
    )  # fmt: skip
    metrics = [json.loads(line) for line in (tmp_path / "irft" / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in metrics if "rewards/margins" in row]
    assert steps[0]["rewards/margins"] == pytest.approx(0, abs=2e-3)
    assert steps[-1]["rewards/margins"] > 0.01
    _rft(sft.model_folder, tmp_path / "rft", shared)
    prompt = ({"role": "user", "content": "My kettle leaks. What now?"},)
    (given,) = answer(str(irft.model_folder), [prompt], GenerationOptions(max_new_tokens=8, temperature=0))
    assert given.text.strip()


def _rft(model: Path, folder: Path, shared: dict[str, Any]) -> None:
    """LoRA: the first probability ratios are 1 (the run asserts it); the published reward is the judged one.

    This tokenizer pads with its end-of-turn token, which a reward must not be padded with.
    """
    result = run(
        RFTConfig(
            model=str(model), output=str(folder), use_peft=True, stages=1, max_new_tokens=24,
            samples_per_prompt=1, finished_only=False, reward_steps=4,
            reward_eval_steps=2, reward_learning_rate=1e-3, policy_batches=1, prompts_per_batch=2,
            num_generations=2, learning_rate=1e-4, stop_length_ratio=0, force=True, **shared,
        )
    )  # fmt: skip
    judged = [row["eval_loss"] for row in read_rows(folder / "metrics.jsonl") if "eval_loss" in row]
    rows = [row for row in read_rows(folder / "stages" / "00" / "rewards.jsonl.gz") if row["heldout"]]
    losses = [math.log1p(math.exp(row["sample_reward"] - row["demo_reward"])) for row in rows]
    assert min(judged) < math.log(2) - 0.05
    assert sum(losses) / len(losses) == pytest.approx(min(judged), abs=0.03)
    assert result.stages[0]["phases"]["policy"]["first"]["objective/kl"] == pytest.approx(0, abs=1e-3)
    reward = load_reward(str(folder))
    tokenizer = load_tokenizer(folder / "reward")
    assert tokenizer.pad_token_id not in reward.renderer.stop_ids
