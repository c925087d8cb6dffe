"""Out of memory in training: half the tokens a pass, from the last checkpoint or the start, and the same weights."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.micro import largest_difference
from helpers.processes import pretend_processes
from helpers.tiny import save_tiny, write_rows
from safetensors.torch import load_file
from transformers import Trainer

from demotune import DemotuneError, IRFTConfig, RFTConfig, RunResult, SFTConfig, resume, run
from demotune.config.methods import AnyConfig
from demotune.training.smaller_passes import PassTooLarge, in_smaller_passes, one_pass

SMALL: dict[str, Any] = {"max_length": 64, "bf16": False, "learning_rate": 1e-3, "per_device_train_batch_size": 4}
DRAWN: dict[str, Any] = {"stages": 1, "max_new_tokens": 4, "samples_per_prompt": 1}
RUNS: dict[str, AnyConfig] = {
    "sft": SFTConfig(output="-", max_steps=3, **SMALL),
    "irft": IRFTConfig(output="-", steps_per_stage=3, **SMALL, **DRAWN),
    "rft": RFTConfig(
        output="-", policy_batches=2, reward_steps=3, finished_only=False, prompts_per_batch=4, num_generations=2,
        stop_length_ratio=0.0, force=True, **SMALL, **DRAWN,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("memory")
    save_tiny(folder / "start")
    write_rows(folder / "rows.jsonl")
    return folder


def config(place: Path, method: str, name: str, **fields: Any) -> AnyConfig:
    inputs = {"model": str(place / "start"), "data": (str(place / "rows.jsonl"),), "output": str(place / name)}
    return replace(RUNS[method], **inputs, **fields)


def short_of_memory(monkeypatch: pytest.MonkeyPatch, limit: Callable[[Any, int], bool]) -> list[int]:
    """Passes fail where `limit` says so of (trainer, tokens), as they end. Returns the tokens of those that failed."""
    failed: list[int] = []
    step = Trainer.training_step

    def training_step(self: Any, model: Any, batch: dict[str, torch.Tensor], items: Any = None) -> torch.Tensor:
        tokens = batch["input_ids"].numel()
        loss = step(self, model, batch, items)  # gradients of the pass that fails are there already, too many
        if limit(self, tokens):
            failed.append(tokens)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return loss

    monkeypatch.setattr(Trainer, "training_step", training_step)
    return failed


def weights(result: RunResult) -> dict[str, dict[str, torch.Tensor]]:
    folders = (result.model_folder, *([result.reward_folder] if result.reward_folder else []))
    return {folder.name: load_file(folder / "model.safetensors") for folder in folders}


@pytest.mark.parametrize("method", RUNS)
def test_a_run_goes_on_with_half_the_tokens(
    method: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every pass of more than 70 tokens fails: the weights are those of passes without such a limit, to rounding."""
    expected = weights(run(config(place, method, f"{method}-whole", warmup_steps=0)))
    failed = short_of_memory(monkeypatch, lambda _, tokens: tokens > 70)
    found = weights(run(config(place, method, f"{method}-short", warmup_steps=0)))
    assert failed
    shown = capsys.readouterr().out
    assert shown.count("warning: out of memory at ") == len(failed)
    for part, values in expected.items():
        assert largest_difference(found[part], values) < 2e-4, part


def test_a_run_that_was_short_of_memory_from_the_start_equals_one_with_that_budget(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It begins anew, so to the bit."""
    failed = short_of_memory(monkeypatch, lambda _, tokens: tokens > 90)
    found = run(config(place, "sft", "anew"))
    [line] = [line for line in capsys.readouterr().out.splitlines() if "out of memory" in line]
    budget = int(line.rpartition(" ")[2])
    assert (
        line
        == f"warning: out of memory at {2 * budget + (int(line.split()[5]) % 2)} tokens a pass; going on with {budget}"
    )
    assert len(failed) == 1
    monkeypatch.undo()
    expected = run(config(place, "sft", "with-budget", tokens_per_microbatch=budget))
    assert (found.model_folder / "model.safetensors").read_bytes() == (
        expected.model_folder / "model.safetensors"
    ).read_bytes()


def test_memory_that_lacks_later_is_gone_on_from_the_checkpoint(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of three steps fails once: the first is not taken again."""
    steps: list[int] = []
    once: list[bool] = []

    def limit(trainer: Any, tokens: int) -> bool:
        steps.append(trainer.state.global_step)
        if trainer.state.global_step == 1 and not once:
            once.append(True)
            return True
        return False

    expected = weights(run(config(place, "sft", "later-whole")))
    short_of_memory(monkeypatch, limit)
    found = weights(run(config(place, "sft", "later", save_steps=1)))
    assert steps.count(0) == 1
    assert set(steps) == {0, 1, 2}
    assert largest_difference(found["model"], expected["model"]) < 2e-4


def test_one_row_that_does_not_fit_alone_ends_with_advice_and_can_be_resumed(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        short_of_memory(patch, lambda *_: True)
        with pytest.raises(DemotuneError, match=r"which are one row alone .*; set a smaller --max-length"):
            run(config(place, "sft", "hopeless"))
    assert resume(place / "hopeless").model_folder.is_dir()


def test_only_a_lack_of_memory_is_caught() -> None:
    with pytest.raises(RuntimeError, match="shapes do not fit"), one_pass(10, 2):
        raise RuntimeError("shapes do not fit")
    with pytest.raises(PassTooLarge), one_pass(10, 2):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes")


def test_halves_until_it_fits() -> None:
    asked: list[int | None] = []
    dropped: list[None] = []

    def attempt(budget: int | None) -> str:
        asked.append(budget)
        tokens = 101 if budget is None else budget
        if tokens > 30:
            raise PassTooLarge(tokens, 2, "full")
        return "done"

    assert in_smaller_passes(attempt, None, lambda: dropped.append(None)) == "done"
    assert asked == [None, 50, 25]
    assert len(dropped) == 2


def test_several_processes_are_not_left_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_processes(2, monkeypatch)

    def attempt(_: int | None) -> None:
        raise PassTooLarge(100, 4, "full")

    with pytest.raises(DemotuneError, match=r"in one of 2 processes .*; set --tokens-per-microbatch 50"):
        in_smaller_passes(attempt, None, lambda: None)
