"""Losses of supervised fine-tuning, as pure functions of tensors: no model, no config, no device.

    nll   -sum_t log p_t
    dft   -sum_t sg(p_t) log p_t                           p_t   = pi_theta(y_t | x, y_<t)
    iw    -sg(w) sum_t log p_t                             w     = min(16, (pi_theta(y | x) / pi_0(y | x))^(1 / |y|))
    psft  -sum_t min(r_t, 1 + 0.28)                        r_t   = p_t / p_t of the anchor

sg has no gradient. All return (B,), summed over response tokens; the caller divides by an optimizer step's tokens.
`token_logps`, `anchor_logps` and `response_mask` are (B, T); log-probabilities in nats, the mask is True where a token
counts. Before the first update iw and psft have the gradient of nll; dft learns likely tokens faster than rare ones.
"""

from typing import Literal

import torch
from torch import Tensor

from demotune.training.losses import policy_loss, sft_loss

SFTLoss = Literal["nll", "dft", "iw", "psft"]
AnchoredLoss = Literal["iw", "psft"]
"""Those that need an anchor's log-probabilities."""

MOST_WEIGHT = 16.0
"""Bound of iw's weight, as in its authors' code."""
CLIP = 0.28
"""psft stops at a token that has become this share likelier than under the anchor, as in its authors' run."""


def demonstration_loss(
    loss: SFTLoss, token_logps: Tensor, response_mask: Tensor, anchor_logps: Tensor | None = None
) -> Tensor:
    """The named loss. Raises ValueError where iw or psft is not given the anchor's log-probabilities."""
    if loss == "nll":
        return sft_loss(token_logps, response_mask)
    if loss == "dft":
        return dft_loss(token_logps, response_mask)
    if anchor_logps is None:
        raise ValueError(f"loss {loss} compares with an anchor; give anchor_logps")
    weighted = importance_weighted_loss if loss == "iw" else proximal_loss
    return weighted(token_logps, anchor_logps, response_mask)


def dft_loss(token_logps: Tensor, response_mask: Tensor) -> Tensor:
    """Dynamic fine-tuning (arXiv 2508.05629): each token's loss times its own probability; TRL's `loss_type="dft"`.

    The factor takes back the 1/p in the gradient of log p, so that a token the policy finds unlikely hardly counts.
    Good for one right answer (mathematics, code); reported to harm open text.
    """
    return sft_loss(token_logps * token_logps.detach().exp(), response_mask)


def importance_weighted_loss(token_logps: Tensor, start_logps: Tensor, response_mask: Tensor) -> Tensor:
    """iw-SFT (arXiv 2507.12856): responses that have become likelier than under the start model weigh more.

    The weight is the ratio's geometric mean per token, bounded by MOST_WEIGHT, as the authors' code has it; the ratio
    of whole responses, as it is derived, would explode with their length.
    """
    log_ratio = (token_logps.detach() - start_logps).masked_fill(~response_mask, 0.0)
    mean = log_ratio.sum(dim=-1) / response_mask.sum(dim=-1)
    return mean.exp().clamp(max=MOST_WEIGHT) * sft_loss(token_logps, response_mask)


def proximal_loss(token_logps: Tensor, old_logps: Tensor, response_mask: Tensor) -> Tensor:
    """PSFT (arXiv 2508.17784): PPO's clipped surrogate, per token, with an advantage of 1 everywhere.

    Of PPO's two bounds the upper one acts alone: a token past it has no gradient, which keeps the policy near the
    anchor. The authors move the anchor along, to the policy some updates ago. The value is minus a sum of ratios, not a
    likelihood.
    """
    advantages = torch.ones_like(token_logps)
    return policy_loss(token_logps, old_logps, advantages, response_mask, epsilon=CLIP, level="token").loss
