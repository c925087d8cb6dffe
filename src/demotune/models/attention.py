"""Our own attention for transformers models: a layout, given call by call, says which token sees which.

A model loaded with `attn_implementation=ATTENTION` computes as with "sdpa" until it is called with `layout=...`. Then
every layer hands its queries, keys and values to that layout. Two kinds exist: `packing.Packing` (prompts with their
responses, without padding, for training and scoring) and the sampler's cache.
"""

import inspect
from collections.abc import Sequence
from typing import Any, Protocol, cast
from weakref import WeakKeyDictionary

import torch
from accelerate.utils import extract_model_from_parallel
from peft import PeftModel
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

ATTENTION = "demotune"
"""Name under which transformers knows it."""
UNSUPPORTED = ("softcap", "sliding_window", "position_bias", "s_aux")
"""Features of attention that some architectures use and layouts do not compute."""

TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
"""How far logits through a layout may be from the model's own, as a share of 1 + the largest of them."""
ROUGH_TOLERANCE = 5e-2
"""The same in half precision, where two orders of adding differ by some percent."""

_probed: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


class Layout(Protocol):
    """Which token sees which, among the tokens of one call of a model."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """Attention of layer number `layer`: (H, N, D) queries, (K, N, D) keys and values -> (N, H, D).

        N tokens, H query heads, K key heads, D numbers each; keys and queries have their positions in them already.
        """


def register_attention() -> None:
    """Make the attention known to transformers; calling it again changes nothing."""
    AttentionInterface.register(ATTENTION, _attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def layout_arguments(layout: Layout, device: torch.device) -> dict[str, object]:
    """Arguments of a model's forward that hand it a layout. transformers leaves a mask of four axes unchanged."""
    return {"layout": layout, "attention_mask": torch.zeros(1, 1, 1, 1, device=device), "use_cache": False}


class BlockCausal:
    """Several sequences behind one another in one row; each token sees its own sequence up to itself. The plain form.

    `dtype` is that of the keys which the model computed last.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(device)
        self._sees = (owner.unsqueeze(-1) == owner).tril()
        self.dtype = torch.float32

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        self.dtype = key.dtype
        mixed = nn.functional.scaled_dot_product_attention(
            query.unsqueeze(0),
            key.unsqueeze(0),
            value.unsqueeze(0),
            attn_mask=self._sees,
            scale=scaling,
            enable_gqa=key.shape[0] != query.shape[0],
        )
        return mixed[0].transpose(0, 1)


def bare(model: nn.Module) -> nn.Module:
    """The transformers model inside a distributed or adapter wrapper."""
    inner: nn.Module = extract_model_from_parallel(model)
    return inner.get_base_model() if isinstance(inner, PeftModel) else inner


def carries_layouts(model: nn.Module) -> bool:
    """Whether a call with a layout computes what the model computes without one; tried once per model, then known.

    Not so for another attention implementation, and for architectures that mix tokens in ways of their own (sliding
    windows, recurrent layers, attention that transformers' interface does not reach).
    """
    inner, wrapper = bare(model), extract_model_from_parallel(model)
    if isinstance(wrapper, PeftModel) and wrapper.active_peft_config.is_prompt_learning:
        return False  # virtual tokens, which only the wrapper puts before the input
    backbone = getattr(inner, "base_model", inner)
    if getattr(getattr(backbone, "config", None), "_attn_implementation", None) != ATTENTION:
        return False
    if inner not in _probed:
        _probed[inner] = _probe(inner)
    return _probed[inner]


@torch.no_grad()
def _probe(model: nn.Module) -> bool:
    """Two prompts in one packed call against each of them alone."""
    was_training = model.training
    model.eval()
    try:
        weight = next(model.parameters())
        vocabulary = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
        prompts = [[(3 * place + 1) % vocabulary for place in range(length)] for length in (5, 3)]
        with torch.autocast(weight.device.type, enabled=False):
            return _picks_logits(model) and _agree(model, prompts, weight.device)
    except Exception:  # after any error it is a model without layouts
        return False
    finally:
        model.train(was_training)


def _agree(model: nn.Module, prompts: Sequence[Sequence[int]], device: torch.device) -> bool:
    """The backbone's last hidden states, so that models with a head of any kind can be tried."""
    layout = BlockCausal([len(prompt) for prompt in prompts], device)
    backbone = cast(nn.Module, model.base_model)
    packed: Tensor = backbone(
        input_ids=torch.tensor([[token for prompt in prompts for token in prompt]], device=device),
        position_ids=torch.tensor([[place for prompt in prompts for place in range(len(prompt))]], device=device),
        **layout_arguments(layout, device),
    ).last_hidden_state[0]
    alone = [
        backbone(input_ids=torch.tensor([p], device=device), use_cache=False).last_hidden_state[0] for p in prompts
    ]
    expected = torch.cat(alone)
    tolerance = TOLERANCE.get(layout.dtype, ROUGH_TOLERANCE)
    return bool((packed - expected).abs().max() <= tolerance * (1 + expected.abs().max()))


def _picks_logits(model: nn.Module) -> bool:
    """Whether a language model computes logits at chosen positions only; other models have none."""
    if not isinstance(model, PreTrainedModel) or model.get_output_embeddings() is None:  # type: ignore[no-untyped-call]
        return True
    return "logits_to_keep" in inspect.signature(type(model).forward).parameters


def _attention(  # noqa: PLR0917 - the arguments are transformers'
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
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    # Not query[0] and so on: the gradient of that is a copy among zeros.
    mixed = layout.attend(layer, query.squeeze(0), key.squeeze(0), value.squeeze(0), scaling)
    return mixed.unsqueeze(0), None
