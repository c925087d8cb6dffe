"""Our own attention for transformers models: who sees whom is said by a layout, call by call.

A model loaded with `attn_implementation=ATTENTION` computes as with "sdpa" until it is called with `layout=...`. Then
every layer hands its queries, keys and values to that layout. Two kinds exist: `packing.Packing` (prompts with their
responses, without padding, for training and scoring) and the sampler's cache.
"""

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

ATTENTION = "demotune"
"""Name under which transformers knows it."""
UNSUPPORTED = ("softcap", "sliding_window", "position_bias", "s_aux")
"""What some architectures ask of attention and layouts do not compute."""


class Layout(Protocol):
    """Who sees whom among the tokens of one call of a model."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """Attention of layer number `layer`: (H, N, D) queries, (K, N, D) keys and values -> (N, H, D).

        N tokens, H query heads, K key heads, D numbers each; keys and queries have their positions in them already.
        """


def register_attention() -> None:
    """Make the attention known to transformers; calling it again changes nothing."""
    AttentionInterface.register(ATTENTION, _attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def layout_arguments(layout: Layout, device: torch.device) -> dict[str, object]:
    """Arguments of a model's forward that hand it a layout. transformers leaves a mask of four axes as it is."""
    return {"layout": layout, "attention_mask": torch.zeros(1, 1, 1, 1, device=device), "use_cache": False}


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    layout: Layout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """An attention function of transformers: (B, H, T, D), (B, K, T, D) -> (B, T, H, D)."""
    if layout is None:
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return found
    if wanted := [name for name in UNSUPPORTED if kwargs.get(name) is not None]:
        raise TypeError(f"{type(module).__name__} asks for {wanted}, which layouts do not compute")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    mixed = layout.attend(int(module.layer_idx), query[0], key[0], value[0], scaling)  # type: ignore[arg-type]
    return mixed.unsqueeze(0), None
