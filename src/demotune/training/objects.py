"""Live objects that Python users pass (model, tokenizer, datasets, adapter), kept as files so that a run can resume."""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel
from transformers import PreTrainedModel

from demotune.common.errors import DemotuneError
from demotune.common.files import publish_file, publish_folder
from demotune.common.processes import main_process, wait_for_everyone
from demotune.config.methods import AnyConfig
from demotune.data.readers.arrow_tables import without_nulls
from demotune.models.policy import load_tokenizer, resolve_model
from demotune.runs.folder import RunFolder


def keep_objects(
    config: AnyConfig,
    folder: RunFolder,
    *,
    model: Any,
    train_dataset: Any,
    eval_dataset: Any,
    processing_class: Any,
    peft_config: Any,
) -> AnyConfig:
    """Write what was passed as an object into the run folder and point the config there. Raises DemotuneError."""
    if isinstance(model, str | Path):
        config, model = dataclasses.replace(config, model=str(model)), None
    if model is not None or processing_class is not None:
        kept = folder.root / "start-model"
        if main_process():
            _keep_model(model, processing_class, config.model, kept)
        config = dataclasses.replace(config, model=str(kept.resolve()))
    if peft_config is not None:
        if not isinstance(peft_config, PeftConfig):
            raise DemotuneError(f"peft_config must be a peft.PeftConfig, got {type(peft_config).__name__}")
        if main_process():
            peft_config.save_pretrained(str(folder.adapter))
        config = dataclasses.replace(config, use_peft=True)
    for field, dataset in (("data", train_dataset), ("eval_data", eval_dataset)):
        if dataset is None:
            continue
        if isinstance(dataset, str):
            raise DemotuneError(f"give paths and hub ids as {field}=({dataset!r},) of the config, not as a dataset")
        file = folder.root / "start-data" / f"{field}.jsonl"
        if main_process():
            _keep_rows(dataset, file)
        config = dataclasses.replace(config, **{field: (str(file.resolve()),)})  # type: ignore[arg-type]
    wait_for_everyone()
    return config


def _keep_model(model: Any, processing_class: Any, source: str, kept: Path) -> None:
    if isinstance(model, PeftModel):
        raise DemotuneError(
            "model is a PeftModel; pass its base model together with peft_config, or save the adapter with "
            "save_pretrained(FOLDER) and pass model=FOLDER"
        )
    if model is not None and not isinstance(model, PreTrainedModel):
        raise DemotuneError(f"model must be a transformers model, a folder or a hub id, got {type(model).__name__}")
    if model is not None and processing_class is None:
        name = source or str(getattr(model.config, "_name_or_path", ""))
        processing_class = load_tokenizer(resolve_model(name)) if name else None
    if processing_class is None:
        raise DemotuneError("a model object needs its tokenizer too; pass processing_class=tokenizer")
    with publish_folder(kept) as unfinished:
        if model is None:
            # Weights and their configs only: the tokenizer's own files are written anew, never through a link.
            for pattern in ("*.safetensors", "*.safetensors.index.json", "*config.json"):
                for file in resolve_model(source).glob(pattern):
                    if not file.name.startswith("tokenizer"):
                        (unfinished / file.name).symlink_to(file.resolve())
        else:
            model.save_pretrained(unfinished)
        processing_class.save_pretrained(unfinished)


def _keep_rows(dataset: Any, file: Path) -> None:
    if not isinstance(dataset, Iterable):
        raise DemotuneError(f"a dataset must be a datasets.Dataset or a list of rows, got {type(dataset).__name__}")
    try:
        rows = list(map(without_nulls, dataset) if hasattr(dataset, "features") else dataset)
    except Exception as error:  # whatever a dataset raises while it decodes pictures and sounds
        problem = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise DemotuneError(
            f"the rows of the dataset cannot be read ({problem}); leave out what is no text, with remove_columns"
        ) from error
    if not all(isinstance(row, Mapping) for row in rows):
        raise DemotuneError("each row of a dataset must be a mapping of column to value")
    # ASCII, so that text with half a character can be written: its row is refused by name when the file is read.
    with publish_file(file) as unfinished:
        unfinished.write_text("".join(map(_json_line, rows)), encoding="ascii")


def _json_line(row: Mapping[str, object]) -> str:
    try:
        return json.dumps({name: _or_none(value) for name, value in row.items()}, default=_plain) + "\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise DemotuneError(f"a row of the dataset cannot be written as JSON ({error}); give rows of text") from error


def _or_none(value: object) -> object:
    """pandas puts a number that is none in the place of a missing text."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _plain(value: Any) -> object:
    """Arrays as lists; in place of what JSON cannot hold an object, which is refused by name where it is read."""
    return value.tolist() if hasattr(value, "tolist") else {"type": type(value).__name__}
