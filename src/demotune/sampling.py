"""Draw responses from a policy: prompts of like length together, rows that finish leave, one random stream a row.

Each row has its own stream of uniform numbers, from (seed, row), and takes one number per token. So which prompts
share a batch, and where an interrupted run stopped, does not change what is drawn beyond rounding.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from demotune.errors import DemotuneError
from demotune.logprobs import autocast, forward_arguments, logits_to_keep, positions
from demotune.records import Response


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


def plan_batches(prompts: Sequence[Sequence[int]], batch_size: int) -> list[tuple[int, ...]]:
    """Row numbers in batches of like prompt length, longest first so that a lack of memory shows at once."""
    order = sorted(range(len(prompts)), key=lambda row: (-len(prompts[row]), row))
    return [tuple(order[start : start + batch_size]) for start in range(0, len(order), batch_size)]


def sample_responses(
    model: nn.Module, prompts: Sequence[Sequence[int]], rows: Sequence[int], seed: int, options: SamplingOptions
) -> Iterator[tuple[int, Response]]:
    """Draw one response for each prompt of one batch; yields (row, response) in the order of `rows`.

    `rows` name the random streams: `prompts[i]` uses the stream of (seed, rows[i]). The response holds the stop token
    that ended it; without one it is unfinished.
    """
    uniforms = np.stack([_stream(seed, row, options.max_new_tokens) for row in rows])
    was_training = model.training
    model.eval()
    try:
        drawn = _decode(model, prompts, torch.from_numpy(uniforms), options)
    finally:
        model.train(was_training)
    for row, ids in zip(rows, drawn, strict=True):
        yield row, Response(ids=tuple(ids), finished=ids[-1] in options.stop_ids)


def choose_tokens(logits: Tensor, uniforms: Tensor, options: SamplingOptions) -> Tensor:
    """The token that each row's uniform number points at, by inverting the cumulative distribution.

    `logits` (B, V), `uniforms` (B,) in [0, 1); returns (B,) token ids. Exact for any distribution and one pass over
    the vocabulary, where a multinomial draw needs several.
    """
    logits = logits.float()
    if options.temperature == 0:
        return logits.argmax(dim=-1)
    probabilities = _truncate(logits / options.temperature, options).softmax(dim=-1)
    cumulative = probabilities.cumsum(dim=-1, dtype=torch.float64)
    if not torch.isfinite(cumulative[:, -1]).all():
        raise DemotuneError(
            "the policy's probabilities are not finite: its weights are damaged, or --no-bf16 is needed"
        )
    targets = uniforms.to(cumulative).unsqueeze(-1) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, targets, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)


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


def _stream(seed: int, row: int, count: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, row]))).random(count)


@torch.no_grad()
def _decode(
    model: nn.Module, prompts: Sequence[Sequence[int]], uniforms: Tensor, options: SamplingOptions
) -> list[list[int]]:
    device = next(model.parameters()).device
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    stop = torch.tensor(sorted(options.stop_ids), device=device)
    uniforms = uniforms.to(device)
    room = [(options.max_length or sys.maxsize) - len(prompt) for prompt in prompts]
    limits = torch.tensor([max(min(options.max_new_tokens, most), 1) for most in room], device=device)
    drawn: list[list[int]] = [[] for _ in prompts]
    active = list(range(len(prompts)))  # rows still being written, in the order of the cache
    cache = None
    # One autocast region for the whole batch, so that weights are cast to bfloat16 once, not at each token.
    with autocast(device, options.bf16):
        for step in range(int(limits.max())):
            batch = {"input_ids": ids, "attention_mask": mask, "position_ids": positions(mask)[:, -ids.shape[1] :]}
            out = model(
                **forward_arguments(model, batch), **logits_to_keep(model, 1), past_key_values=cache, use_cache=True
            )
            cache = out.past_key_values
            if cache is None:
                raise DemotuneError(f"{type(model).__name__} keeps no past_key_values, so it cannot be sampled here")
            tokens = choose_tokens(out.logits[:, -1], uniforms[active, step], options)
            for row, token in zip(active, tokens.tolist(), strict=True):
                drawn[row].append(token)
            going_on = ~torch.isin(tokens, stop) & (limits[active] > step + 1)
            if not going_on.any():
                break
            if not going_on.all():
                kept = going_on.nonzero().squeeze(-1)
                cache.reorder_cache(kept)  # selects rows in every kind of cache layer
                active = [active[row] for row in kept.tolist()]
                tokens, mask = tokens[kept], mask[kept]
            ids = tokens.unsqueeze(-1)
            mask = torch.cat([mask, mask.new_ones(len(active), 1)], dim=-1)
    return drawn
