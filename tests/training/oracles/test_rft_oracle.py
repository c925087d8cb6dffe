"""RFT's losses and advantages against TRL's RLOOTrainer, GRPOTrainer and RewardTrainer on the same models and ids.

TRL tokenises the prompts, pads, scores and collates in its own code; only its sampling is replaced, by fixed
completions. The old log-probabilities are those of an older policy, so that some ratios lie beyond the clip.
"""

import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from helpers.micro import END, PAD, VOCABULARY, align, assert_gradients_agree, gradients, random_ids, tiny_lm
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedModel, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer, RewardConfig, RewardTrainer, RLOOConfig, RLOOTrainer

from demotune.models.logprobs import response_logps
from demotune.models.packing import Batch
from demotune.training.advantages import group_normalised, leave_one_out
from demotune.training.losses import kl_estimate, policy_loss, reward_loss
from demotune.training.sft_losses import MOST_WEIGHT, importance_weighted_loss

PROMPTS, RESPONSES = 3, 4
LONGEST = 6
EPSILON, BETA = 0.2, 0.3
COMMON: dict[str, Any] = {
    "bf16": False,
    "use_cpu": True,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
    "activation_checkpointing": False,
}
ROLLOUT: dict[str, Any] = COMMON | {
    "per_device_train_batch_size": PROMPTS * RESPONSES,
    "num_generations": RESPONSES,
    "max_completion_length": LONGEST,
    "epsilon": EPSILON,
    "num_iterations": 2,  # so that GRPO computes the old log-probabilities too
}


@dataclass(frozen=True, slots=True)
class Rollouts:
    """PROMPTS * RESPONSES rows, those of a prompt next to each other, and the reward of each, (B,)."""

    prompts: list[tuple[int, ...]]
    responses: list[tuple[int, ...]]
    rewards: Tensor

    def batch(self) -> Batch:
        return align(self.prompts, self.responses)

    def grouped(self, per_response: Tensor) -> Tensor:
        return per_response.view(PROMPTS, RESPONSES)


def random_rollouts(seed: int, *, equal_lengths: bool = False) -> Rollouts:
    """Prompts of 1 to 7 tokens; responses of 1 to LONGEST tokens, some without an end token, or all of LONGEST."""
    rng = random.Random(seed)
    prompts = [prompt for _ in range(PROMPTS) for prompt in [random_ids(rng, 1, 7)] * RESPONSES]
    responses = [random_ids(rng, LONGEST if equal_lengths else 1, LONGEST) for _ in prompts]
    responses = [(*ids[:-1], END) if rng.random() < 2 / 3 else ids for ids in responses]
    return Rollouts(prompts, responses, torch.tensor([rng.gauss(0, 2) for _ in prompts]))


def moved(model: PreTrainedModel, scale: float) -> PreTrainedModel:
    """The policy after some updates: every parameter shifted by normal noise."""
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return model


# Policy steps --------------------------------------------------------------------------------------------------------


def rollout_trainer(
    kind: type[RLOOTrainer] | type[GRPOTrainer],
    old_policy: PreTrainedModel,
    rollouts: Rollouts,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    reference: PreTrainedModel | None = None,
    **settings: Any,
) -> Any:
    """A trainer whose generation returns these completions and whose reward function returns these rewards."""
    old_policy = copy.deepcopy(old_policy)
    if reference is not None:  # TRL loads it from where the policy says that it came from
        reference.save_pretrained(folder / "reference")
        old_policy.config._name_or_path = str(folder / "reference")
    config = {RLOOTrainer: RLOOConfig, GRPOTrainer: GRPOConfig}[kind]
    trainer = kind(
        model=old_policy,
        reward_funcs=lambda completions, **_: rollouts.rewards.tolist(),
        args=config(output_dir=str(folder), **{**ROLLOUT, **settings}),
        train_dataset=Dataset.from_list([{"prompt": "a"}]),
        processing_class=tokenizer,
    )
    completions = [[*ids] for ids in rollouts.responses]
    trainer._generate_single_turn = lambda *_: completions if kind is RLOOTrainer else (completions, None)
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    return trainer


def scored_by_trl(trainer: Any, rollouts: Rollouts, tokenizer: PreTrainedTokenizerFast) -> dict[str, Tensor]:
    """Its batch: old log-probabilities and advantages computed, the ids checked to be ours."""
    inputs: dict[str, Tensor] = trainer._generate_and_score_completions(
        [{"prompt": tokenizer.decode(ids)} for ids in rollouts.prompts]
    )
    for part, rows in (("prompt", rollouts.prompts), ("completion", rollouts.responses)):
        for ids, mask, row in zip(inputs[f"{part}_ids"], inputs[f"{part}_mask"].bool(), rows, strict=True):
            assert (*ids[mask].tolist(),) == row
    return inputs


def loss_of_trl(trainer: Any, policy: PreTrainedModel, inputs: dict[str, Tensor]) -> tuple[float, dict[str, Tensor]]:
    """The loss and its gradients once the policy has left the one that sampled."""
    trainer.model.load_state_dict(policy.state_dict())
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    return loss.item(), gradients(trainer.model)


@torch.no_grad()
def fixed_logps(model: PreTrainedModel, batch: Batch) -> Tensor:
    return response_logps(model, batch).logps


def assert_clips_matter(ratio: Tensor, clipped_low: Tensor, clipped_high: Tensor) -> None:
    """The case at hand has ratios inside, beyond either side, and beyond but on the side that does not hold."""
    outside = (ratio - 1).abs() > EPSILON
    assert clipped_low.any()
    assert clipped_high.any()
    assert (outside & ~clipped_low & ~clipped_high).any()
    assert (~outside & (ratio != 1)).any()


@pytest.mark.parametrize("seed", [0, 2, 3])
def test_sequence_level_equals_rloo(seed: int, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """Advantages of reward - beta * summed k1 (1e-5), the loss (1e-5), its gradients, and the share of clipped."""
    old, reference = tiny_lm(seed=0), tiny_lm(seed=1)
    policy, rollouts = moved(old, 0.02), random_rollouts(seed)
    trainer = rollout_trainer(RLOOTrainer, old, rollouts, tokenizer, tmp_path, reference, beta=BETA)
    inputs = scored_by_trl(trainer, rollouts, tokenizer)
    their_loss, their_gradients = loss_of_trl(trainer, policy, inputs)

    batch = rollouts.batch()
    old_logps = fixed_logps(old, batch)
    kl = kl_estimate(old_logps, fixed_logps(reference, batch), "k1").sum(dim=1)
    advantages = leave_one_out(rollouts.grouped(rollouts.rewards - BETA * kl)).flatten()
    assert float((BETA * kl).abs().max()) > 0.1
    assert_close(advantages, inputs["advantages"], atol=1e-5, rtol=0)
    found = policy_loss(
        response_logps(policy, batch).logps,
        old_logps,
        advantages,
        batch["response_mask"],
        epsilon=EPSILON,
        level="sequence",
    )
    found.loss.mean().backward()
    assert_clips_matter(found.ratio, found.clipped_low, found.clipped_high)
    assert found.loss.mean().item() == pytest.approx(their_loss, abs=1e-5)
    assert_gradients_agree(gradients(policy), their_gradients)
    metrics = trainer._metrics["train"]
    assert metrics["clip_ratio/low_mean"] == [pytest.approx(found.clipped_low.float().mean().item())]
    assert metrics["clip_ratio/high_mean"] == [pytest.approx(found.clipped_high.float().mean().item())]


@pytest.mark.parametrize(
    ("loss_type", "equal_lengths", "scale"),
    [
        # dr_grpo divides the sum over all tokens by rows * max_completion_length; grpo by each row's own length
        pytest.param("dr_grpo", False, LONGEST, id="dr_grpo"),
        pytest.param("grpo", True, LONGEST, id="grpo-equal-lengths"),
        pytest.param("luspo", False, 1, id="luspo"),
    ],
)
def test_token_level_equals_grpo(
    loss_type: str, equal_lengths: bool, scale: int, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """Group-normalised advantages (1e-5); loss (1e-5) and gradients, up to TRL's constant divisor `scale`."""
    old, rollouts = tiny_lm(seed=0), random_rollouts(2, equal_lengths=equal_lengths)
    policy = moved(old, 0.02)
    trainer = rollout_trainer(
        GRPOTrainer,
        old,
        rollouts,
        tokenizer,
        tmp_path,
        beta=0.0,
        loss_type=loss_type,
        importance_sampling_level="token",
    )
    inputs = scored_by_trl(trainer, rollouts, tokenizer)
    their_loss, their_gradients = loss_of_trl(trainer, policy, inputs)

    batch = rollouts.batch()
    old_logps, mask = fixed_logps(old, batch), batch["response_mask"]
    advantages = group_normalised(rollouts.grouped(rollouts.rewards)).flatten()
    assert_close(advantages, inputs["advantages"], atol=1e-5, rtol=0)
    assert_close(old_logps, inputs["old_per_token_logps"] * mask, atol=1e-5, rtol=0)
    found = policy_loss(
        response_logps(policy, batch).logps,
        old_logps,
        advantages[:, None].expand_as(old_logps),
        mask,
        epsilon=EPSILON,
        level="token",
    )
    (found.loss.mean() / scale).backward()
    assert_clips_matter(found.ratio, found.clipped_low, found.clipped_high)
    assert found.loss.mean().item() / scale == pytest.approx(their_loss, abs=1e-5)
    assert_gradients_agree(gradients(policy), their_gradients)
    metrics = trainer._metrics["train"]
    assert metrics["clip_ratio/low_mean"] == [pytest.approx(found.clipped_low[mask].float().mean().item())]
    assert metrics["clip_ratio/high_mean"] == [pytest.approx(found.clipped_high[mask].float().mean().item())]


def test_importance_weighted_sft_equals_cispo_of_whole_responses(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """iw-SFT is CISPO at the level of sequences with advantages of 1. Value (1e-4) and gradients, some at the bound."""
    old, rollouts = tiny_lm(seed=0), random_rollouts(2)
    policy = moved(old, 0.4)
    settings = {"loss_type": "cispo", "importance_sampling_level": "sequence", "epsilon_high": MOST_WEIGHT}
    trainer = rollout_trainer(GRPOTrainer, old, rollouts, tokenizer, tmp_path, beta=0.0, **settings)
    inputs = scored_by_trl(trainer, rollouts, tokenizer)
    inputs["advantages"] = torch.ones(len(rollouts.responses))
    their_loss, their_gradients = loss_of_trl(trainer, policy, inputs)

    batch = rollouts.batch()
    mask, old_logps, logps = batch["response_mask"], fixed_logps(old, batch), response_logps(policy, batch).logps
    found = importance_weighted_loss(logps, old_logps, mask).sum() / mask.sum()
    found.backward()
    weights = ((logps - old_logps).detach() * mask).sum(dim=1).div(mask.sum(dim=1)).exp()
    assert (weights > MOST_WEIGHT).any()
    assert (weights < 1).any()
    assert found.item() == pytest.approx(their_loss, rel=1e-5)
    assert_gradients_agree(gradients(policy), their_gradients)


# Reward step ---------------------------------------------------------------------------------------------------------


def tiny_reward_model() -> LlamaForSequenceClassification:
    """Two random layers of 16 units and a head of one number."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=PAD,
        initializer_range=0.4,
        attn_implementation="eager",
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        num_labels=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return LlamaForSequenceClassification(config)


def scores(model: nn.Module, rows: Sequence[Sequence[int]], *, padded: bool) -> Tensor:
    """The head's output at the last token of each row, (B,): right-padded to one batch, or a forward pass per row."""
    if not padded:
        return torch.cat([model(input_ids=torch.tensor([[*row]])).logits[:, 0] for row in rows])
    ids = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=PAD)
    result: Tensor = model(input_ids=ids, attention_mask=(ids != PAD).long()).logits[:, 0]
    return result


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("center", [0.0, 0.01])
def test_reward_loss_equals_reward_trainer(
    center: float, padded: bool, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """Loss and metrics to 1e-5, gradients of every parameter; TRL pads demonstrations and samples together."""
    rng = random.Random(4)
    chosen, rejected = ([(*random_ids(rng, 2, 12), END) for _ in range(5)] for _ in range(2))
    model = tiny_reward_model()
    trainer = RewardTrainer(
        model=copy.deepcopy(model),
        args=RewardConfig(
            output_dir=str(tmp_path), max_length=None, center_rewards_coefficient=center or None, **COMMON
        ),
        train_dataset=Dataset.from_list(
            [{"chosen_ids": [*one], "rejected_ids": [*other]} for one, other in zip(chosen, rejected, strict=True)]
        ),
        processing_class=tokenizer,
    )
    trainer.model.train()
    their_loss = trainer.compute_loss(trainer.model, trainer.data_collator(list(trainer.train_dataset)))
    their_loss.backward()

    demo, sample = scores(model, chosen, padded=padded), scores(model, rejected, padded=padded)
    loss = reward_loss(demo, sample, "logistic", center).mean()
    loss.backward()
    if center:
        assert center * ((demo + sample) ** 2).mean().item() > 1e-3
    assert loss.item() == pytest.approx(their_loss.item(), abs=1e-5)
    assert_gradients_agree(gradients(model), gradients(trainer.model))
    metrics = trainer._metrics["train"]
    assert metrics["margin"] == [pytest.approx((demo - sample).mean().item(), abs=1e-5)]
    assert metrics["accuracy"] == [pytest.approx((demo > sample).float().mean().item())]
