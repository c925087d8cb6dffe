"""Load and save policies. A model is a local folder of safetensors, known by a hash of its content."""

import copy
import hashlib
import math
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from demotune.common.errors import DemotuneError, first_line, no_such_model
from demotune.common.files import cache_folder, file_hash, publish_folder
from demotune.common.profiling import timed
from demotune.models.adapters import load_adapter_on
from demotune.models.attention import ATTENTION, carries_layouts, register_attention
from demotune.models.gguf import convert_gguf
from demotune.models.kernels import placement
from demotune.models.model_folder import (
    ADAPTER_CONFIG,
    check_files,
    check_weights,
    is_adapter,
    load_whole,
    read_config,
    read_object,
    reading,
    tensor_shapes,
)
from demotune.runs.folder import RunFolder

Policy = PreTrainedModel | PeftModel
HUB_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
LANGUAGE_MODEL = "a causal language model"


def resolve_model(source: str) -> Path:
    """The local folder of a model: a folder itself, a finished run's model, a GGUF file or a hub id fetched once.

    Raises DemotuneError when nothing is found there, for an unfinished run, and for a folder that is not whole.
    """
    path = Path(source).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        hide_library_bars()
        return convert_gguf(path, cache_folder())
    if path.is_file():
        raise DemotuneError(f"{source} is a file; give the folder that holds the model, or a GGUF file")
    run = RunFolder(path)
    folder = run.finished_model() if run.holds_run else path if path.is_dir() else _download(source)
    check_files(folder, source)
    return folder.resolve()


def refuse_broken_policy(folder: Path) -> None:
    """Raise DemotuneError unless `folder` holds a causal language model, every weight of it; none is read."""
    hide_library_bars()
    base = check_weights(AutoModelForCausalLM, resolve_base(folder) if is_adapter(folder) else folder, LANGUAGE_MODEL)
    if is_adapter(folder):
        with torch.random.fork_rng(range(torch.cuda.device_count())):  # an adapter starts with random numbers
            load_adapter_on(base, folder)


def load_policy(
    folder: Path, *, dtype: str, attn_implementation: str | None, device: torch.device, load_in_4bit: bool = False
) -> Policy:
    """A causal language model ready to train, on `device`, without dropout.

    Attention None is our own (see `attention`) where the architecture carries it, else transformers' "sdpa" or "eager".

    A folder with a LoRA adapter loads its base model and the adapter, which stays trainable. Dropout is off
    because the reference is scored once: a policy that forgets at random would not start a stage at its reference.
    """
    hide_library_bars()
    model: Policy
    if is_adapter(folder):
        base = load_policy(
            resolve_base(folder),
            dtype=dtype,
            attn_implementation=attn_implementation,
            device=device,
            load_in_4bit=load_in_4bit,
        )
        model = load_adapter_on(cast(PreTrainedModel, base), folder, trainable=True)
    else:
        placed = placement(device, load_in_4bit=load_in_4bit)
        model = with_attention(AutoModelForCausalLM, folder, dtype, attn_implementation, placed, what=LANGUAGE_MODEL)
        train_every_embedding(model)
    switch_off_dropout(model)
    return cast(Policy, on_device(cast(nn.Module, model), folder, device))


def with_attention(
    auto_class: Any,
    folder: Path,
    dtype: str,
    attn_implementation: str | None,
    placed: dict[str, Any],
    *,
    what: str,
    **settings: Any,
) -> PreTrainedModel:
    """What `auto_class` loads from safetensors, every weight of it, with the attention that is asked for.

    None is our own (see `attention`) where the architecture carries it, else transformers' choice, which needs padding.
    """
    check_weights(auto_class, folder, what, **settings)
    register_attention()
    settings |= {"dtype": getattr(torch, dtype), **placed}
    with reading(folder, what, "copy or save the folder again; it may also need another --attn-implementation"):
        if attn_implementation is None:
            with suppress(ValueError, KeyError):  # some architectures refuse any attention but a few
                model = load_whole(auto_class, folder, attn_implementation=ATTENTION, **settings)
                if carries_layouts(model):
                    return model
        return load_whole(auto_class, folder, attn_implementation=attn_implementation, **settings)


def on_device(model: nn.Module, folder: Path, device: torch.device) -> nn.Module:
    """The model where it computes. Raises DemotuneError where the device has not the memory for it."""
    with reading(folder, f"a model on {device}"):
        return model.to(device)


def longest_input(folder: Path) -> int | None:
    """Most positions the model has, in tokens; None where it has no limit or names none."""
    if is_adapter(folder):
        return longest_input(resolve_base(folder))
    limit = getattr(read_config(folder).get_text_config(), "max_position_embeddings", None)
    if limit is not None and (not isinstance(limit, int) or limit < 0):
        raise DemotuneError(f"{folder / 'config.json'} says max_position_embeddings {limit!r}; write the number it has")
    return limit or None


def attach_adapter(policy: Policy, adapter: PeftConfig, seed: int) -> PeftModel:
    """Put a new adapter on a policy; its random start depends on `seed` alone. The policy computes as before."""
    torch.manual_seed(seed)
    try:
        model = get_peft_model(cast(PreTrainedModel, policy), adapter)
    except ValueError as error:
        raise DemotuneError(f"the adapter does not fit the model: {first_line(error)}") from error
    switch_off_dropout(model)
    return cast(PeftModel, model)


def lora_config(rank: int, alpha: int, targets: tuple[str, ...]) -> LoraConfig:
    """LoRA as asked for on the command line."""
    modules = "all-linear" if targets == ("all-linear",) else list(targets)
    return LoraConfig(r=rank, lora_alpha=alpha, target_modules=modules, lora_dropout=0.0, task_type="CAUSAL_LM")


def merged(policy: Policy) -> PreTrainedModel:
    """The policy as one plain model: an adapter is folded into its base."""
    if not isinstance(policy, PeftModel):
        return policy
    return cast(PreTrainedModel, policy.merge_and_unload().requires_grad_(True))  # peft had frozen the base


def weight_sharing_base(policy: PeftModel) -> PreTrainedModel:
    """The policy's base model, without its adapter, as a model of its own around the very same weights."""
    twin: PeftModel = copy.deepcopy(policy, {id(weight): weight for weight in policy.parameters()})
    return cast(PreTrainedModel, twin.unload())


@timed("files")
def save_policy(
    policy: Policy, tokenizer: PreTrainedTokenizerBase, folder: Path, weights: dict[str, Tensor] | None = None
) -> None:
    """Write model and tokenizer to `folder`, which appears whole or not at all; of a sharded model its full weights."""
    with publish_folder(folder) as unfinished:
        save_weights(policy, unfinished, weights)
        tokenizer.save_pretrained(unfinished)


def save_weights(model: Policy, folder: Path, weights: dict[str, Tensor] | None = None) -> None:
    """Weights and configs as safetensors and JSON; the same model gives the same bytes."""
    if isinstance(model, PeftModel):
        for config in model.peft_config.values():
            targets = getattr(config, "target_modules", None)
            if isinstance(targets, set):  # written in its order, which changes from process to process
                vars(config)["target_modules"] = sorted(targets)
    model.save_pretrained(str(folder), state_dict=weights)


@timed("files")
def content_hash(folder: Path) -> str:
    """sha256 over the names and bytes of a model folder's weights, configs and tokenizer; of the base too for LoRA."""
    digest = hashlib.sha256()
    for file in sorted(p for pattern in HUB_FILES for p in folder.glob(pattern) if p.is_file()):
        digest.update(file.name.encode())
        digest.update(bytes.fromhex(file_hash(file)))
    if is_adapter(folder):
        digest.update(content_hash(resolve_base(folder)).encode())
    return digest.hexdigest()


def parameter_count(folder: Path) -> int:
    """Numbers in a model's safetensors files; of an adapter, with those of its base."""
    shapes = [shape for file in folder.glob("*.safetensors") for shape in tensor_shapes(file).values()]
    count = sum(map(math.prod, shapes))
    return count + parameter_count(resolve_base(folder)) if is_adapter(folder) else count


def resolve_base(adapter_folder: Path) -> Path:
    """The folder of the model that an adapter was trained on. Raises DemotuneError that names the adapter."""
    file = adapter_folder / ADAPTER_CONFIG
    named = read_object(file).get("base_model_name_or_path")
    if not named or not isinstance(named, str):
        raise DemotuneError(f"{file} names no base model ({named!r}); write its folder or hub id there")
    if (Path(named) / ADAPTER_CONFIG).is_file():
        raise DemotuneError(
            f"the adapter in {adapter_folder} was trained on {named}, which is an adapter too; merge {named} into its "
            "base model first"
        )
    try:
        return resolve_model(named)
    except DemotuneError as error:
        raise DemotuneError(
            f"the adapter in {adapter_folder} was trained on {named}, and there: {error}; or write where its base is "
            f"as base_model_name_or_path into {file}"
        ) from error


def _download(source: str) -> Path:
    try:
        return Path(snapshot_download(source, allow_patterns=list(HUB_FILES)))
    except HFValidationError as error:
        raise no_such_model(source) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise DemotuneError(
            f"model {source!r} is no folder or GGUF file here, and the hub did not give it: {first_line(error)}; "
            "check the path or the hub id, or give a folder that holds the model"
        ) from error


def train_every_embedding(model: PreTrainedModel) -> None:
    """An embedding drops the gradient of its padding index; where pad = end-of-turn, that token would never learn."""
    model.get_input_embeddings().padding_idx = None  # type: ignore[assignment]


def switch_off_dropout(model: nn.Module) -> None:
    """No random forgetting: what is scored once must be what is trained."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "activation_dropout", "dropout"):  # functional dropout keeps a number
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def hide_library_bars() -> None:
    """Progress is ours to show."""
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
