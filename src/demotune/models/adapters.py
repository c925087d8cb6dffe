"""Put the adapter of a folder on its base model; every weight of it must fit there."""

import re
import warnings
from pathlib import Path
from typing import cast

from peft import PeftModel
from peft.utils import get_peft_model_state_dict
from torch import nn
from transformers import PreTrainedModel

from demotune.common.errors import DemotuneError
from demotune.models.model_folder import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    is_adapter,
    read_object,
    reading,
    refuse_other_weights,
    tensor_shapes,
)

HEADS = ("lm_head", "embed_out")
_EMBEDDING = re.compile(
    rf"\.(embed_tokens|wte|embed_in|word_embeddings|{'|'.join(HEADS)})"
    r"\.(?:base_layer\.|modules_to_save\.|original_module\.)?weight$"
)
"""Weights of the base that peft writes beside an adapter: of an embedding or a head that was resized or trained."""
_EXPECTED = "Found missing adapter keys|for .*: copying from a non-meta parameter"
"""Warnings about missing weights, which are an error here, and about a base that is looked at without its numbers."""
FIX = "give the adapter that was trained on this base, or copy it again from where it came from"


def load_adapter_on(base: PreTrainedModel, folder: Path, *, trainable: bool = False) -> PeftModel:
    """The adapter in `folder` on a base model that is in memory already, which gets as many token rows as it asks for.

    Raises DemotuneError unless base and adapter fit: peft itself would go on with a random or a missing part.
    """
    shapes = tensor_shapes(folder / ADAPTER_WEIGHTS)
    _check_rank(folder, max((size for shape in shapes.values() for size in shape), default=0))
    _resize_embedding(base, folder)
    with reading(folder, f"an adapter of {type(base).__name__}", FIX), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=_EXPECTED)
        model = PeftModel.from_pretrained(base, folder, is_trainable=trainable)
        asked = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    unexpected = {name for name in shapes.keys() - asked if not _EMBEDDING.search(name)}
    refuse_other_weights(folder, asked - shapes.keys(), unexpected, set(), FIX)
    return model


def adapter_rows(folder: Path) -> int | None:
    """Rows of the token embedding that an adapter brings along; None where it leaves that of its base unchanged."""
    rows = {shape[0] for name, shape in tensor_shapes(folder / ADAPTER_WEIGHTS).items() if _EMBEDDING.search(name)}
    if len(rows) > 1:
        raise DemotuneError(f"the adapter in {folder} holds embeddings of {min(rows)} and of {max(rows)} rows; {FIX}")
    return max(rows, default=None)


def adapter_rank(folder: Path) -> int | None:
    """The rank of the adapter in a folder; None where it holds a whole model."""
    if not is_adapter(folder):
        return None
    rank = read_object(folder / ADAPTER_CONFIG).get("r")
    return rank if isinstance(rank, int) else None


def _check_rank(folder: Path, largest: int) -> None:
    rank = read_object(folder / ADAPTER_CONFIG).get("r")
    if isinstance(rank, int) and rank > largest:
        raise DemotuneError(
            f"the weights in {folder} are not those that its config asks for: rank {rank}, and no tensor has more than "
            f"{largest} rows or columns; {FIX}"
        )


def _resize_embedding(base: PreTrainedModel, folder: Path) -> None:
    """Give the base as many token rows as the adapter has, which must hold all of them: nothing random may stay."""
    rows, embedding = adapter_rows(folder), cast(nn.Embedding, base.get_input_embeddings())
    if rows is None or rows == embedding.num_embeddings:
        return
    names = {found[1] for name in tensor_shapes(folder / ADAPTER_WEIGHTS) if (found := _EMBEDDING.search(name))}
    head = cast(nn.Linear | None, base.get_output_embeddings())  # type: ignore[no-untyped-call]
    tied = head is None or head.weight is embedding.weight
    if not (names.difference(HEADS) and (tied or names.intersection(HEADS))):
        raise DemotuneError(
            f"the adapter in {folder} has {rows} token rows and its base {base.name_or_path} has "
            f"{embedding.num_embeddings}, and it holds only {', '.join(sorted(names))} of embedding and head; save it "
            "again with save_pretrained(FOLDER, save_embedding_layers=True)"
        )
    base.resize_token_embeddings(rows, mean_resizing=False)
