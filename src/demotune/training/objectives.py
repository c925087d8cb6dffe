"""What a training phase minimises: records to a batch, a batch to a loss. One class per method's objective."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from demotune.config.links import Link, RewardLink
from demotune.models.batches import pack_sides, packed_tokens, pair_batch
from demotune.models.logprobs import ResponseLogps, response_logps
from demotune.models.packing import Batch, pack
from demotune.models.reward_head import bounded, head_scores, reward_batch
from demotune.records import Pair, RenderedDemonstration, Rollout, ScoredDemonstration, ScoredPair, Triplet
from demotune.rewards.pair_selection import both_sides
from demotune.training.losses import (
    RatioLevel,
    implicit_reward_loss,
    loss_at_reference,
    policy_loss,
    reward_loss,
    sft_loss,
    tspin_loss,
)
from demotune.training.sft_losses import CLIP, AnchoredLoss, demonstration_loss

Record_contra = TypeVar("Record_contra", contravariant=True)


@dataclass(frozen=True, slots=True)
class StepLoss:
    """The loss of one micro-batch, summed over its items (tokens for SFT, pairs else), and values to be averaged.

    `at_start` is a quantity whose value before the first update is known: pair losses, |log| of probability ratios.
    """

    total: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)
    at_start: Tensor | None = None


class Objective(Protocol[Record_contra]):
    """`collate` also writes `items` into the batch: by how many the summed loss of a whole step is divided.

    `tokens` is how many tokens a record brings into a forward pass.
    """

    def tokens(self, record: Record_contra) -> int: ...

    def collate(self, records: Sequence[Record_contra]) -> Batch: ...

    def __call__(self, model: nn.Module, batch: Batch) -> StepLoss: ...


class PairwiseObjective(Objective[Any], Protocol):
    """One on pairs, of scored pairs or, without a reference, of triplets."""

    @property
    def loss_at_reference(self) -> float | None:
        """What the loss of every pair is while the policy still equals the reference; None where that is not known."""


@dataclass(frozen=True, slots=True)
class SFTObjective:
    """-log pi(y | x), with dft each token times its probability; averaged over the response tokens of a step."""

    loss: Literal["nll", "dft"] = "nll"

    def tokens(self, record: RenderedDemonstration) -> int:
        return record.tokens

    def collate(self, records: Sequence[RenderedDemonstration]) -> Batch:
        batch = pack([r.prompt_ids for r in records], [r.demo.ids for r in records])
        return batch | {"items": batch["response_mask"].sum()}

    def __call__(self, model: nn.Module, batch: Batch) -> StepLoss:
        scored = response_logps(model, batch)
        total = demonstration_loss(self.loss, scored.logps, scored.mask).sum()
        return StepLoss(total=total, metrics=_of_demonstrations(scored))


@dataclass(frozen=True, slots=True)
class AnchoredSFTObjective:
    """iw or psft, whose anchor is the start model; averaged over the response tokens of a step."""

    loss: AnchoredLoss

    def tokens(self, record: ScoredDemonstration) -> int:
        return SFTObjective().tokens(record.row)

    def collate(self, records: Sequence[ScoredDemonstration]) -> Batch:
        batch = SFTObjective().collate([record.row for record in records])
        width = batch["response_mask"].shape[1]
        return batch | {"anchor_logps": pad_rows([record.start_logps for record in records], width)}

    def __call__(self, model: nn.Module, batch: Batch) -> StepLoss:
        scored, anchor = response_logps(model, batch), batch["anchor_logps"]
        total = demonstration_loss(self.loss, scored.logps, scored.mask, anchor).sum()
        log_ratio = (scored.logps.detach() - anchor)[scored.mask]
        metrics = _of_demonstrations(scored) | {"val/ratio": log_ratio.exp()}
        if self.loss == "psft":
            metrics["clip_ratio/high_mean"] = (log_ratio.exp() > 1 + CLIP).float()
        return StepLoss(total=total, metrics=metrics, at_start=log_ratio.abs())


@dataclass(frozen=True, slots=True)
class PairObjective:
    """The pairwise loss of SPIN and IRFT, plus `sft_weight` times -log pi(y | x) per token; mean over pairs.

    A prompt with several samples, and its demonstration, are computed once.
    """

    beta: float
    link: Link
    sft_weight: float

    @property
    def loss_at_reference(self) -> float:
        return loss_at_reference(self.link)

    def tokens(self, record: ScoredPair) -> int:
        return packed_tokens(record.pair)

    def collate(self, records: Sequence[ScoredPair]) -> Batch:
        return pair_batch([record.pair for record in records]) | {
            "demo_ref_logps": torch.tensor([record.demo_ref_logp for record in records]),
            "sample_ref_logps": torch.tensor([record.sample_ref_logp for record in records]),
            "items": torch.tensor(len(records)),
        }

    def __call__(self, model: nn.Module, batch: Batch) -> StepLoss:
        scored = response_logps(model, batch)
        summed = scored.summed()
        demo_logps, sample_logps = summed[batch["demo_rows"]], summed[batch["sample_rows"]]
        loss = implicit_reward_loss(
            demo_logps - batch["demo_ref_logps"], sample_logps - batch["sample_ref_logps"], self.beta, self.link
        )
        total = loss.loss.sum()
        if self.sft_weight:
            nll = sft_loss(scored.logps, scored.mask) / scored.mask.sum(dim=-1)  # (B,), nats per token
            total = total + self.sft_weight * nll[batch["demo_rows"]].sum()
        metrics = {
            **_reward_metrics(loss.demo_reward, loss.sample_reward),
            "logps/chosen": demo_logps.detach(),
            "logps/rejected": sample_logps.detach(),
            "entropy": scored.entropy[scored.mask],
        }
        return StepLoss(total=total, metrics=metrics, at_start=loss.loss.detach())


@dataclass(frozen=True, slots=True)
class TripletObjective:
    """The loss of IRFT's link tspin, which has no reference; mean over pairs. Each different response is computed once.

    Rewards are beta * log pi.
    """

    beta: float
    weight: float
    loss_at_reference: None = None

    def tokens(self, record: Triplet) -> int:
        return packed_tokens(record.pair) + len(record.first.ids)

    def collate(self, records: Sequence[Triplet]) -> Batch:
        kinds = [*(zip(*(record.pair.sides for record in records), strict=True)), [row.first_side for row in records]]
        places = {side: place for place, side in enumerate(dict.fromkeys(side for kind in kinds for side in kind))}
        rows = torch.tensor([[places[side] for side in kind] for kind in kinds])  # (3, B)
        return pack_sides([*places]) | {"rows": rows, "items": torch.tensor(len(records))}

    def __call__(self, model: nn.Module, batch: Batch) -> StepLoss:
        scored = response_logps(model, batch)
        demo_logps, sample_logps, first_logps = scored.summed()[batch["rows"]]
        loss = tspin_loss(demo_logps, sample_logps, first_logps, self.beta, self.weight)
        metrics = {
            **_reward_metrics(loss.demo_reward, loss.sample_reward),
            "rewards/first": loss.first_reward,
            "logps/chosen": demo_logps.detach(),
            "logps/rejected": sample_logps.detach(),
            "entropy": scored.entropy[scored.mask],
        }
        return StepLoss(total=loss.loss.sum(), metrics=metrics)


@dataclass(frozen=True, slots=True)
class RewardObjective:
    """RFT's reward step: the pairwise loss on rewards of demonstration and sample; mean over pairs.

    A demonstration with several samples is computed once.
    """

    link: RewardLink
    bound: float | None
    center: float
    pad_id: int

    def tokens(self, record: Pair) -> int:
        return packed_tokens(record)

    def collate(self, records: Sequence[Pair]) -> Batch:
        sides = both_sides(records)
        places = {side: place for place, side in enumerate(dict.fromkeys(sides))}
        rows = torch.tensor([places[side] for side in sides])
        return reward_batch([*places], self.pad_id) | {"rows": rows, "items": torch.tensor(len(records))}

    def __call__(self, model: nn.Module, batch: Batch) -> StepLoss:
        demo_rewards, sample_rewards = bounded(head_scores(model, batch), self.bound)[batch["rows"]].chunk(2)
        losses = reward_loss(demo_rewards, sample_rewards, self.link, self.center)
        metrics = _reward_metrics(demo_rewards.detach(), sample_rewards.detach())
        return StepLoss(total=losses.sum(), metrics=metrics, at_start=losses.detach())


@dataclass(frozen=True, slots=True)
class PolicyObjective:
    """RFT's policy step: the clipped surrogate of on-policy responses; mean over responses."""

    epsilon: float
    level: RatioLevel

    def tokens(self, record: Rollout) -> int:
        return len(record.prompt_ids) + len(record.response.ids)

    def collate(self, records: Sequence[Rollout]) -> Batch:
        batch = pack([r.prompt_ids for r in records], [r.response.ids for r in records])
        width = batch["response_mask"].shape[1]
        advantages = (
            torch.tensor([record.advantages[0] for record in records])
            if self.level == "sequence"
            else pad_rows([record.advantages for record in records], width)
        )
        return batch | {
            "old_logps": pad_rows([record.logps for record in records], width),
            "advantages": advantages,
            "items": torch.tensor(len(records)),
        }

    def __call__(self, model: nn.Module, batch: Batch) -> StepLoss:
        scored = response_logps(model, batch)
        loss = policy_loss(
            scored.logps, batch["old_logps"], batch["advantages"], scored.mask, epsilon=self.epsilon, level=self.level
        )
        counted = scored.mask if self.level == "token" else slice(None)
        clipped = loss.clipped_low | loss.clipped_high
        metrics = {
            "entropy": scored.entropy[scored.mask],
            "val/ratio": loss.ratio[counted],
            "clip_ratio/low_mean": loss.clipped_low[counted].float(),
            "clip_ratio/high_mean": loss.clipped_high[counted].float(),
            "clip_ratio/region_mean": clipped[counted].float(),
        }
        return StepLoss(total=loss.loss.sum(), metrics=metrics, at_start=loss.ratio[counted].log().abs())


def _reward_metrics(chosen: Tensor, rejected: Tensor) -> dict[str, Tensor]:
    """Of pairs, from their rewards (B,), which have no gradient; under TRL's names."""
    return {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/accuracies": (chosen > rejected).float(),
        "rewards/margins": chosen - rejected,
    }


def _of_demonstrations(scored: ResponseLogps) -> dict[str, Tensor]:
    """The metrics of SFT."""
    return {
        "logps/chosen": scored.summed().detach(),
        "entropy": scored.entropy[scored.mask],
        "mean_token_accuracy": scored.greedy[scored.mask].float(),
    }


def pad_rows(rows: Sequence[Sequence[float]], width: int) -> Tensor:
    """Rows of numbers as one (B, width) tensor, zeros at the end."""
    return torch.tensor([[*row, *[0.0] * (width - len(row))] for row in rows])
