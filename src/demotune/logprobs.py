"""Token and sequence log-probabilities of responses under a policy.

Batches are aligned: prompts end, and responses begin, in one column. So the head, the dearest layer of a small
model, runs on response positions only, and padding on either side is masked.

         |<-- P: longest prompt -->|<-- R: longest response -->|
    row  | . . . p  p  p  p  p  p  | y  y  y  y  end  .  .  .  |
"""

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from demotune.attention import bare

Batch = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class ResponseLogps:
    """Per response token, each (B, R): log-probability of the token that stands there, in nats, in float32.

    `mask` is True where a response token stands; other entries are 0. `entropy` (no gradient) is that of the policy's
    distribution at the position, `greedy` is True where the token is the likeliest one.
    """

    logps: Tensor
    entropy: Tensor
    greedy: Tensor
    mask: Tensor

    def summed(self) -> Tensor:
        """log pi(y | x) of each row, shape (B,), in nats."""
        return self.logps.sum(dim=-1)


def align(prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> Batch:
    """Pad token ids to one aligned batch of B rows.

    Returns `input_ids`, `attention_mask`, `position_ids` (B, P + R) and `response_mask` (B, R). Raises ValueError
    for an empty prompt or response, so that no later step divides by zero.
    """
    prompt_width, response_width = max(map(len, prompts)), max(map(len, responses))
    shape = (len(prompts), prompt_width + response_width)
    ids, mask = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        if not prompt or not response:
            raise ValueError(f"row {row} has {len(prompt)} prompt and {len(response)} response tokens; both need one")
        start, end = prompt_width - len(prompt), prompt_width + len(response)
        ids[row, start:end] = torch.tensor([*prompt, *response])
        mask[row, start:end] = 1
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": positions(mask),
        "response_mask": mask[:, prompt_width:].bool(),
    }


def positions(attention_mask: Tensor) -> Tensor:
    """Position of each token counted from the row's first real one; (B, T)."""
    return (attention_mask.cumsum(dim=-1) - 1).clamp(min=0)


def response_logps(model: nn.Module, batch: Batch) -> ResponseLogps:
    """Log-probabilities of an aligned batch's response tokens: one forward pass, differentiable in `logps`.

    Equals `naive_response_logps` up to rounding; log-softmax runs in float32 whatever the model's type.
    """
    mask = batch["response_mask"]
    logits = _response_logits(model, batch)[mask]  # (N, V), N response tokens in all
    targets = batch["input_ids"][:, -mask.shape[1] :][mask]
    vocabulary_logps = logits.log_softmax(dim=-1)
    logps = vocabulary_logps.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    with torch.no_grad():
        entropy = -torch.linalg.vecdot(vocabulary_logps.exp(), vocabulary_logps)
        greedy = logits.argmax(dim=-1) == targets
    return ResponseLogps(
        logps=_spread(logps, mask), entropy=_spread(entropy, mask), greedy=_spread(greedy, mask), mask=mask
    )


def response_states(model: nn.Module, batch: Batch) -> Tensor:
    """The policy's last hidden states, of which each response token is predicted: (B, R, D), float32, no gradient."""
    width = batch["response_mask"].shape[1]
    backbone = cast(nn.Module, bare(model).base_model)
    with torch.no_grad():
        hidden: Tensor = backbone(**forward_arguments(model, batch), use_cache=False).last_hidden_state
    return hidden[:, -(width + 1) : -1].float()


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
    return {name: batch[name] for name in names if name in known}


def logits_to_keep(model: nn.Module, count: int) -> dict[str, int]:
    """Ask for the last `count` logits only, where the architecture offers it."""
    return {"logits_to_keep": count} if "logits_to_keep" in _forward_parameters(model) else {}


def _response_logits(model: nn.Module, batch: Batch) -> Tensor:
    """Float32 logits that predict each response token, (B, R, V)."""
    width = batch["response_mask"].shape[1]
    arguments = forward_arguments(model, batch) | logits_to_keep(model, width + 1)
    logits: Tensor = model(**arguments, use_cache=False).logits
    return logits[:, -(width + 1) : -1].float()


def _spread(values: Tensor, mask: Tensor) -> Tensor:
    """(N,) values of the masked positions back to (B, R), zero elsewhere."""
    return torch.zeros(mask.shape, dtype=values.dtype, device=mask.device).masked_scatter(mask, values)


def _forward_parameters(model: nn.Module) -> frozenset[str]:
    return frozenset(inspect.signature(type(bare(model)).forward).parameters)
