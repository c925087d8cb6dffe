"""Token and sequence log-probabilities of responses under a policy.

Batches are packed (`packing`): no padding, and a prompt is computed once for all of its responses. A model that carries
no layouts gets the same rows aligned: prompts end, and responses begin, in one column.

         |<-- P: longest prompt -->|<-- R: longest response -->|
    row  | . . . p  p  p  p  p  p  | y  y  y  y  end  .  .  .  |

In both, the head, the dearest layer of a small model, runs on response positions only.
"""

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from demotune.models.attention import bare, carries_layouts, layout_arguments
from demotune.models.packing import Batch, Packing, aligned, is_packed, predictors

ROWS_AT_ONCE = 2**22
"""Numbers of a chunk in which the softmax over the vocabulary is taken: 16 MiB of float32 at a time."""


@dataclass(frozen=True, slots=True)
class ResponseLogps:
    """Per response token, each (B, R): log-probability of the token there, in nats, in float32.

    `mask` is True where a response token is; other entries are 0. `entropy` (no gradient) is that of the policy's
    distribution at the position, `greedy` is True where the token is the likeliest one.
    """

    logps: Tensor
    entropy: Tensor
    greedy: Tensor
    mask: Tensor

    def summed(self) -> Tensor:
        """log pi(y | x) of each row, shape (B,), in nats."""
        return self.logps.sum(dim=-1)


def response_logps(model: nn.Module, batch: Batch) -> ResponseLogps:
    """Log-probabilities of a batch's response tokens: one forward pass, differentiable in `logps`.

    `batch` is packed or aligned. Equals `naive_response_logps` up to rounding; log-softmax runs in float32 whatever the
    model's type.
    """
    if is_packed(batch) and not carries_layouts(model):
        batch = aligned(batch)
    mask = batch["response_mask"]
    if is_packed(batch):
        found: Tensor = model(**packed_arguments(model, batch), logits_to_keep=predictors(batch)).logits
        logits = found.squeeze(0)  # (M, V) for M response tokens; not [0], whose gradient would be a copy among zeros
        targets = batch["input_ids"][0][batch["response_slots"][mask]]
    else:
        logits, targets = _aligned_logits(model, batch)[mask], batch["input_ids"][:, -mask.shape[1] :][mask]
    logps, entropy, greedy = cast(tuple[Tensor, Tensor, Tensor], _TokenLogps.apply(logits, targets))  # type: ignore[no-untyped-call]
    return ResponseLogps(
        logps=_spread(logps, mask), entropy=_spread(entropy, mask), greedy=_spread(greedy, mask), mask=mask
    )


def response_states(model: nn.Module, batch: Batch) -> Tensor:
    """The policy's last hidden states, of which each response token is predicted: (B, R, D), float32, no gradient."""
    backbone = cast(nn.Module, bare(model).base_model)
    if is_packed(batch) and not carries_layouts(model):
        batch = aligned(batch)
    mask = batch["response_mask"]
    with torch.no_grad():
        if is_packed(batch):
            hidden = backbone(**packed_arguments(model, batch)).last_hidden_state[0, predictors(batch)].float()
            states: Tensor = hidden.new_zeros(*mask.shape, hidden.shape[-1])
            states[mask] = hidden
            return states
        found: Tensor = backbone(**forward_arguments(model, batch), use_cache=False).last_hidden_state
    return found[:, -(mask.shape[1] + 1) : -1].float()


def sequence_logps(model: nn.Module, batch: Batch) -> Tensor:
    """log pi(y | x), summed over response tokens, end-of-turn token included, prompt and padding not. (B,), nats."""
    return response_logps(model, batch).summed()


def naive_response_logps(model: nn.Module, prompt: Sequence[int], response: Sequence[int]) -> Tensor:
    """The definition, one row without padding and with all logits: (R,), nats. The reference for tests."""
    ids = torch.tensor([[*prompt, *response]])
    all_logps: Tensor = model(input_ids=ids).logits.float().log_softmax(dim=-1)  # (1, T, V)
    token_logps = all_logps[0, :-1].gather(-1, ids[0, 1:].unsqueeze(-1)).squeeze(-1)
    return token_logps[len(prompt) - 1 :]


def autocast(device: torch.device, bf16: bool) -> AbstractContextManager[object]:
    """The precision of sampling and scoring: the same autocast that training runs under."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16)


def forward_arguments(model: nn.Module, batch: Batch) -> dict[str, object]:
    """What of `batch` this model's forward takes; some architectures know no `position_ids`."""
    names = ("input_ids", "attention_mask", "position_ids")
    known = _forward_parameters(model)
    return {name: batch[name] for name in names if name in known and name in batch}


def logits_to_keep(model: nn.Module, count: int) -> dict[str, int]:
    """Ask for the last `count` logits only, where the architecture offers it."""
    return {"logits_to_keep": count} if "logits_to_keep" in _forward_parameters(model) else {}


def packed_arguments(model: nn.Module, batch: Batch) -> dict[str, Any]:
    """What of a packed batch a model that carries layouts takes."""
    device = batch["input_ids"].device
    return forward_arguments(model, batch) | layout_arguments(Packing.of(batch), device)


def _aligned_logits(model: nn.Module, batch: Batch) -> Tensor:
    """Logits that predict each response token of an aligned batch, (B, R, V)."""
    width = batch["response_mask"].shape[1]
    arguments = forward_arguments(model, batch) | logits_to_keep(model, width + 1)
    logits: Tensor = model(**arguments, use_cache=False).logits
    return logits[:, -(width + 1) : -1]


class _TokenLogps(torch.autograd.Function):
    """(M, V) logits and (M,) targets -> log-probabilities, entropies, whether the target is the likeliest; each (M,).

    The same as log-softmax in float32 and a look-up, in chunks of rows: what is kept for the backward pass are the
    logits as they are, and one number a row. Only the log-probabilities have a gradient.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logps, entropy, normaliser = (logits.new_empty(len(logits), dtype=torch.float32) for _ in range(3))
        greedy = torch.empty_like(targets, dtype=torch.bool)
        for rows in _row_chunks(logits):
            chunk, wanted = logits[rows].float(), targets[rows]
            top, likeliest = chunk.max(dim=-1)
            weights = (chunk - top.unsqueeze(-1)).exp_()
            total = weights.sum(dim=-1)
            normaliser[rows] = top + total.log()
            logps[rows] = chunk.gather(-1, wanted.unsqueeze(-1)).squeeze(-1) - normaliser[rows]
            entropy[rows] = normaliser[rows] - torch.linalg.vecdot(weights, chunk) / total
            greedy[rows] = likeliest == wanted
        ctx.save_for_backward(logits, targets, normaliser)
        ctx.mark_non_differentiable(entropy, greedy)
        return logps, entropy, greedy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor, None]:
        logits, targets, normaliser = ctx.saved_tensors
        of_logits = torch.empty_like(logits)
        for rows in _row_chunks(logits):
            weights = (logits[rows].float() - normaliser[rows].unsqueeze(-1)).exp_()
            weights.mul_(-gradient[rows].unsqueeze(-1))
            weights.scatter_add_(-1, targets[rows].unsqueeze(-1), gradient[rows].unsqueeze(-1))
            of_logits[rows] = weights
        return of_logits, None


def _row_chunks(logits: Tensor) -> list[slice]:
    count = max(ROWS_AT_ONCE // logits.shape[-1], 1)
    return [slice(start, start + count) for start in range(0, len(logits), count)]


def _spread(values: Tensor, mask: Tensor) -> Tensor:
    """(M,) values of the masked positions back to (B, R), zero elsewhere."""
    return torch.zeros(mask.shape, dtype=values.dtype, device=mask.device).masked_scatter(mask, values)


def _forward_parameters(model: nn.Module) -> frozenset[str]:
    return frozenset(inspect.signature(type(bare(model)).forward).parameters)
