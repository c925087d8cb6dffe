"""Responses of uneven length, the same way for every sampler: any model that ends by chance."""

from typing import Any

import torch


def end_at_random(policy: Any, stop_id: int, chance: float = 1 / 36) -> None:
    """From now on every drawn token is `stop_id` with this chance, whatever the model thinks: lengths are uneven."""

    def force(_: Any, __: Any, logits: torch.Tensor) -> torch.Tensor:
        rest = logits.index_fill(-1, torch.tensor([stop_id], device=logits.device), -torch.inf).logsumexp(-1)
        logits[..., stop_id] = rest + torch.log(torch.tensor(chance / (1 - chance)))
        return logits

    policy.get_output_embeddings().register_forward_hook(force)
