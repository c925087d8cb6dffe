"""The objectives, as pure functions of tensors: no model, no config, no device.

Log-ratios are sums over response tokens of log pi_theta - log pi_ref, in nats. Pair losses return one value per
pair; the caller averages. Method and equation numbers refer to Li et al., NeurIPS 2024 (arXiv 2405.17888).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

Link = Literal["logistic", "linear", "nce"]


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
    return PairLoss(
        loss=_LINKS[link](demo_logratio, sample_logratio, beta),
        demo_reward=beta * demo_logratio.detach(),
        sample_reward=beta * sample_logratio.detach(),
    )


def _logistic(demo_logratio: Tensor, sample_logratio: Tensor, beta: float) -> Tensor:
    return -logsigmoid(beta * (demo_logratio - sample_logratio))


def _linear(demo_logratio: Tensor, sample_logratio: Tensor, beta: float) -> Tensor:
    return -beta * (demo_logratio - sample_logratio)


def _nce(demo_logratio: Tensor, sample_logratio: Tensor, beta: float) -> Tensor:
    return -logsigmoid(demo_logratio) - logsigmoid(-sample_logratio)


_LINKS: dict[Link, Callable[[Tensor, Tensor, float], Tensor]] = {
    "logistic": _logistic,
    "linear": _linear,
    "nce": _nce,
}


def loss_at_reference(link: Link) -> float:
    """What every pair's loss must be while the policy still equals the reference: the start of a stage."""
    zero = torch.zeros(1, dtype=torch.float64)
    return float(implicit_reward_loss(zero, zero, beta=1.0, link=link).loss)
