"""SFT runs with each of its losses: what the first step is, what is scored beforehand, killed and resumed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.killing import Killed, die_at, die_at_call, recorded
from helpers.micro import random_demonstrations, tiny_lm
from helpers.tiny import save_tiny, write_rows
from helpers.tiny_runs import SMALL
from safetensors.torch import load_file
from torch import Tensor
from transformers import Trainer

from demotune import DemotuneError, SFTConfig, resume, run
from demotune.common.files import read_rows
from demotune.estimation.forecast import plan_work
from demotune.models.logprobs import naive_response_logps
from demotune.models.reference_logps import token_logps
from demotune.records import Completion
from demotune.result import RunResult
from demotune.runs.folder import RunFolder
from demotune.training.prepare import prepare_run

NUMBERS = ("loss", "grad_norm", "learning_rate", "val/ratio", "clip_ratio/high_mean", "entropy", "step")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sft-losses")
    save_tiny(folder / "start")
    write_rows(folder / "rows.jsonl")
    return folder


def config(place: Path, name: str, **fields: Any) -> SFTConfig:
    where: dict[str, Any] = {"model": str(place / "start"), "data": (str(place / "rows.jsonl"),)}
    return SFTConfig(output=str(place / name), **where, **{**SMALL, "num_train_epochs": 1.0} | fields)


def trained(place: Path, name: str, **fields: Any) -> tuple[RunResult, dict[str, Tensor]]:
    result = run(config(place, name, **fields))
    return result, load_file(result.model_folder / "model.safetensors")


def test_first_step_of_anchored_losses_is_that_of_the_likelihood(place: Path) -> None:
    """Weights and ratios are 1 there; plain gradient descent shows it, for Adam only sees signs at first."""
    one_step: dict[str, Any] = {"max_steps": 1, "optim": "sgd", "warmup_steps": 0, "max_grad_norm": 0}
    runs = {loss: trained(place, f"one-{loss}", loss=loss, **one_step)[1] for loss in ("nll", "dft", "iw", "psft")}
    start = load_file(place / "start" / "model.safetensors")

    def step(loss: str) -> Tensor:
        return torch.cat([(runs[loss][name] - start[name]).flatten() for name in start])

    for loss in ("iw", "psft"):
        assert float((step(loss) - step("nll")).norm()) <= 1e-3 * float(step("nll").norm())
    assert float(step("dft").norm()) < 0.1 * float(step("nll").norm())  # a random model finds every token unlikely


def test_psft_stops_where_tokens_are_likely_enough(place: Path) -> None:
    """A rate at which the likelihood moves far: clipped tokens have no gradient, so psft stays nearer to the start."""
    fast: dict[str, Any] = {"num_train_epochs": 8.0, "learning_rate": 3e-3}
    near, far = (trained(place, f"far-{loss}", loss=loss, **fast)[0] for loss in ("psft", "nll"))
    steps, of_nll = (
        [row for row in read_rows(one.run_folder / "metrics.jsonl") if "logps/chosen" in row] for one in (near, far)
    )
    assert steps[0]["val/ratio"] == pytest.approx(1, abs=1e-5)
    assert steps[0]["clip_ratio/high_mean"] == 0
    assert steps[-1]["clip_ratio/high_mean"] > 0.5
    assert steps[0]["logps/chosen"] == of_nll[0]["logps/chosen"]
    assert steps[-1]["logps/chosen"] < of_nll[-1]["logps/chosen"]


def test_token_logps_are_those_of_the_definition() -> None:
    model, rows = tiny_lm("llama"), random_demonstrations(0, 5)
    completions = [Completion(row.prompt_ids, row.demo) for row in rows]
    for budget in (None, 1):  # one pass for all rows, one for each
        for row, logps in zip(rows, token_logps(model, completions, bf16=False, budget=budget), strict=True):
            expected = naive_response_logps(model, row.prompt_ids, row.demo.ids)
            torch.testing.assert_close(torch.tensor(logps), expected, atol=1e-5, rtol=0)


def test_killed_and_resumed_equals_uninterrupted(place: Path) -> None:
    """At some moments of the whole run, and inside training: the anchor stays the start model."""
    fields: dict[str, Any] = {"loss": "psft", "save_steps": 2, "num_train_epochs": 2.0}
    expected, weights = trained(place, "uninterrupted", **fields)
    with pytest.MonkeyPatch.context() as patch:
        count = die_at(0, patch)
        run(config(place, "counted", **fields))
        moments = count()
    with_manifest = 0
    for number in range(2, moments, moments // 6):
        with pytest.MonkeyPatch.context() as patch:
            die_at(number, patch)
            with pytest.raises(Killed):
                run(config(place, f"killed-{number}", **fields))
        begun = (place / f"killed-{number}" / "manifest.json").exists()
        with_manifest += begun
        result = resume(place / f"killed-{number}") if begun else run(config(place, f"killed-{number}", **fields))
        assert_same(result, expected, weights)
    assert with_manifest > 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "training_step", die_at_call(Trainer.training_step, 4))
        with pytest.raises(Killed):
            run(config(place, "in-step", **fields))
    assert_same(resume(place / "in-step"), expected, weights)


def assert_same(found: RunResult, expected: RunResult, weights: dict[str, Tensor]) -> None:
    ours = load_file(found.model_folder / "model.safetensors")
    assert all(torch.equal(ours[name], weights[name]) for name in weights)
    assert recorded(found.run_folder, NUMBERS) == recorded(expected.run_folder, NUMBERS)
    assert not list(found.run_folder.rglob("*.partial.jsonl"))


@pytest.mark.parametrize("loss", ["dft", "iw"])
def test_the_estimate_counts_what_is_scored(loss: str, place: Path, tmp_path: Path) -> None:
    result, _ = trained(place, f"counted-{loss}", loss=loss)
    phase = next(
        one
        for one in plan_work(prepare_run(config(place, "x", loss=loss), RunFolder(tmp_path), ()))
        if one.name == "train"
    )
    record = RunFolder(result.run_folder).stage_state(0)["train"]
    assert phase.forward_tokens == record["forward_tokens"]
    assert phase.trained_tokens == record["trained_tokens"]
    assert bool(phase.forward_tokens) == (loss == "iw")


def test_a_loss_that_is_not_in_nats_a_token_does_not_end_the_steps() -> None:
    with pytest.raises(DemotuneError, match="stop_loss is in nats a token, and loss psft is not; drop --stop-loss"):
        SFTConfig(model="m", data=("d",), output="o", loss="psft", stop_loss=1.0)
