"""Prompts with their responses in one row without padding; a prompt is there once for all of its responses.

    pack         | s s | p p  y y y  z z | p p p  y y y y | ...      N tokens
    positions    | 0 1 | 2 3  4 5 6  4 5 | 2 3 4  5 6 7 8 |

What all prompts begin with (s: a system prompt, the beginning of a chat template) is there once for all of them.
Every layer but attention works on the N tokens alone. Attention works on two padded blocks, whole prompts (G, P) and
responses (B, R), whose slots say where in the pack each token is. In both, the first response token follows the
last column of the prompts: a response sees its prompt and what it has said itself, and nothing of its neighbours.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.functional import scaled_dot_product_attention

Batch = dict[str, Tensor]
R = TypeVar("R")

SQUARE = 256
"""On CPU plain matrix products beat torch's fused attention, whose backward pass is slow, while rows are short. They
keep a number for each pair of tokens and head: past this many tokens memory decides for the fused one."""
UNSEEN = -1e30
"""Added to the score of what a token must not see. Finite: a padded slot may see nothing, and must not become nan."""


def pack(prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> Batch:
    """Pack token ids of B prompts and responses; equal prompts, G different ones, are there once.

    Returns `input_ids`, `position_ids` (1, N); `prompt_slots` (G, P) and `response_slots` (B, R), the place in the pack
    of each token, -1 where there is none; `shared_slots` (S, G), the slots, counted through the prompts' block, of each
    token that all G > 1 prompts begin with: places 0 to S - 1 of the pack; `prompt_of` (B,), which prompt a response
    has; `response_mask` (B, R); and `tokens`, how many tokens prompts and responses have when each response has a
    prompt of its own. Raises ValueError for an empty prompt or response, so that no later step divides by zero.
    """
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        if not prompt or not response:
            raise ValueError(f"row {row} has {len(prompt)} prompt and {len(response)} response tokens; both need one")
    numbers: dict[tuple[int, ...], int] = {}
    prompt_of = [numbers.setdefault(tuple(prompt), len(numbers)) for prompt in prompts]
    rows_of: list[list[int]] = [[] for _ in numbers]
    for row, number in enumerate(prompt_of):
        rows_of[number].append(row)
    prompt_width, response_width = max(map(len, numbers)), max(map(len, responses))
    prompt_slots = torch.full((len(numbers), prompt_width), -1, dtype=torch.long)
    response_slots = torch.full((len(responses), response_width), -1, dtype=torch.long)
    shared = shared_tokens([*numbers]) if len(numbers) > 1 else 0
    ids = [*prompts[0][:shared]]
    places = [*range(shared)]
    starts = torch.tensor([(number + 1) * prompt_width - len(prompt) for number, prompt in enumerate(numbers)])
    for number, prompt in enumerate(numbers):
        own = prompt_slots[number, prompt_width - len(prompt) :]
        own[:shared] = torch.arange(shared)
        own[shared:] = torch.arange(len(ids), len(ids) + len(prompt) - shared)
        ids += prompt[shared:]
        places += range(shared, len(prompt))
        for row in rows_of[number]:
            response = responses[row]
            response_slots[row, : len(response)] = torch.arange(len(ids), len(ids) + len(response))
            ids += response
            places += range(len(prompt), len(prompt) + len(response))
    return {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([places]),
        "prompt_slots": prompt_slots,
        "response_slots": response_slots,
        "shared_slots": starts + torch.arange(shared).unsqueeze(-1),
        "prompt_of": torch.tensor(prompt_of),
        "response_mask": response_slots >= 0,
        "tokens": torch.tensor(sum(map(len, prompts)) + sum(map(len, responses))),
    }


def shared_tokens(prompts: Sequence[Sequence[int]]) -> int:
    """With how many equal tokens all of them begin."""
    lowest, highest = min(map(tuple, prompts)), max(map(tuple, prompts))  # all others lie between them
    pairs = enumerate(zip(lowest, highest, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(lowest), len(highest)))


def cut_to_budget(records: Sequence[R], tokens: Callable[[R], int], budget: int | None) -> list[list[R]]:
    """Consecutive parts of at most `budget` tokens each (None: one part); a longer record is a part of its own."""
    parts: list[list[R]] = []
    left = 0
    for record in records:
        needed = tokens(record)
        if not parts or (budget is not None and needed > left):
            parts.append([])
            left = budget or 0
        parts[-1].append(record)
        left -= needed
    return parts


def is_packed(batch: Batch) -> bool:
    return "prompt_slots" in batch


def aligned(batch: Batch) -> Batch:
    """The same rows padded, each with its own prompt: for models without layouts.

    Prompts end, and responses begin, in one column. Returns `input_ids`, `attention_mask`, `position_ids` (B, P + R),
    and `response_mask` (B, R).
    """
    slots = torch.cat([batch["prompt_slots"][batch["prompt_of"]], batch["response_slots"]], dim=-1)  # (B, P + R)
    mask = slots >= 0
    return {
        "input_ids": batch["input_ids"][0][slots.clamp(min=0)].masked_fill(~mask, 0),
        "attention_mask": mask.long(),
        "position_ids": positions(mask.long()),
        "response_mask": batch["response_mask"],
    }


def positions(attention_mask: Tensor) -> Tensor:
    """Position of each token counted from the row's first real one; (B, T)."""
    return (attention_mask.cumsum(dim=-1) - 1).clamp(min=0)


def predictors(batch: Batch) -> Tensor:
    """(M,) places in the pack of the tokens that predict the response tokens, row by row: of each the one before it."""
    before = batch["response_slots"].roll(1, dims=-1)
    before[:, 0] = batch["prompt_slots"][batch["prompt_of"], -1]
    return before[batch["response_mask"]]


@dataclass(frozen=True, slots=True, eq=False)
class Packing:
    """A layout (see `attention`): each prompt sees itself, each response its prompt and itself, all causally."""

    places: Tensor
    """(L,) of each slot of both blocks, prompts first: where in the pack its token is; 0 for padding."""
    slots: Tensor
    """(N,) of each token of the pack: the slot whose attention it takes."""
    unread: Tensor
    """(L,) True where no token is, or one that takes another slot's attention."""
    shared: Tensor
    """(S, G) of each token that all prompts begin with, the first S of the pack: its slots."""
    prompt_of: Tensor
    prompt_bias: Tensor
    """(G, 1, P, P), to be added to scores."""
    response_bias: Tensor
    """(B, 1, R, P + R)."""

    @staticmethod
    def of(batch: Batch) -> "Packing":
        """The layout of a packed batch, on its device."""
        prompts, responses, prompt_of = batch["prompt_slots"], batch["response_slots"], batch["prompt_of"]
        places = torch.cat([prompts.flatten(), responses.flatten()])
        unread = places < 0
        unread[batch["shared_slots"][:, 1:]] = True
        slots = torch.empty_like(batch["input_ids"][0])
        slots[places[~unread]] = (~unread).nonzero().squeeze(-1)
        own = _causal(responses.shape[1], responses.device).expand(len(responses), -1, -1)
        seen = (prompts >= 0)[prompt_of].unsqueeze(1).expand(-1, responses.shape[1], -1)
        return Packing(
            places=places.clamp(min=0),
            slots=slots,
            unread=unread,
            shared=batch["shared_slots"],
            prompt_of=prompt_of,
            prompt_bias=_bias(_causal(prompts.shape[1], prompts.device) & (prompts >= 0).unsqueeze(1)),
            response_bias=_bias(torch.cat([seen, own], dim=-1)),
        )

    def attend(self, _: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """(H, N, D) queries, (K, N, D) keys and values -> (N, H, D)."""
        prompt_query, response_query = self._blocks(query)
        prompt_key, response_key = self._blocks(key)
        prompt_value, response_value = self._blocks(value)
        key_seen = torch.cat([prompt_key[self.prompt_of], response_key], dim=1)  # (B, P + R, K, D)
        value_seen = torch.cat([prompt_value[self.prompt_of], response_value], dim=1)
        short = self.response_bias.shape[-1] <= SQUARE and self.prompt_bias.shape[-1] <= SQUARE
        kernel = _products if short and query.device.type == "cpu" else _fused
        mixed = torch.cat(
            [
                kernel(prompt_query, prompt_key, prompt_value, self.prompt_bias, scaling).flatten(0, 1),
                kernel(response_query, key_seen, value_seen, self.response_bias, scaling).flatten(0, 1),
            ]
        )
        taken = cast(Tensor, _FromBlocks.apply(mixed.flatten(1), self.places, self.slots, self.unread))  # type: ignore[no-untyped-call]
        return taken.view(query.shape[1], query.shape[0], value.shape[2])

    def _blocks(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """(H, N, D) -> prompts (G, P, H, D), responses (B, R, H, D)."""
        heads, count, width = states.shape
        rows = states.transpose(0, 1).reshape(count, heads * width)
        blocks = cast(Tensor, _ToBlocks.apply(rows, self.places, self.slots, self.shared))  # type: ignore[no-untyped-call]
        groups, _, prompt_width, _ = self.prompt_bias.shape
        border = groups * prompt_width
        return (
            blocks[:border].view(groups, prompt_width, heads, width),
            blocks[border:].view(len(self.prompt_of), -1, heads, width),
        )


class _ToBlocks(torch.autograd.Function):
    """(N, F) -> (L, F). Backward is a look-up too, and a sum for tokens with many slots; padding takes any numbers."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, places: Tensor, slots: Tensor, shared: Tensor) -> Tensor:
        ctx.save_for_backward(slots, shared)
        return rows.index_select(0, places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        slots, shared = ctx.saved_tensors
        of_rows = gradient.index_select(0, slots)
        if len(shared):
            of_rows[: len(shared)] = gradient[shared].sum(dim=1)
        return of_rows, None, None, None


class _FromBlocks(torch.autograd.Function):
    """(L, F) -> (N, F). What unread slots computed is dropped, and gets no gradient."""

    @staticmethod
    def forward(ctx: FunctionCtx, blocks: Tensor, places: Tensor, slots: Tensor, unread: Tensor) -> Tensor:
        ctx.save_for_backward(places, unread)
        return blocks.index_select(0, slots)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        places, unread = ctx.saved_tensors
        return gradient.index_select(0, places).masked_fill_(unread.unsqueeze(-1), 0.0), None, None, None


def _causal(width: int, device: torch.device) -> Tensor:
    return torch.ones(width, width, dtype=torch.bool, device=device).tril()


def _bias(seen: Tensor) -> Tensor:
    """(B, T, S) True where seen -> (B, 1, T, S) to be added to scores."""
    return torch.zeros(seen.shape, device=seen.device).masked_fill(~seen, UNSEEN).unsqueeze(1)


def _products(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scaling: float) -> Tensor:
    """Attention by plain matrix products: (B, T, H, D), (B, S, K, D) -> (B, T, H, D). H / K query heads share a key."""
    rows, length, heads, width = query.shape
    seen, keys = key.shape[1], key.shape[2]
    share = heads // keys
    grouped = (query * scaling).view(rows, length, keys, share, width).permute(0, 2, 3, 1, 4)
    grouped = grouped.reshape(rows * keys, share * length, width)
    scores = grouped.bmm(key.permute(0, 2, 3, 1).reshape(rows * keys, width, seen))
    scores = scores.view(rows, keys, share, length, seen).add_(bias.unsqueeze(1))
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype).view(rows * keys, share * length, seen)
    size = value.shape[-1]  # a few architectures have values of another size than keys
    mixed = weights.bmm(value.transpose(1, 2).reshape(rows * keys, seen, size))
    return mixed.view(rows, keys, share, length, size).permute(0, 3, 1, 2, 4).reshape(rows, length, heads, size)


def _fused(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scaling: float) -> Tensor:
    """The same by torch's fused attention, whose memory grows with the tokens, not with their square."""
    query, key, value = (states.transpose(1, 2) for states in (query, key, value))
    return fused_attention(query, key, value, bias.to(query.dtype), scaling).transpose(1, 2)


def fused_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scaling: float) -> Tensor:
    """torch's attention, `bias` added to its scores, causal without: (B, H, T, D), (B, K, S, D) -> (B, H, T, D).

    A GPU's fused kernels take no mask where query heads share a key, so there keys are repeated.
    """
    share = query.shape[1] // key.shape[1]
    if share > 1 and bias is not None and query.device.type == "cuda":
        key, value = (states.repeat_interleave(share, dim=1) for states in (key, value))
    return scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=bias,
        is_causal=bias is None,
        scale=scaling,
        enable_gqa=key.shape[1] != query.shape[1],
    )
