"""Learning rates step by step, worked out by hand; a phase of one step trains; schedules without use are refused."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.micro import largest_difference, parameters, random_demonstrations, tiny_lm, train
from helpers.tiny import save_tiny, write_rows
from safetensors.torch import load_file
from transformers import TrainerCallback
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION
from transformers.trainer_utils import SchedulerType

from demotune import DemotuneError, IRFTConfig, RFTConfig, SFTConfig, run
from demotune.config.methods import AnyConfig
from demotune.training.arguments import training_arguments
from demotune.training.objectives import SFTObjective
from demotune.training.schedule import learning_rates


def shares(steps: int, **fields: Any) -> list[float]:
    config = SFTConfig(output="nowhere", learning_rate=0.5, bf16=False, **fields)
    schedule = learning_rates(training_arguments(config, Path("nowhere"), steps, seed=0), steps)
    return [schedule(step) for step in range(steps)]


def falling(count: int) -> list[float]:
    """From the peak to one step above 0, in equal steps."""
    return [(count - step) / count for step in range(count)]


def half_cosine(count: int) -> list[float]:
    return [(1 + math.cos(math.pi * step / count)) / 2 for step in range(count)]


@pytest.mark.parametrize(
    ("steps", "warmup"),
    [(1, []), (3, []), (9, []), (10, [1.0]), (20, [1 / 2, 1.0]), (25, [1 / 3, 2 / 3, 1.0])],
)
def test_rates_of_a_warm_up_of_a_tenth(steps: int, warmup: list[float]) -> None:
    """Rounded up: 1 of 10 steps, 2 of 20, 3 of 25; none below ten steps. Its last step and the next have the peak."""
    rest = steps - len(warmup)
    assert shares(steps) == pytest.approx([*warmup, *falling(rest)], abs=1e-12)
    assert shares(steps, lr_scheduler_type="cosine") == pytest.approx([*warmup, *half_cosine(rest)], abs=1e-12)


def test_rates_of_a_counted_warm_up() -> None:
    fields = {"warmup_steps": 4.0}
    assert shares(10, **fields) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
    assert shares(9, **fields) == pytest.approx(falling(9))
    assert shares(10, **fields, lr_scheduler_type="constant_with_warmup") == [0.25, 0.5, 0.75, *[1.0] * 7]
    assert shares(10, **fields, lr_scheduler_type="constant") == [1.0] * 10
    assert shares(10, warmup_steps=20.0) == pytest.approx([(step + 1) / 20 for step in range(10)])
    # Here transformers divides by the zero steps that are left, once it is asked for the rate after the last step.
    assert shares(10, warmup_steps=10.0, lr_scheduler_type="polynomial") == [(step + 1) / 10 for step in range(10)]


def test_the_recorded_rate_is_that_of_the_step(tmp_path: Path) -> None:
    """Plain SGD at peak 0.2 on one and the same row: each step moves by its recorded rate times its gradient norm."""
    [row] = random_demonstrations(0, 1)
    model = tiny_lm()
    kept = [parameters(model)]
    _, history = train(
        model,
        SFTObjective(),
        [[row]] * 10,
        tmp_path,
        learning_rate=0.2,
        lr_scheduler_type="linear",
        warmup_steps=3.0,
        max_grad_norm=0.0,
        callbacks=[_Keep(kept)],
    )
    expected = [0.2 * share for share in (1 / 3, 2 / 3, 1, 1, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7)]
    assert [record["learning_rate"] for record in history] == pytest.approx(expected, abs=1e-12)
    for record, before, after in zip(history, kept[:-1], kept[1:], strict=True):
        moved = math.sqrt(sum(float((after[name] - before[name]).square().sum()) for name in before))
        assert moved == pytest.approx(record["learning_rate"] * record["grad_norm"], rel=1e-3)


class _Keep(TrainerCallback):
    def __init__(self, kept: list[dict[str, torch.Tensor]]) -> None:
        self._kept = kept

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self._kept.append(parameters(model))


@pytest.mark.parametrize("name", ["reduce_lr_on_plateau", "greedy", "cosine_with_min_lr", "warmup_stable_decay"])
def test_schedules_that_cannot_work_are_refused_by_name(name: str) -> None:
    with pytest.raises(DemotuneError, match=f"lr_scheduler_type {name} .*; take linear, cosine"):
        shares(20, lr_scheduler_type=name)


def test_a_schedule_under_which_no_step_trains_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(optimizer: Any, **_: Any) -> Any:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)

    monkeypatch.setitem(TYPE_TO_SCHEDULER_FUNCTION, SchedulerType.LINEAR, nothing)
    with pytest.raises(DemotuneError, match="no step of 3 would have a learning rate above 0"):
        shares(3)


# Whole runs of one step ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one-step")
    save_tiny(folder / "start")
    write_rows(folder / "rows.jsonl")
    return folder


SMALL: dict[str, Any] = {"max_length": 64, "eval_share": 0.0, "bf16": False, "learning_rate": 1e-3}
DRAWN: dict[str, Any] = {"stages": 1, "max_new_tokens": 4, "samples_per_prompt": 1}
ONE_STEP: dict[str, AnyConfig] = {
    "sft": SFTConfig(output="-", max_rows=8, num_train_epochs=1.0, **SMALL),
    "irft": IRFTConfig(output="-", steps_per_stage=1, **SMALL, **DRAWN),
    "rft": RFTConfig(
        output="-", policy_batches=1, reward_steps=1, finished_only=False, prompts_per_batch=4, num_generations=2,
        **SMALL, **DRAWN,
    ),
}  # fmt: skip


@pytest.mark.parametrize("method", ONE_STEP)
def test_a_stage_of_one_step_trains_at_the_peak_rate(method: str, place: Path) -> None:
    config = replace(
        ONE_STEP[method], model=str(place / "start"), data=(str(place / "rows.jsonl"),), output=str(place / method)
    )
    result = run(config)
    phase = "policy" if method == "rft" else "train"
    assert result.stages[0]["phases"][phase]["steps"] == 1
    assert result.stages[0]["phases"][phase]["end"]["learning_rate"] == 1e-3
    before, after = (load_file(folder / "model.safetensors") for folder in (place / "start", result.model_folder))
    assert largest_difference(before, after) > 1e-4
    if method == "rft":  # the head's own rate, half of 1 / width, is scaled alike: Adam's first step is that rate
        head = load_file(place / method / "reward" / "model.safetensors")["score.weight"]
        assert float(head.abs().max()) == pytest.approx(0.5 / 16, rel=1e-3)


def test_a_schedule_that_cannot_work_is_refused_before_anything_is_drawn(place: Path) -> None:
    config = replace(
        ONE_STEP["irft"], model=str(place / "start"), data=(str(place / "rows.jsonl"),), output=str(place / "refused"),
        lr_scheduler_type="reduce_lr_on_plateau",
    )  # fmt: skip
    with pytest.raises(DemotuneError, match=r"lr_scheduler_type reduce_lr_on_plateau .*; take linear"):
        run(config)
    assert not (place / "refused" / "stages").exists()
