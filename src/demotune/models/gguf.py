"""GGUF files as ordinary model folders, converted once."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from demotune.common.files import file_hash, publish_folder
from demotune.models.model_folder import load_whole, reading


def convert_gguf(file: Path, cache: Path) -> Path:
    """GGUF -> an ordinary float32 folder in the cache, named by the file's content."""
    folder = cache / "models" / f"{file.stem}-{file_hash(file)[:12]}"
    if folder.is_dir():
        return folder
    with reading(file, "GGUF", "get the file again from where it came from, or give the model as a folder"):
        loaded = load_whole(AutoModelForCausalLM, file.parent, gguf_file=file.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        # The loaded model is marked as quantised and refuses to be saved; its weights are plain float32.
        config = loaded.config
        del config.quantization_config
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
        model.load_state_dict(loaded.state_dict())
        model.generation_config = loaded.generation_config
        with publish_folder(folder) as unfinished:
            model.save_pretrained(str(unfinished))
            tokenizer.save_pretrained(unfinished)
    return folder
