"""The objectives, as pure functions of tensors: no model, no config, no device.

Log-ratios are sums over response tokens of log pi_theta - log pi_ref, in nats. Pair losses return one value per
pair; the caller averages. Method and equation numbers refer to Li et al., NeurIPS 2024 (arXiv 2405.17888).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from demotune.config.links import Link, RewardLink

KLEstimator = Literal["k1", "k3"]
RatioLevel = Literal["sequence", "token"]


@dataclass(frozen=True, slots=True)
class PairLoss:
    """Per-pair values, each (B,). Rewards are implicit, beta * log-ratio, detached from the graph."""

    loss: Tensor
    demo_reward: Tensor
    sample_reward: Tensor


def sft_loss(token_logps: Tensor, response_mask: Tensor) -> Tensor:
    """Negative log-likelihood summed over response tokens: -sum_t log pi(y_t | x, y_<t). Shape (B,), nats.

    `token_logps` and `response_mask` are (B, T); the mask is True where a token counts. Divide by the number of
    tokens of the whole optimizer step for the usual mean per token.
    """
    return -token_logps.masked_fill(~response_mask, 0.0).sum(dim=-1)  # a masked -inf would turn a product into nan


def implicit_reward_loss(demo_logratio: Tensor, sample_logratio: Tensor, beta: float, link: Link) -> PairLoss:
    """The inner objective of IRFT (Algorithm 2) and, with the logistic link, of SPIN (arXiv 2401.01335, eq. 4.7).

    Inputs are (B,). With the margin m = beta * (demo_logratio - sample_logratio):

    * `logistic`: -log sigmoid(m); log 2 where policy and reference agree.
    * `linear`: -m, the link of the paper's Algorithm 1; 0 where they agree; unbounded below.
    * `nce`: -log sigmoid(demo_logratio) - log sigmoid(-sample_logratio) (SPACE, arXiv 2512.07175): no beta,
      an absolute scale for each side; 2 log 2 where they agree.
    """
    margin = beta * (demo_logratio - sample_logratio)
    match link:
        case "logistic":
            loss = -logsigmoid(margin)
        case "linear":
            loss = -margin
        case "nce":
            loss = -logsigmoid(demo_logratio) - logsigmoid(-sample_logratio)
    return PairLoss(
        loss=loss,
        demo_reward=beta * demo_logratio.detach(),
        sample_reward=beta * sample_logratio.detach(),
    )


def loss_at_reference(link: Link) -> float:
    """What every pair's loss must be while the policy still equals the reference: the start of a stage."""
    zero = torch.zeros(1, dtype=torch.float64)
    return float(implicit_reward_loss(zero, zero, beta=1.0, link=link).loss)


def reward_loss(demo_reward: Tensor, sample_reward: Tensor, link: RewardLink, center: float = 0.0) -> Tensor:
    """The reward step of RFT (Algorithm 1): prefer demonstrations to the policy's samples. All are (B,).

    * `logistic`: -log sigmoid(demo_reward - sample_reward), Bradley-Terry, as in the paper's code.
    * `linear`: -(demo_reward - sample_reward), the paper's formula; needs rewards that are bounded by construction.

    `center` adds center * (demo_reward + sample_reward)^2, which keeps rewards around 0 (arXiv 2312.09244); the same
    as TRL's `center_rewards_coefficient`.
    """
    margin = demo_reward - sample_reward
    loss = -logsigmoid(margin) if link == "logistic" else -margin
    return loss + center * (demo_reward + sample_reward) ** 2 if center else loss


def kl_estimate(logps: Tensor, ref_logps: Tensor, estimator: KLEstimator) -> Tensor:
    """KL(pi || pi_ref) from samples of pi, elementwise, in nats (Schulman, "Approximating KL divergence", 2020).

    * `k1`: log pi - log pi_ref. Unbiased, and as a penalty inside the reward its policy gradient is that of the KL.
    * `k3`: pi_ref/pi - 1 + log pi - log pi_ref. Unbiased, never negative, but its gradient as a reward is another one.
    """
    log_ratio = logps - ref_logps
    return log_ratio if estimator == "k1" else (-log_ratio).expm1() + log_ratio


_FAR = 20.0
"""A log-ratio beyond which a policy is another one: far outside any clip."""


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """Clipped surrogate per response, (B,). `ratio` is pi/pi_old, (B,) or (B, T) by level, detached.

    `clipped_low` and `clipped_high` are True where the clip holds the gradient back.
    """

    loss: Tensor
    ratio: Tensor
    clipped_low: Tensor
    clipped_high: Tensor


def policy_loss(
    logps: Tensor, old_logps: Tensor, advantages: Tensor, response_mask: Tensor, *, epsilon: float, level: RatioLevel
) -> PolicyLoss:
    """-min(ratio * A, clip(ratio, 1 - epsilon, 1 + epsilon) * A) (PPO, arXiv 1707.06347, eq. 7), summed over tokens.

    `logps`, `old_logps`, `response_mask` are (B, T) over response tokens, 0 and False elsewhere.

    * level `sequence`: one ratio pi(y|x)/pi_old(y|x) and one advantage (B,) per response (RLOO, arXiv 2402.14740).
    * level `token`: a ratio and an advantage (B, T) per token (PPO; GRPO with its advantage repeated).

    Tokens are summed, not averaged, in both: before the first update the mean over responses has the gradient of the
    expected reward, whatever the lengths.
    """
    log_ratio = (logps - old_logps).masked_fill(~response_mask, 0.0)
    if level == "sequence":
        log_ratio = log_ratio.sum(dim=-1)
    ratio = log_ratio.clamp(-_FAR, _FAR).exp()  # e^89 is infinite in float32, and then its gradient is nan
    surrogate = torch.min(ratio * advantages, ratio.clamp(1 - epsilon, 1 + epsilon) * advantages)
    loss = -surrogate if level == "sequence" else -surrogate.masked_fill(~response_mask, 0.0).sum(dim=-1)
    ratio = ratio.detach()
    return PolicyLoss(
        loss=loss,
        ratio=ratio,
        clipped_low=(ratio < 1 - epsilon) & (advantages < 0),
        clipped_high=(ratio > 1 + epsilon) & (advantages > 0),
    )


@dataclass(frozen=True, slots=True)
class TripletLoss:
    """Per-triplet values, each (B,). Rewards are beta * log pi, detached from the graph."""

    loss: Tensor
    demo_reward: Tensor
    sample_reward: Tensor
    first_reward: Tensor
    """Of the start model's sample."""


def tspin_loss(
    demo_logps: Tensor, sample_logps: Tensor, first_logps: Tensor, beta: float, history_weight: float
) -> TripletLoss:
    """T-SPIN (arXiv 2601.08198): demonstration above sample, and sample above the start model's sample.

    With r = beta * log pi_theta, no reference:

        -log sigmoid(r(demo) - r(sample)) - history_weight * log sigmoid(r(sample) - r(first))

    The first term fades as samples come near the demonstrations; the second one stays, for `first` is drawn once, by
    the start model. Inputs are (B,): log pi(y | x), summed over response tokens, in nats. (1 + history_weight) log 2
    where all three are equal; at the start of a stage they are not, so the value there is not known beforehand.

    The paper calls `beta` alpha and `history_weight` beta. Its equation was read in a summary, not in the paper.
    """
    demo, sample, first = beta * demo_logps, beta * sample_logps, beta * first_logps
    return TripletLoss(
        loss=-logsigmoid(demo - sample) - history_weight * logsigmoid(sample - first),
        demo_reward=demo.detach(),
        sample_reward=sample.detach(),
        first_reward=first.detach(),
    )
