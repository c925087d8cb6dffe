"""method.md 4.6: with T = 1, IRFT is SPIN. SPIN is written here a second time, in plain torch, from its paper.

The loop below (arXiv 2401.01335, Algorithm 1 and eq. 4.7) shares no code with demotune: a frozen opponent in memory
and not numbers in a file, one unpadded forward pass per response, its own optimizer loop and schedule.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.micro import Architecture, largest_difference, parameters, random_pairs, scored, tiny_lm, train
from torch import Tensor, nn
from transformers import TrainerCallback

from demotune.config.methods import IRFTConfig, SPINConfig
from demotune.records import Pair
from demotune.training.first_value import ExpectedFirstValue
from demotune.training.losses import loss_at_reference
from demotune.training.methods import irft
from demotune.training.methods.spin import objective as spin_objective
from demotune.training.microbatches import plan_microbatches

BETA, WARMUP, CLIP = 0.1, 2, 1.0


def log_probability(model: nn.Module, prompt: Sequence[int], response: Sequence[int]) -> Tensor:
    """log p(response | prompt), from the loss that every textbook has."""
    logits = model(input_ids=torch.tensor([[*prompt, *response]])).logits[0]
    predictions = logits[len(prompt) - 1 : len(prompt) - 1 + len(response)]
    return -nn.functional.cross_entropy(predictions, torch.tensor(response), reduction="sum")


def spin(
    policy: nn.Module, steps: Sequence[Sequence[Pair]], optimizer: torch.optim.Optimizer, peak_rate: float
) -> Iterator[float]:
    """One SPIN iteration, in place; yields the loss of each step once the step is taken."""
    opponent = copy.deepcopy(policy).requires_grad_(False)
    for number, pairs in enumerate(steps):
        loss = torch.zeros(())
        for pair in pairs:
            real, generated = (
                log_probability(policy, pair.prompt_ids, ids) - log_probability(opponent, pair.prompt_ids, ids)
                for ids in (pair.demo.ids, pair.sample.ids)
            )
            loss = loss + torch.log1p(torch.exp(-BETA * (real - generated))) / len(pairs)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(policy.parameters(), CLIP)
        share = (number + 1) / WARMUP if number < WARMUP else (len(steps) - number) / (len(steps) - WARMUP)
        for group in optimizer.param_groups:
            group["lr"] = peak_rate * share
        optimizer.step()
        yield float(loss)


class KeepParameters(TrainerCallback):
    """A copy of the parameters after every optimizer step."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Tensor]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.kept.append(parameters(model))


OPTIMIZERS: dict[str, tuple[float, Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]]] = {
    "adamw_torch": (1e-3, lambda parameters: torch.optim.AdamW(parameters, betas=(0.9, 0.999), weight_decay=0.0)),
    "rmsprop": (1e-4, torch.optim.RMSprop),
    "sgd": (0.05, torch.optim.SGD),
}


# A key bias has no gradient but rounding noise, which Adam and RMSProp blow up to full steps. Llama has none.
@pytest.mark.parametrize(
    ("architecture", "optimizer"),
    [("llama", "adamw_torch"), ("llama", "rmsprop"), ("llama", "sgd"), ("neox", "sgd"), ("gpt2", "sgd")],
)
def test_one_stage_is_spin_parameter_by_parameter_and_step_by_step(
    architecture: Architecture, optimizer: str, tmp_path: Path
) -> None:
    """Clipping, linear schedule with warm-up, six passes of four uneven micro-batches, two per step; 1e-6."""
    rate, make_optimizer = OPTIMIZERS[optimizer]
    pairs = random_pairs(1, 11)
    objective = irft.objective(IRFTConfig(output="x", beta=BETA, stages=1))
    assert objective == spin_objective(SPINConfig(output="x", beta=BETA))
    plan = plan_microbatches([1] * 11, batch_size=3, accumulation=2, epochs=6.0, steps=None, seed=4)
    assert [len(unit) for unit in plan.units] == [3, 3, 3, 2]
    assert plan.steps == 12
    start = tiny_lm(architecture)

    opponent_scores = scored(start, [[pairs[number] for number in unit] for unit in plan.units])
    ours, kept = copy.deepcopy(start), KeepParameters()
    _, history = train(
        ours,
        objective,
        [opponent_scores[unit] for unit in plan.order],
        tmp_path,
        expected_first=ExpectedFirstValue("loss", loss_at_reference(objective.link), 1e-5),
        callbacks=[kept],
        optim=optimizer,
        learning_rate=rate,
        lr_scheduler_type="linear",
        warmup_steps=float(WARMUP),
        max_grad_norm=CLIP,
        gradient_accumulation_steps=2,
    )

    theirs = copy.deepcopy(start)
    steps = [
        [pairs[number] for unit in plan.order[first : first + 2] for number in plan.units[unit]]
        for first in range(0, len(plan.order), 2)
    ]
    for number, loss in enumerate(spin(theirs, steps, make_optimizer(theirs.parameters()), rate)):
        assert history[number]["loss"] == pytest.approx(loss, abs=1e-6)
        assert largest_difference(kept.kept[number], parameters(theirs)) < 1e-6, f"step {number + 1}"
    assert largest_difference(parameters(start), parameters(ours)) > 1e-4
    assert len(kept.kept) == plan.steps
    assert any(record["grad_norm"] > CLIP for record in history)
