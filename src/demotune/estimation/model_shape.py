"""The sizes of a model that its costs follow from, read from its config; no weights are read."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from peft import PeftConfig
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from demotune.models.model_folder import is_adapter, read_config, reading
from demotune.models.policy import LANGUAGE_MODEL, attach_adapter, parameter_count, resolve_base


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Counts of numbers in a transformer."""

    parameters: int
    """All numbers, without an adapter's."""
    body: int
    """Numbers that every token is multiplied with: the matrices of all layers, without embedding and head."""
    vocabulary: int
    layers: int
    width: int
    """Of the hidden states."""
    inner: int
    """Of the feed-forward layers."""
    heads: int
    queries: int
    """heads times the width of one."""
    keys: int
    """key-value heads times the width of one."""
    adapter: int = 0
    """Numbers that LoRA trains; 0 without LoRA: then all are trained."""

    @property
    def head(self) -> int:
        """Numbers of the head, whether or not they are the embedding's too."""
        return self.vocabulary * self.width

    @property
    def trained(self) -> int:
        return self.adapter or self.parameters


def read_shape(folder: Path, adapter: PeftConfig | None) -> ModelShape:
    """The shape of the model in `folder`, trained whole (adapter None) or by a LoRA adapter.

    The model is built without memory for its numbers. Raises DemotuneError where it is no causal language model.
    """
    base = resolve_base(folder) if is_adapter(folder) else folder
    # Building draws random numbers that nothing uses; those of the run must not move.
    with torch.random.fork_rng(range(torch.cuda.device_count())), torch.device("meta"):
        config = read_config(base)
        with reading(base, LANGUAGE_MODEL):
            model = cast(PreTrainedModel, AutoModelForCausalLM.from_config(config))  # type: ignore[no-untyped-call]
        parameters, body = model.num_parameters(), _body(model)
        trained = 0
        if adapter is not None and is_adapter(folder):
            trained = parameter_count(folder) - parameter_count(base)
        elif adapter is not None:
            with_adapter = attach_adapter(model, copy.deepcopy(adapter), seed=0)
            trained = sum(weight.numel() for weight in with_adapter.parameters() if weight.requires_grad)
    config = config.get_text_config()
    heads = config.num_attention_heads
    head_width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return ModelShape(
        parameters=parameters,
        body=body,
        vocabulary=config.vocab_size,
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        inner=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        heads=heads,
        queries=heads * head_width,
        keys=(getattr(config, "num_key_value_heads", None) or heads) * head_width,
        adapter=trained,
    )


def _body(model: PreTrainedModel) -> int:
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    head = cast(nn.Linear | None, model.get_output_embeddings())  # type: ignore[no-untyped-call]
    apart = tables if head is None else tables | {id(head.weight)}
    return sum(weight.numel() for weight in model.parameters() if weight.ndim > 1 and id(weight) not in apart)
