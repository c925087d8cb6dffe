"""From logits to tokens: one uniform number per token, from a random stream that belongs to the row alone."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from demotune.common.errors import DemotuneError
from demotune.records import Response
from demotune.sampling.options import SamplingOptions

BLOCK = 256
"""Words of the vocabulary whose probabilities are added up at once."""


Drawn = tuple[int, float | None]
"""A token, and its log-probability under the policy, in nats; None where it was not kept."""


def keeps_logps(options: SamplingOptions) -> bool:
    """Whether drawn tokens come with the policy's log-probabilities: its own distribution, in float32.

    In half precision a number moves with the rows beside it, too far from the one that training computes.
    """
    return options.temperature == 1 and options.top_p == 1 and options.top_k == 0 and not options.bf16


def as_response(drawn: Sequence[Drawn], options: SamplingOptions) -> Response:
    """The response that these tokens are, with its log-probabilities where all of them were kept."""
    ids = tuple(token for token, _ in drawn)
    logps = tuple(logp for _, logp in drawn if logp is not None)
    return Response(ids, finished=ids[-1] in options.stop_ids, logps=logps if len(logps) == len(ids) else None)


@lru_cache(maxsize=4)
def _ids_without_token(vocabulary: frozenset[int] | None, size: int, device: torch.device) -> Tensor | None:
    """Of ids 0 to size - 1 those that are not in the vocabulary, (U,); None where all are."""
    unused = [] if vocabulary is None else [token for token in range(size) if token not in vocabulary]
    return torch.tensor(unused, device=device) if unused else None


def uniform_stream(seed: int, row: int, count: int) -> np.ndarray:
    """The first `count` numbers in [0, 1) of the stream of (seed, row)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, row]))).random(count)


def choose_tokens(logits: Tensor, uniforms: Tensor, options: SamplingOptions) -> list[Drawn]:
    """The token that each row's uniform number selects, by inverting the cumulative distribution.

    `logits` (B, V), `uniforms` (B,) in [0, 1); returns B tokens, with their log-probabilities where `keeps_logps` says
    so and logits are float32. Exact for any distribution, up to the rounding of float32 probabilities: blocks of words
    are added up first, then, in float64, the blocks, and the words of the selected block. That is one pass over the
    vocabulary, where a multinomial draw needs several. Raises DemotuneError for probabilities that are not finite.

    A log-probability is the policy's own, as training computes it: the share of ids without a token counts in it.
    """
    with_logps = keeps_logps(options) and logits.dtype == torch.float32
    unused = _ids_without_token(options.vocabulary, logits.shape[-1], logits.device)
    drawable = logits if unused is None else logits.index_fill(-1, unused, -torch.inf)
    if options.temperature == 0:
        return [(token, None) for token in drawable.argmax(dim=-1).tolist()]
    drawable = drawable.float()
    if options.temperature != 1:
        drawable = drawable / options.temperature
    tokens, logps = _invert(_truncate(drawable, options).softmax(dim=-1), uniforms.to(logits.device).double())
    if with_logps and unused is not None:
        logps = logps - _log_excluded_share(logits[:, unused], drawable)
    return list(zip(tokens.tolist(), logps.tolist() if with_logps else [None] * len(tokens), strict=True))


def _log_excluded_share(unused: Tensor, drawable: Tensor) -> Tensor:
    """log(all probability / probability that can be drawn), (B,), from logits (B, U) and (B, V)."""
    ratio = unused.double().logsumexp(dim=-1) - drawable.double().logsumexp(dim=-1)
    return ratio.exp().log1p()


def _invert(probabilities: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """The first word at which the running sum of (B, V) probabilities exceeds the (B,) uniform share of the total.

    And the logarithm of its share of the total. torch's softmax divides by a sum that is wrong by up to 1e-5 of it, the
    same way for each word; this total is not.
    """
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
    running = inside.cumsum(dim=-1)
    place = torch.searchsorted(running, targets - before, right=True)
    # The same inside the block: its last word with any probability is where its sum is reached first.
    place = torch.minimum(place, torch.searchsorted(running, running[:, -1:].contiguous()))
    share = inside.gather(-1, place) / total
    return (block * size + place).squeeze(-1), share.log().squeeze(-1)


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
