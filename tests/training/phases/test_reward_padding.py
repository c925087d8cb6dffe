"""Where a model pads with its end-of-turn token, the reward must be trained, judged and published with another."""

import json
import math
from pathlib import Path

import pytest
from helpers.tiny import save_tiny, tiny_tokenizer, write_rows

from demotune import RFTConfig, run
from demotune.common.files import read_rows


def test_the_published_reward_is_the_one_that_was_judged(tmp_path: Path) -> None:
    """The lowest held-out loss of training equals the loss of the published rewards, and so does the accuracy (1e-5).

    transformers' Trainer sets a model's padding to its tokenizer's; classifiers judge at the last token that is not
    padding. With padding = end of turn that would be a padded position in training and another one afterwards.
    """
    save_tiny(tmp_path / "start")
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path / "start")
    result = run(
        RFTConfig(
            model=str(tmp_path / "start"),
            data=(write_rows(tmp_path / "rows.jsonl", 40),),
            output=str(tmp_path / "run"),
            max_length=64,
            max_new_tokens=8,
            samples_per_prompt=1,
            finished_only=False,
            eval_share=0.3,
            stages=1,
            reward_learning_rate=3e-3,
            reward_eval_steps=2,
            policy_batches=1,
            prompts_per_batch=2,
            num_generations=2,
            stop_length_ratio=0,
            bf16=False,
        )
    )
    stage = result.run_folder / "stages" / "00"
    judged = [row for row in read_rows(stage / "reward-metrics.jsonl") if "eval_loss" in row]
    best = min(judged, key=lambda row: row["eval_loss"])
    assert best["step"] > 0
    rows = [row for row in read_rows(stage / "rewards.jsonl.gz") if row["heldout"]]
    losses = [math.log1p(math.exp(row["sample_reward"] - row["demo_reward"])) for row in rows]
    assert sum(losses) / len(losses) == pytest.approx(best["eval_loss"], abs=1e-5)
    right = sum(row["demo_reward"] > row["sample_reward"] for row in rows) / len(rows)
    assert right == pytest.approx(best["eval_rewards/accuracies"], abs=1e-5)
    config = json.loads((result.run_folder / "reward" / "config.json").read_text(encoding="utf-8"))
    assert config["pad_token_id"] not in (tokenizer.eos_token_id, None)
