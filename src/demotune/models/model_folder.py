"""Read a model folder so that anything damaged, missing or foreign in it is one error that names the folder.

Weights come from safetensors only: nothing here or above reads a pickle or runs code from a model folder.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from demotune.common.errors import DemotuneError, first_line
from demotune.common.memory import is_lack_of_memory

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
CONFIGS = ("config.json", "generation_config.json", "tokenizer_config.json", "model.safetensors.index.json")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
NAMED = 3
"""At most so many of the wrong weights are named; the others are counted."""
LONGEST_CAUSE = 300
"""Most characters of another library's message."""
BESIDE_THE_MODEL = re.compile(
    r"(inv_freq|cos_cached|sin_cached|masked_bias|causal_mask|attn\.bias|attention\.bias)$|^v_head\.|\.mtp_layers\.|^mtp\."
)
"""Weights that folders hold and a language model does without: masks and angles that old versions saved, the value
head of a PPO run, layers that predict further tokens."""
COPY_OR_FIX_CONFIG = (
    "copy the folder again from where it came from, or fix config.json; saving it again with transformers would put "
    "random numbers in the place of what is missing"
)
COPY_OR_SAVE_AGAIN = (
    "copy the folder again from where it came from, or save the model again with save_pretrained(FOLDER)"
)


@contextmanager
def reading(path: Path, what: str, fix: str = COPY_OR_SAVE_AGAIN) -> Iterator[None]:
    """Any error inside becomes one DemotuneError: the path, what it was read as, the cause, the fix.

    A damaged file ends in an exception of any kind, many of which say nothing about files; so all are caught.
    """
    try:
        yield
    except DemotuneError:
        raise
    except Exception as error:
        if is_lack_of_memory(error):
            raise DemotuneError(
                f"there is not enough memory to load {path} ({first_line(error)}); free some, hold the weights in half "
                "the memory with --dtype bfloat16, or take a smaller model"
            ) from error
        if isinstance(error, ImportError):
            fix = "install what it asks for"
        raise DemotuneError(f"cannot read {path} as {what}: {_cause(error)}; {fix}") from error


def _cause(error: Exception) -> str:
    """The beginning of an error's message, two lines at most; with the kind of error where the message needs it."""
    lines = str(error).strip().partition("\n\n")[0].splitlines()[:2]
    said = " ".join(line.strip() for line in lines)[:LONGEST_CAUSE]
    if isinstance(error, OSError | ValueError | ImportError) and said:
        return said
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def read_object(file: Path) -> dict[str, Any]:
    """A JSON file that holds an object. Raises DemotuneError for any other file."""
    with reading(file, "JSON"):
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}, not an object")
        return found


def read_config(folder: Path) -> PretrainedConfig:
    """The architecture that a folder's config.json asks for. Raises DemotuneError where transformers has none such."""
    known = "give a model of an architecture that transformers has (code in a model folder is never run)"
    fix = f"{known}, or {COPY_OR_SAVE_AGAIN}"
    with reading(folder, "a model config", fix):
        return cast(PretrainedConfig, AutoConfig.from_pretrained(folder, trust_remote_code=False))


def is_adapter(folder: Path) -> bool:
    return (folder / ADAPTER_CONFIG).is_file()


def check_files(folder: Path, source: str) -> None:
    """Raise DemotuneError unless the folder holds safetensors and a config, all of them whole files."""
    adapter = is_adapter(folder)
    weights = sorted(folder.glob(ADAPTER_WEIGHTS if adapter else "*.safetensors"))
    if not weights:
        what = ADAPTER_WEIGHTS if adapter else "safetensors file"
        pickled = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
        raise DemotuneError(
            f"{source} holds no {what}"
            + (f", only {pickled[0]}: pickled weights can run code and are never read" if pickled else "")
            + "; convert it once with AutoModelForCausalLM.from_pretrained(...).save_pretrained(FOLDER) and give that "
            "folder"
        )
    if not adapter and not (folder / "config.json").is_file():
        raise DemotuneError(f"{source} holds no config.json, so its architecture is not known; {COPY_OR_SAVE_AGAIN}")
    for name in (ADAPTER_CONFIG, *CONFIGS):
        if (folder / name).is_file():
            read_object(folder / name)
    for file in weights:
        tensor_shapes(file)


def read_tensor(folder: Path, name: str) -> torch.Tensor:
    """One tensor of a model folder. Raises DemotuneError where no safetensors file has it."""
    for file in sorted(folder.glob("*.safetensors")):
        if name in tensor_shapes(file):
            with reading(file, "safetensors"), safe_open(file, framework="pt") as tensors:
                return cast(torch.Tensor, tensors.get_tensor(name))
    raise DemotuneError(f"{folder} holds no {name}; copy the folder again")


def tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of each tensor of a safetensors file, from its header. Raises DemotuneError for a torn file."""
    with reading(file, "safetensors"), safe_open(file, framework="pt") as tensors:
        return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118


def check_weights(auto_class: Any, folder: Path, what: str, **settings: Any) -> PreTrainedModel:
    """The model without memory for its numbers. Raises DemotuneError unless the files hold each weight it asks for."""
    config = read_config(folder)
    _check_depth(config, folder)
    with reading(folder, what):
        if is_quantized(folder):  # packed weights have other shapes until they are loaded
            with torch.device("meta"):
                return cast(PreTrainedModel, auto_class.from_config(config, trust_remote_code=False))
        return load_whole(auto_class, folder, device_map="meta", **settings)


def is_quantized(folder: Path) -> bool:
    """Whether the weights are packed; False of an adapter, whatever its base is."""
    return not is_adapter(folder) and hasattr(read_config(folder), "quantization_config")


def load_whole(auto_class: Any, folder: Path, **settings: Any) -> PreTrainedModel:
    """What `auto_class` loads from the folder's safetensors. Raises DemotuneError unless every weight is its own.

    transformers itself would go on with random numbers in place of what is missing.
    """
    settings |= {"use_safetensors": True, "trust_remote_code": False, "ignore_mismatched_sizes": True}
    model, found = auto_class.from_pretrained(folder, output_loading_info=True, **settings)
    unexpected = {name for name in found["unexpected_keys"] if not BESIDE_THE_MODEL.search(name)}
    refuse_other_weights(folder, found["missing_keys"], unexpected, found["mismatched_keys"])
    return cast(PreTrainedModel, model)


def refuse_other_weights(
    folder: Path,
    missing: set[str],
    unexpected: set[str],
    mismatched: set[tuple[str, Any, Any]],
    fix: str = COPY_OR_FIX_CONFIG,
) -> None:
    """Raise DemotuneError where a model's files and its config do not name the same weights in the same shapes."""
    shapes = {f"{name} is {list(has)}, asked for {list(asked)}" for name, has, asked in mismatched}
    wrong = [
        f"{what} {', '.join(sorted(names)[:NAMED])}" + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
        for what, names in (("missing:", missing), ("not asked for:", unexpected), ("of another shape:", shapes))
        if names
    ]
    if wrong:
        raise DemotuneError(
            f"the weights in {folder} are not those that its config asks for ({'; '.join(wrong)}); {fix}"
        )


def _check_depth(config: PretrainedConfig, folder: Path) -> None:
    """More layers than there are tensors: the model would be built layer by layer, however many a torn config asks."""
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    tensors = sum(len(tensor_shapes(file)) for file in folder.glob("*.safetensors"))
    if isinstance(layers, int) and layers > tensors:
        raise DemotuneError(
            f"the weights in {folder} are not those that its config asks for: {layers} layers, and there are "
            f"{tensors} tensors; {COPY_OR_FIX_CONFIG}"
        )
