"""Load and save policies. A model is a local folder of safetensors, known by a hash of its content."""

import copy
import hashlib
import json
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from safetensors import safe_open
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from demotune.attention import ATTENTION, carries_layouts, register_attention
from demotune.errors import DemotuneError
from demotune.files import publish_folder
from demotune.profiling import timed

Policy = PreTrainedModel | PeftModel
ADAPTER_CONFIG = "adapter_config.json"
HUB_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")


def cache_folder() -> Path:
    """Where converted models are kept: $DEMOTUNE_CACHE, else demotune/ in the user's cache."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("DEMOTUNE_CACHE") or Path(root) / "demotune")


def resolve_model(source: str) -> Path:
    """The local folder of a model: a folder as it is, a GGUF file converted once, a hub id downloaded once.

    Raises DemotuneError when nothing is found there, or when it holds no safetensors.
    """
    path = Path(source).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return _convert_gguf(path)
    folder = path if path.is_dir() else _download(source)
    if not any(folder.glob("*.safetensors")):
        raise DemotuneError(
            f"{source} holds no safetensors file; convert it once with "
            "AutoModelForCausalLM.from_pretrained(...).save_pretrained(FOLDER) and give that folder"
        )
    return folder.resolve()


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer beside the model. Raises DemotuneError where there is none."""
    try:
        return cast(PreTrainedTokenizerBase, AutoTokenizer.from_pretrained(folder))
    except (OSError, ValueError) as error:
        raise DemotuneError(
            f"{folder} has no tokenizer that transformers can load ({first_line(error)}); "
            "save the model's tokenizer into that folder with tokenizer.save_pretrained(FOLDER)"
        ) from error


def load_policy(folder: Path, *, dtype: str, attn_implementation: str | None, device: torch.device) -> Policy:
    """A causal language model ready to train, on `device`, without dropout.

    Attention None is our own (see `attention`) where the architecture carries it, else transformers' "sdpa" or "eager".

    A folder with a LoRA adapter loads its base model and the adapter, which stays trainable. Dropout is off
    because the reference is scored once: a policy that forgets at random would not start a stage at its reference.
    """
    hide_library_bars()
    model: Policy
    if (folder / ADAPTER_CONFIG).is_file():
        base = load_policy(resolve_base(folder), dtype=dtype, attn_implementation=attn_implementation, device=device)
        model = PeftModel.from_pretrained(base, folder, is_trainable=True)
    else:
        try:
            plain = with_attention(AutoModelForCausalLM, folder, dtype, attn_implementation)
        except (OSError, ValueError, ImportError) as error:
            raise DemotuneError(f"cannot load {folder} as a causal language model: {first_line(error)}") from error
        train_every_embedding(plain)
        model = plain
    switch_off_dropout(model)
    return cast(Policy, cast(nn.Module, model).to(device))


def with_attention(
    auto_class: Any, folder: Path, dtype: str, attn_implementation: str | None, **settings: Any
) -> PreTrainedModel:
    """What `auto_class` loads from safetensors, with the attention that is asked for.

    None is our own (see `attention`) where the architecture carries it, else transformers' choice, which needs padding.
    """
    register_attention()
    settings |= {"dtype": getattr(torch, dtype), "use_safetensors": True}
    if attn_implementation is None:
        with suppress(ValueError):  # some architectures refuse any attention but a few
            model: PreTrainedModel = auto_class.from_pretrained(folder, attn_implementation=ATTENTION, **settings)
            if carries_layouts(model):
                return model
    return cast(
        PreTrainedModel, auto_class.from_pretrained(folder, attn_implementation=attn_implementation, **settings)
    )


def load_adapter_on(base: PreTrainedModel, folder: Path) -> PeftModel:
    """The adapter in `folder` on a base model that is in memory already."""
    return PeftModel.from_pretrained(base, folder)


def is_adapter(folder: Path) -> bool:
    return (folder / ADAPTER_CONFIG).is_file()


def longest_input(folder: Path) -> int | None:
    """Most positions the model has, in tokens; None where it has no limit or names none."""
    if is_adapter(folder):
        return longest_input(resolve_base(folder))
    limit = getattr(AutoConfig.from_pretrained(folder).get_text_config(), "max_position_embeddings", None)
    return int(limit) if limit else None


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
def save_policy(policy: Policy, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write model and tokenizer to `folder`, which appears whole or not at all."""
    with publish_folder(folder) as unfinished:
        save_weights(policy, unfinished)
        tokenizer.save_pretrained(unfinished)


def save_weights(model: Policy, folder: Path) -> None:
    """Weights and configs as safetensors and JSON; the same model gives the same bytes."""
    if isinstance(model, PeftModel):
        for config in model.peft_config.values():
            targets = getattr(config, "target_modules", None)
            if isinstance(targets, set):  # written in its order, which changes from process to process
                vars(config)["target_modules"] = sorted(targets)
    model.save_pretrained(str(folder))


@timed("files")
def content_hash(folder: Path) -> str:
    """sha256 over the names and bytes of a model folder's weights, configs and tokenizer; of the base too for LoRA."""
    digest = hashlib.sha256()
    for file in sorted(p for pattern in HUB_FILES for p in folder.glob(pattern) if p.is_file()):
        digest.update(file.name.encode())
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    if is_adapter(folder):
        digest.update(content_hash(resolve_base(folder)).encode())
    return digest.hexdigest()


def parameter_count(folder: Path) -> int:
    """Numbers in a model's safetensors files; of an adapter, with those of its base."""
    count = 0
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            count += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return count + parameter_count(resolve_base(folder)) if is_adapter(folder) else count


def generation_stop_ids(folder: Path) -> tuple[int, ...]:
    """End tokens that the model's generation config names, beside the tokenizer's own."""
    if is_adapter(folder):
        return generation_stop_ids(resolve_base(folder))
    if not (folder / "generation_config.json").is_file():
        return ()
    named = GenerationConfig.from_pretrained(folder).eos_token_id
    return () if named is None else tuple(named) if isinstance(named, list) else (named,)


def resolve_base(adapter_folder: Path) -> Path:
    """The folder of the model that an adapter was trained on."""
    config = json.loads((adapter_folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    return resolve_model(str(config["base_model_name_or_path"]))


def _download(source: str) -> Path:
    try:
        return Path(snapshot_download(source, allow_patterns=list(HUB_FILES)))
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError) as error:
        raise DemotuneError(
            f"model {source!r} is no folder or GGUF file here, and the hub did not give it: {first_line(error)}; "
            "check the path or the hub id, or give a folder that holds the model"
        ) from error


def _convert_gguf(file: Path) -> Path:
    """GGUF -> an ordinary float32 folder in the cache, named by the file's content."""
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    folder = cache_folder() / "models" / f"{file.stem}-{digest[:12]}"
    if folder.is_dir():
        return folder
    hide_library_bars()
    try:
        loaded = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except (OSError, ValueError, ImportError) as error:
        raise DemotuneError(f"cannot read {file} as GGUF: {first_line(error)}") from error
    # The loaded model is marked as quantised and refuses to be saved; its weights are plain float32.
    config = loaded.config
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    save_policy(model, tokenizer, folder)
    return folder


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


def first_line(error: Exception) -> str:
    """What a library says went wrong, without its page of advice."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
