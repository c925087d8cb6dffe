"""The value head of PPO: a linear function of the policy's last hidden states, fitted by least squares.

Fitting is exact and needs no learning rate: sums over the tokens of past batches, older ones fading, give the head
that predicts their returns best. It reads the policy and never changes it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

FADE = 0.9
"""What earlier batches count for against the newest, per batch."""
RIDGE = 1e-3
"""Pull to 0, as a share of the features' mean square."""


@dataclass(frozen=True, slots=True)
class ValueSums:
    """Sums over tokens, all float64: features times features (D+1, D+1), features times returns (D+1,)."""

    squares: Tensor
    products: Tensor

    @staticmethod
    def of(hidden: Tensor, returns: Tensor) -> "ValueSums":
        """`hidden` (N, D): one row per token; `returns` (N,): the rewards from that token on."""
        features = _with_constant(hidden)
        return ValueSums(features.T @ features, features.T @ returns.double())

    def faded(self, newer: "ValueSums") -> "ValueSums":
        return ValueSums(FADE * self.squares + newer.squares, FADE * self.products + newer.products)

    def head(self) -> Tensor:
        """The weights (D+1,) that minimise the squared error, with a small pull to 0."""
        size = self.squares.shape[0]
        ridge = RIDGE * self.squares.diagonal().mean() * torch.eye(size).to(self.squares)
        return cast(Tensor, torch.linalg.solve(self.squares + ridge, self.products))

    def save(self, file: Path) -> None:
        save_file({"squares": self.squares, "products": self.products}, file)

    @staticmethod
    def load(file: Path, device: torch.device) -> "ValueSums":
        return ValueSums(**load_file(file, device=str(device)))


def predict(hidden: Tensor, head: Tensor) -> Tensor:
    """Values (N,) of tokens with last hidden states (N, D), before the token is written; float64."""
    return _with_constant(hidden) @ head


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """1 - Var(returns - values) / Var(returns): 1 is perfect, 0 as good as a constant. 0 where returns are alike."""
    spread = returns.var(correction=0)
    return float(1 - (returns - values).var(correction=0) / spread) if spread > 0 else 0.0


def _with_constant(hidden: Tensor) -> Tensor:
    return torch.cat([hidden.double(), hidden.new_ones(hidden.shape[0], 1, dtype=torch.float64)], dim=-1)
