"""method.md 4.6: with T = 1, IRFT is SPIN. SPIN is written here a second time, in plain torch, from its paper.

The loop below (arXiv 2401.01335, Algorithm 1 and eq. 4.7) shares no code with demotune: a frozen opponent in memory
and not numbers in a file, one unpadded forward pass per response, its own optimizer loop and schedule.
"""

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from micro import ARCHITECTURES, Architecture, largest_difference, parameters, random_pairs, scored, tiny_lm, train
from torch import Tensor, nn
from transformers import TrainerCallback

from demotune.config import IRFTConfig, SPINConfig
from demotune.losses import loss_at_reference
from demotune.methods import pair_objective
from demotune.records import Pair
from demotune.training import FirstLoss, plan_microbatches

BETA, RATE, WARMUP, CLIP = 0.1, 1e-3, 2, 1.0


def log_probability(model: nn.Module, prompt: Sequence[int], response: Sequence[int]) -> Tensor:
    """log p(response | prompt), from the loss that every textbook has."""
    logits = model(input_ids=torch.tensor([[*prompt, *response]])).logits[0]
    predictions = logits[len(prompt) - 1 : len(prompt) - 1 + len(response)]
    return -nn.functional.cross_entropy(predictions, torch.tensor(response), reduction="sum")


def spin(policy: nn.Module, steps: Sequence[Sequence[Pair]], optimizer: torch.optim.Optimizer) -> Iterator[float]:
    """One SPIN iteration, in place; yields the loss of each step once the step is taken."""
    opponent = copy.deepcopy(policy).requires_grad_(False)
    for number, pairs in enumerate(steps):
        loss = torch.zeros(())
        for pair in pairs:
            real, generated = pair.demo.ids, pair.sample.ids
            real_gap = log_probability(policy, pair.prompt_ids, real) - log_probability(opponent, pair.prompt_ids, real)
            generated_gap = log_probability(policy, pair.prompt_ids, generated) - log_probability(
                opponent, pair.prompt_ids, generated
            )
            margin = BETA * (real_gap - generated_gap)
            loss = loss + torch.log1p(torch.exp(-margin)) / len(pairs)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(policy.parameters(), CLIP)
        rate = RATE * (number / WARMUP if number < WARMUP else (len(steps) - number) / (len(steps) - WARMUP))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        yield float(loss)


class KeepParameters(TrainerCallback):
    """A copy of the parameters after every optimizer step."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Tensor]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.kept.append(parameters(model))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("method", ["irft", "spin"])
def test_one_stage_is_spin_parameter_by_parameter_and_step_by_step(
    architecture: Architecture, method: str, tmp_path: Path
) -> None:
    """AdamW, clipping, linear schedule with warm-up, two passes of four uneven micro-batches, two per step: 1e-6.

    Key biases (GPT-2, GPT-NeoX) have a gradient of rounding noise, which Adam blows up to full steps; so eps is 1e-5
    there on both sides, well above the noise and well below every real gradient.
    """
    pairs = random_pairs(1, 11)
    shared: dict[str, Any] = {"output": "x", "beta": BETA, "stages": 1}
    objective = pair_objective(IRFTConfig(**shared) if method == "irft" else SPINConfig(**shared))
    plan = plan_microbatches([1] * 11, batch_size=3, accumulation=2, epochs=2.0, steps=None, seed=4)
    assert [len(unit) for unit in plan.units] == [3, 3, 3, 2]
    assert plan.steps == 4
    start = tiny_lm(architecture)

    opponent_scores = scored(start, [[pairs[number] for number in unit] for unit in plan.units])
    ours, kept = copy.deepcopy(start), KeepParameters()
    _, history = train(
        ours,
        objective,
        [opponent_scores[unit] for unit in plan.order],
        tmp_path,
        first_loss=FirstLoss(loss_at_reference(objective.link), 1e-5),
        callbacks=[kept],
        optim="adamw_torch",
        learning_rate=RATE,
        lr_scheduler_type="linear",
        warmup_steps=float(WARMUP),
        max_grad_norm=CLIP,
        gradient_accumulation_steps=2,
    )

    theirs = copy.deepcopy(start)
    order = [pairs[number] for unit in plan.order for number in plan.units[unit]]
    assert len(order) == 22
    steps = [
        [pairs[number] for unit in plan.order[first : first + 2] for number in plan.units[unit]]
        for first in range(0, len(plan.order), 2)
    ]
    optimizer = torch.optim.AdamW(theirs.parameters(), betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    for number, loss in enumerate(spin(theirs, steps, optimizer)):
        assert history[number]["loss"] == pytest.approx(loss, abs=1e-6)
        assert largest_difference(kept.kept[number], parameters(theirs)) < 1e-6, f"step {number + 1}"
    assert largest_difference(parameters(start), parameters(ours)) > 1e-4
    assert len(kept.kept) == plan.steps
