"""From rewards of responses to advantages, as pure functions of tensors; float32 or float64, no gradient.

`rewards` are (P, n): P prompts, n responses each, the KL penalty taken off. Token tensors are (B, T) with zeros and a
False `response_mask` beyond a response's end.
"""

import torch
from torch import Tensor


def leave_one_out(rewards: Tensor) -> Tensor:
    """RLOO (arXiv 2402.14740): each reward less the mean of the others to the same prompt. (P, n), n > 1."""
    count = rewards.shape[-1]
    if count < 2:
        raise ValueError(f"leave-one-out needs at least 2 responses per prompt, got {count}")
    return (rewards - rewards.mean(dim=-1, keepdim=True)) * count / (count - 1)


def group_normalised(rewards: Tensor, epsilon: float = 1e-4) -> Tensor:
    """GRPO (arXiv 2402.03300): less the prompt's mean, divided by its standard deviation plus `epsilon`. (P, n)."""
    if rewards.shape[-1] < 2:
        raise ValueError(f"a group needs at least 2 responses per prompt, got {rewards.shape[-1]}")
    centred = rewards - rewards.mean(dim=-1, keepdim=True)
    return centred / (rewards.std(dim=-1, keepdim=True) + epsilon)


def token_rewards(rewards: Tensor, kl: Tensor, response_mask: Tensor, beta: float) -> Tensor:
    """-beta * kl at each token, and the response's reward at its last token. `rewards` (B,), the others (B, T)."""
    last = response_mask.sum(dim=-1, keepdim=True) - 1
    shaped = (-beta * kl).masked_fill(~response_mask, 0.0)
    return shaped.scatter_add(-1, last, rewards.to(shaped).unsqueeze(-1))


def generalised(token_rewards: Tensor, values: Tensor, response_mask: Tensor, lam: float) -> Tensor:
    """GAE (arXiv 1506.02438, eq. 16) without discount: sum over l of lam^l * delta_{t+l}. (B, T).

    delta_t = r_t + V_{t+1} - V_t; the value after the last token is 0, also where the response was cut off.
    """
    following = values.new_zeros(values.shape[0])
    advantage = torch.zeros_like(following)
    advantages = torch.zeros_like(values)
    for t in reversed(range(values.shape[-1])):
        inside = response_mask[:, t]
        delta = token_rewards[:, t] + following - values[:, t]
        advantage = torch.where(inside, delta + lam * advantage, torch.zeros_like(delta))
        following = torch.where(inside, values[:, t], torch.zeros_like(delta))
        advantages[:, t] = advantage
    return advantages


def returns_to_go(token_rewards: Tensor) -> Tensor:
    """Sum of the rewards from each token on: what a value predicts. (B, T)."""
    return token_rewards.flip(-1).cumsum(dim=-1).flip(-1)


def shaped_scores(scores: Tensor, *, whiten: bool, clip: float | None) -> Tensor:
    """A batch's rewards (B,), standardised over the batch and clipped to plus or minus `clip`, if asked for."""
    if whiten and scores.numel() > 1:
        scores = (scores - scores.mean()) / (scores.std() + 1e-8)
    return scores if clip is None else scores.clamp(-clip, clip)
