"""From logits to tokens: one uniform number a token, from a random stream that belongs to the row alone."""

import sys
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from demotune.errors import DemotuneError

BLOCK = 256
"""Words of the vocabulary whose probabilities are added up at once."""


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How to draw. Temperature 0 is greedy; top_p 1 and top_k 0 are off; `stop_ids` end a response.

    A response is cut off at `max_new_tokens`, or where prompt and response together reach `max_length`.
    """

    max_new_tokens: int
    stop_ids: frozenset[int]
    max_length: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    bf16: bool = False

    def limit(self, prompt_length: int) -> int:
        """Most tokens of a response to a prompt of so many tokens; one is always drawn."""
        return max(min(self.max_new_tokens, (self.max_length or sys.maxsize) - prompt_length), 1)


def uniform_stream(seed: int, row: int, count: int) -> np.ndarray:
    """The first `count` numbers in [0, 1) of the stream of (seed, row)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, row]))).random(count)


def choose_tokens(logits: Tensor, uniforms: Tensor, options: SamplingOptions) -> Tensor:
    """The token that each row's uniform number points at, by inverting the cumulative distribution.

    `logits` (B, V), `uniforms` (B,) in [0, 1); returns (B,) token ids. Exact for any distribution, up to the rounding
    of float32 probabilities: blocks of words are added up first, then, in float64, the blocks, and the words of the
    block that was met. That is one pass over the vocabulary, where a multinomial draw needs several. Raises
    DemotuneError for probabilities that are not finite.
    """
    logits = logits.float()
    if options.temperature == 0:
        return logits.argmax(dim=-1)
    if options.temperature != 1:
        logits = logits / options.temperature
    return _invert(_truncate(logits, options).softmax(dim=-1), uniforms.double())


def _invert(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """The first word at which the running sum of (B, V) probabilities exceeds the (B,) uniform share of the total."""
    vocabulary = probabilities.shape[-1]
    size = min(BLOCK, vocabulary)
    whole = vocabulary // size * size
    blocks = probabilities[:, :whole].reshape(len(uniforms), -1, size).sum(dim=-1)
    rest = probabilities[:, whole:].sum(dim=-1, keepdim=True)
    sums = torch.cat([blocks, rest], dim=-1).double().cumsum(dim=-1)
    total = sums[:, -1:].contiguous()
    if not torch.isfinite(total).all():
        raise DemotuneError(
            "the policy's probabilities are not finite: its weights are damaged, or --no-bf16 is needed"
        )
    targets = uniforms.unsqueeze(-1) * total
    block = torch.searchsorted(sums, targets, right=True)
    # A target that rounding moved up to the total belongs to the last block with any probability.
    block = torch.minimum(block, torch.searchsorted(sums, total))
    before = sums.gather(-1, (block - 1).clamp(min=0)).masked_fill(block == 0, 0)
    words = block * size + torch.arange(size, device=block.device)  # (B, words of a block)
    inside = probabilities.gather(-1, words.clamp(max=vocabulary - 1)).double().masked_fill(words >= vocabulary, 0)
    inside = inside.cumsum(dim=-1)
    place = torch.searchsorted(inside, targets - before, right=True)
    # The same inside the block: its last word with any probability is where its sum is reached first.
    place = torch.minimum(place, torch.searchsorted(inside, inside[:, -1:].contiguous()))
    return (block * size + place).squeeze(-1)


def _truncate(logits: Tensor, options: SamplingOptions) -> Tensor:
    """Logits with what top_k and top_p exclude at -inf; ties at the border of top_k stay in."""
    if options.top_k:
        smallest = logits.topk(min(options.top_k, logits.shape[-1]), dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    if options.top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True)
        mass = ordered.softmax(dim=-1)
        beyond = mass.cumsum(dim=-1) - mass >= options.top_p  # in the order of probability
        excluded = torch.zeros_like(beyond).scatter(-1, order, beyond)
        logits = logits.masked_fill(excluded, -torch.inf)
    return logits
