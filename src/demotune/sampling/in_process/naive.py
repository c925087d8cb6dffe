"""The plain sampler: padded batches through transformers' own cache, one after the other.

It serves every model, and is what the fast sampler is tested against.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from demotune.common.errors import DemotuneError
from demotune.models.logprobs import autocast, forward_arguments, logits_to_keep
from demotune.models.packing import positions
from demotune.records import Response
from demotune.sampling.in_process.choosing import Drawn, as_response, choose_tokens, uniform_stream
from demotune.sampling.options import SamplingOptions


def plan_batches(prompts: Sequence[Sequence[int]], batch_size: int) -> list[tuple[int, ...]]:
    """Row numbers in batches of like prompt length, longest first so that a lack of memory shows at once."""
    order = sorted(range(len(prompts)), key=lambda row: (-len(prompts[row]), row))
    return [tuple(order[start : start + batch_size]) for start in range(0, len(order), batch_size)]


def draw_in_batches(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    streams: Sequence[int],
    seed: int,
    options: SamplingOptions,
    *,
    slots: int,
) -> Iterator[tuple[int, Response]]:
    """(place of the prompt, response) of all prompts, as their batches are done."""
    for rows in plan_batches(prompts, slots):
        uniforms = np.stack([uniform_stream(seed, streams[row], options.max_new_tokens) for row in rows])
        drawn = _decode(model, [prompts[row] for row in rows], torch.from_numpy(uniforms), options)
        yield from zip(rows, drawn, strict=True)


@torch.no_grad()
def _decode(
    model: nn.Module, prompts: Sequence[Sequence[int]], uniforms: Tensor, options: SamplingOptions
) -> list[Response]:
    device = next(model.parameters()).device
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    stop = torch.tensor(sorted(options.stop_ids), device=device)
    limits = torch.tensor([options.limit(len(prompt)) for prompt in prompts], device=device)
    drawn: list[list[Drawn]] = [[] for _ in prompts]
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
            chosen = choose_tokens(out.logits[:, -1], uniforms[active, step], options)
            for row, token in zip(active, chosen, strict=True):
                drawn[row].append(token)
            tokens = torch.tensor([token for token, _ in chosen], device=device)
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
    return [as_response(tokens, options) for tokens in drawn]
