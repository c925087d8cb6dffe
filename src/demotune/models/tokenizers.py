"""What a model folder says about token ids: its tokenizer, its stop tokens, and how it reads conversations."""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from demotune.common.errors import DemotuneError
from demotune.data.rendering import Renderer
from demotune.models.adapters import adapter_rows
from demotune.models.model_folder import is_adapter, read_config, read_object, reading
from demotune.models.policy import resolve_base
from demotune.runs.run import begun_template

TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model", "tekken.json")


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model: the one beside it, for an adapter without one its base's.

    Raises DemotuneError where there is none, and where it has tokens for which the model has no embedding.
    """
    holder, rows = tokenizer_folder(folder), embedding_rows(folder)
    fix = "save the model's tokenizer into that folder with tokenizer.save_pretrained(FOLDER)"
    with reading(holder, "a tokenizer", fix):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(holder, trust_remote_code=False)
    _check_vocabulary(tokenizer, rows, holder, folder)
    return tokenizer


def tokenizer_folder(folder: Path) -> Path:
    """The folder with a model's tokenizer: its own, or that of its base for an adapter that has none."""
    own = not is_adapter(folder) or any(file for pattern in TOKENIZER_FILES for file in folder.glob(pattern))
    return folder if own else resolve_base(folder)


def _check_vocabulary(tokenizer: PreTrainedTokenizerBase, rows: int | None, holder: Path, folder: Path) -> None:
    images = {getattr(tokenizer, f"{kind}_token_id", None) for kind in ("image", "audio", "video")}
    ids = set(tokenizer.get_vocab().values()) - images  # which stand for what a language model is never given
    if rows is not None and max(ids, default=0) >= rows:
        raise DemotuneError(
            f"the tokenizer in {holder} has {max(ids) + 1} tokens and the embedding of {folder} has {rows} rows; "
            "give the tokenizer that the model was trained with, or enlarge the model once: "
            f"model.resize_token_embeddings({max(ids) + 1}), then model.save_pretrained(FOLDER)"
        )


def embedding_rows(folder: Path) -> int | None:
    """Tokens for which a model has an embedding; None where its config names no number."""
    if is_adapter(folder):
        return adapter_rows(folder) or embedding_rows(resolve_base(folder))
    rows = getattr(read_config(folder).get_text_config(), "vocab_size", None)
    return rows if isinstance(rows, int) else None


def generation_stop_ids(folder: Path) -> tuple[int, ...]:
    """End tokens that the model's generation config names, beside the tokenizer's own."""
    if is_adapter(folder):
        return generation_stop_ids(resolve_base(folder))
    file = folder / "generation_config.json"
    named = read_object(file).get("eos_token_id") if file.is_file() else None
    ids = named if isinstance(named, list) else [] if named is None else [named]
    if not all(isinstance(token, int) for token in ids):
        raise DemotuneError(f"{file} says eos_token_id {named!r}; write a token id there, or a list of them")
    return tuple(ids)


def renderer_of(folder: Path, template: str | None) -> Renderer:
    """The renderer of a model: by `template`, else by that of the run that made it, else by its chat template."""
    chosen = begun_template(folder) if template is None else template
    return Renderer(load_tokenizer(folder), chosen, generation_stop_ids(folder))
