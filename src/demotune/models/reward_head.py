"""The numbers of a reward model: packed batches in, the head's score at each last token, rewards out."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from demotune.models.attention import bare, carries_layouts
from demotune.models.batches import Advance, in_batches, to_device
from demotune.models.logprobs import autocast, packed_arguments
from demotune.models.packing import Batch, is_packed, pack
from demotune.records import Completion


def completion_rewards(
    reward: nn.Module,
    completions: Sequence[Completion],
    *,
    pad_id: int,
    bound: float | None,
    batch_size: int,
    bf16: bool,
    advance: Advance = lambda _: None,
) -> list[float]:
    """The reward of each completion by a scalar reward model, in their order."""

    def rewards(unit: list[Completion]) -> list[float]:
        batch = to_device(reward, reward_batch(unit, pad_id))
        with torch.no_grad(), autocast(batch["input_ids"].device, bf16):
            found: list[float] = bounded(head_scores(reward, batch), bound).tolist()
        return found

    return in_batches(completions, batch_size, rewards, advance)


def reward_batch(completions: Sequence[Completion], pad_id: int) -> Batch:
    """B prompts and responses, packed; `pad_id` () is what models without layouts are padded with."""
    packed = pack([row.prompt_ids for row in completions], [row.response.ids for row in completions])
    return packed | {"pad_id": torch.tensor(pad_id)}


def right_padded(batch: Batch) -> Batch:
    """The same rows with padding on the right, as classifiers read them: `input_ids`, `attention_mask` (B, T)."""
    slots = torch.cat([batch["prompt_slots"][batch["prompt_of"]], batch["response_slots"]], dim=-1)
    rows = [batch["input_ids"][0, row[row >= 0]] for row in slots]
    lengths = torch.tensor([len(row) for row in rows], device=slots.device)
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=int(batch["pad_id"]))
    columns = torch.arange(ids.shape[1], device=slots.device)
    return {"input_ids": ids, "attention_mask": (columns < lengths.unsqueeze(-1)).long()}


def bounded(scores: Tensor, bound: float | None) -> Tensor:
    """Scores of a head as rewards: R * sigmoid(score), in [0, R]; unchanged when `bound` (R) is None."""
    return scores if bound is None else bound * scores.sigmoid()


def head_scores(model: nn.Module, batch: Batch) -> Tensor:
    """The head's output at each row's last token; (B,), float32. `batch` is packed or padded on the right."""
    hookable = isinstance(getattr(bare(model), "score", None), nn.Module)
    if is_packed(batch) and not (hookable and carries_layouts(model)):
        batch = right_padded(batch)
    if not is_packed(batch):
        logits: Tensor = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return logits.squeeze(-1).float()
    # transformers picks one token a row, and the pack is one row: a hook records the head's output at every token.
    outputs: list[Tensor] = []
    hook = cast(nn.Module, bare(model).score).register_forward_hook(lambda _, __, logits: outputs.append(logits))
    try:
        model(**packed_arguments(model, batch))
    finally:
        hook.remove()
    return outputs[0][0, _last_tokens(batch), 0].float()


def _last_tokens(batch: Batch) -> Tensor:
    """(B,) places in the pack at which transformers judges: a row's rightmost token that is not the padding's id."""
    slots = torch.cat([batch["prompt_slots"][batch["prompt_of"]], batch["response_slots"]], dim=-1)
    counts = (slots >= 0) & (batch["input_ids"][0][slots.clamp(min=0)] != batch["pad_id"])
    columns = torch.arange(slots.shape[1], device=slots.device)
    return slots.gather(-1, (counts * columns).argmax(dim=-1, keepdim=True)).squeeze(-1)
