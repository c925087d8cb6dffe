"""The numbers of one on-policy batch, and what follows from them: KL-shaped rewards, advantages, metrics."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from demotune.config.methods import RFTConfig
from demotune.records import Completion, Rollout
from demotune.training.advantages import generalised, group_normalised, leave_one_out, shaped_scores, token_rewards
from demotune.training.losses import kl_estimate
from demotune.training.objectives import pad_rows


@dataclass(frozen=True, slots=True)
class Numbers:
    """What the models say about one response of L tokens; tensors on the CPU."""

    logps: Tensor
    ref_logps: Tensor
    reward: float
    states: Tensor | None
    """(L, D), for the value head."""


@dataclass(frozen=True, slots=True)
class OnPolicyBatch:
    """All responses of a batch with their numbers: (B,) and, zero beyond each end, (B, T). `states` are (N, D)."""

    completions: Sequence[Completion]
    logps: Tensor
    ref_logps: Tensor
    mask: Tensor
    rewards: Tensor
    states: Tensor

    @staticmethod
    def together(numbers: dict[int, Numbers], completions: Sequence[Completion]) -> "OnPolicyBatch":
        ordered = [numbers[row] for row in range(len(completions))]
        width = max(len(completion.response.ids) for completion in completions)
        states = [found.states for found in ordered if found.states is not None]
        return OnPolicyBatch(
            completions=completions,
            logps=pad_rows([found.logps.tolist() for found in ordered], width),
            ref_logps=pad_rows([found.ref_logps.tolist() for found in ordered], width),
            mask=pad_rows([[1.0] * len(completion.response.ids) for completion in completions], width).bool(),
            rewards=torch.tensor([found.reward for found in ordered]),
            states=torch.cat(states) if states else torch.empty(0),
        )

    def scores(self, config: RFTConfig) -> Tensor:
        """What the policy is paid before the KL penalty: the reward, less the penalty of a cut-off response. (B,)."""
        unfinished = torch.tensor([not completion.response.finished for completion in self.completions])
        scores = self.rewards - config.missing_eos_penalty * unfinished
        return shaped_scores(scores, whiten=config.whiten_rewards, clip=config.reward_clip)

    def kl(self, config: RFTConfig) -> Tensor:
        return kl_estimate(self.logps, self.ref_logps, config.kl_estimator).masked_fill(~self.mask, 0.0)

    def token_rewards(self, config: RFTConfig, beta: float) -> Tensor:
        return token_rewards(self.scores(config), self.kl(config), self.mask, beta)

    def advantages(self, config: RFTConfig, beta: float, values: Tensor | None) -> list[tuple[float, ...]]:
        """Of each response: one number (rloo), or one per token (group: the same for all; gae)."""
        lengths = self.mask.sum(dim=-1).tolist()
        if values is not None:
            tokens = generalised(self.token_rewards(config, beta).double(), values, self.mask, config.lam)
            return [tuple(row[:length]) for row, length in zip(tokens.tolist(), lengths, strict=True)]
        shaped = (self.scores(config) - beta * self.kl(config).sum(dim=-1)).view(-1, config.num_generations)
        if config.advantage == "rloo":
            return [(number,) for number in leave_one_out(shaped).flatten().tolist()]
        grouped = group_normalised(shaped).flatten().tolist()
        return [(number,) * length for number, length in zip(grouped, lengths, strict=True)]

    def rollouts(self, config: RFTConfig, beta: float, values: Tensor | None) -> list[Rollout]:
        together = zip(
            self.completions, self.logps, self.ref_logps, self.rewards.tolist(),
            self.advantages(config, beta, values), strict=True,
        )  # fmt: skip
        return [
            Rollout(
                prompt_ids=completion.prompt_ids,
                response=replace(completion.response, logps=None),
                logps=tuple(logps[: len(completion.response.ids)].tolist()),
                ref_logps=tuple(ref_logps[: len(completion.response.ids)].tolist()),
                reward=reward,
                advantages=advantages,
            )
            for completion, logps, ref_logps, reward, advantages in together
        ]

    def facts(self, beta: float) -> dict[str, float]:
        """Metrics under TRL's names: `kl` is per token, `objective/kl` per response, both k1, in nats."""
        log_ratios, tokens = (self.logps - self.ref_logps).sum(dim=-1), self.mask.sum(dim=-1)
        cut_off = [not completion.response.finished for completion in self.completions]
        return {
            "reward": float(self.rewards.mean()),
            "reward_std": float(self.rewards.std()) if len(self.rewards) > 1 else 0.0,
            "kl": float(log_ratios.sum() / tokens.sum()),
            "objective/kl": float(log_ratios.mean()),
            "beta": beta,
            "completions/mean_length": float(tokens.float().mean()),
            "completions/clipped_ratio": sum(cut_off) / len(cut_off),
        }
