"""The train phase: SFT that ends at a loss."""

from pathlib import Path
from typing import Any

import pytest
from helpers.killing import Killed, die_before
from helpers.rft_runs import make_world, read, weights

from demotune import SFTConfig, resume, run

FIELDS: dict[str, Any] = {
    "template": "a{prompt}",
    "max_length": 24,
    "learning_rate": 1e-2,
    "max_steps": 40,
    "stop_loss": 2.2,
    "save_steps": 1,
    "eval_share": 0.0,
    "bf16": False,
}


def sft(place: Path, name: str) -> SFTConfig:
    where = {"model": str(place / "start"), "data": (str(place / "rows.jsonl"),), "output": str(place / name)}
    return SFTConfig(**where, **FIELDS)


def test_sft_ends_when_its_loss_is_low_enough_also_when_it_is_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed after the last step, before the model is written: the same step is the last one again."""
    place = make_world(tmp_path)
    whole = run(sft(place, "whole"))
    losses = [row["loss"] for row in read(whole.run_folder, 0, "metrics.jsonl") if "loss" in row]
    assert 1 < len(losses) < 40
    assert all(loss >= 2.2 for loss in losses[:-1])
    assert losses[-1] < 2.2
    assert whole.stages[0]["phases"]["train"]["steps"] == len(losses)
    assert f"SFT ended at step {len(losses)} of 40: the loss fell below 2.2 (--stop-loss)" in capsys.readouterr().out
    with pytest.MonkeyPatch.context() as patch:
        die_before("stages/00/model", patch)
        with pytest.raises(Killed):
            run(sft(place, "killed"))
    assert (place / "killed" / "stages" / "00" / "checkpoints" / f"checkpoint-{len(losses) - 1}").exists()
    again = resume(place / "killed")
    assert again.stages[0]["phases"]["train"]["steps"] == len(losses)
    ours, theirs = weights(again.model_folder), weights(whole.model_folder)
    assert all(ours[name].equal(theirs[name]) for name in theirs)
