"""Live objects that Python users pass (model, tokenizer, datasets, adapter), kept as files so that a run can resume."""

import dataclasses
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel
from transformers import PreTrainedModel

from demotune.common.errors import DemotuneError
from demotune.common.files import publish_file, publish_folder
from demotune.common.processes import main_process, wait_for_everyone
from demotune.config.methods import AnyConfig
from demotune.models.policy import resolve_model
from demotune.models.tokenizers import load_tokenizer
from demotune.runs.folder import RunFolder
from demotune.training.datasets import json_lines, take_splits


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
    train_dataset, eval_dataset = take_splits(train_dataset, eval_dataset, needs_eval=not config.eval_data)
    given = {"data": ("train_dataset", train_dataset), "eval_data": ("eval_dataset", eval_dataset)}
    for field, (name, dataset) in given.items():
        if dataset is not None:
            kept_rows = (_keep_rows(dataset, name, folder.root, field),)
            config = dataclasses.replace(config, **{field: kept_rows})  # type: ignore[arg-type]
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


def _keep_rows(dataset: Any, name: str, root: Path, field: str) -> str:
    """Where the rows are: what was passed where that is a path or a hub id, else a file that is written here."""
    if isinstance(dataset, str | Path):
        return str(dataset)
    file = root / "start-data" / f"{field}.jsonl"
    if main_process():
        with publish_file(file) as unfinished, unfinished.open("w", encoding="ascii") as lines:
            lines.writelines(json_lines(dataset, name))
    return str(file.resolve())
