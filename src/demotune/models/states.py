"""The backbone's hidden state at the end of a response: what a sequence classifier's head reads there."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from demotune.models.attention import bare, carries_layouts
from demotune.models.batches import Advance, to_device
from demotune.models.logprobs import autocast, packed_arguments
from demotune.models.packing import Batch, cut_to_budget
from demotune.models.reward_head import reward_batch, right_padded
from demotune.records import Completion, Response
from demotune.runs.shared_work import compute_rows

TOKENS_TOGETHER = 4096
"""Tokens of one forward pass; a prompt counts once for each of its responses, though it is computed once."""


def end_states(
    model: nn.Module,
    completions: Sequence[Completion],
    *,
    pad_id: int,
    bf16: bool,
    budget: int = TOKENS_TOGETHER,
    advance: Advance = lambda _: None,
) -> Tensor:
    """Last hidden state, after the final norm, of each completion's last token: (N, D), float32, on the CPU.

    `model` is a language model or a classifier on the same backbone. Responses to one prompt share its computation.
    `pad_id` is the padding of the classifier, which judges at the last token that is another one.
    """
    order = sorted(
        range(len(completions)), key=lambda row: (-len(completions[row].prompt_ids), _prompt(completions, row))
    )

    def states_of(rows: Sequence[int]) -> list[Tensor]:
        batch = to_device(model, reward_batch([completions[row] for row in rows], pad_id))
        with torch.no_grad(), autocast(batch["input_ids"].device, bf16):
            return [*_states(model, batch).float().cpu()]

    batches = cut_to_budget(order, lambda row: completions[row].tokens, budget)
    states = compute_rows(batches, states_of, advance)
    return torch.stack([states[row] for row in range(len(completions))])


def followed_by(completions: Sequence[Completion], question_ids: Sequence[int]) -> list[Completion]:
    """Each completion with a question after its response, so that the last token is that of the question."""
    return [
        Completion(row.prompt_ids, Response((*row.response.ids, *question_ids), row.response.finished))
        for row in completions
    ]


def _prompt(completions: Sequence[Completion], row: int) -> tuple[int, ...]:
    return tuple(completions[row].prompt_ids)


def _states(model: nn.Module, batch: Batch) -> Tensor:
    """(B, D) at the last token of each row."""
    backbone = cast(nn.Module, bare(model).base_model)
    if carries_layouts(model):
        hidden: Tensor = backbone(**packed_arguments(model, batch)).last_hidden_state[0]
        slots = batch["response_slots"]
        counts = (slots >= 0) & (batch["input_ids"][0][slots.clamp(min=0)] != batch["pad_id"])
        return hidden[slots.gather(-1, _last(counts)).squeeze(-1)]
    padded = right_padded(batch)
    hidden = backbone(**padded, use_cache=False).last_hidden_state
    counts = padded["attention_mask"].bool() & (padded["input_ids"] != batch["pad_id"])
    return hidden[torch.arange(len(hidden), device=hidden.device), _last(counts).squeeze(-1)]


def _last(counts: Tensor) -> Tensor:
    """(B, T) -> (B, 1): the last column that counts."""
    return (counts * torch.arange(counts.shape[1], device=counts.device)).argmax(dim=-1, keepdim=True)
