"""Scalar reward models: a backbone with a head of one number, made from a policy or loaded, scored, saved.

They are ordinary transformers sequence classifiers with one label, which read a prompt and a response and judge at
the last token. transformers finds that token by its id: the rightmost one that is not padding. So padding must never be
the end-of-turn token, which many tokenizers make it; `padding_id` chooses another.
"""

import copy
import re
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from demotune.common.errors import DemotuneError
from demotune.common.files import publish_folder, write_json
from demotune.common.json_records import as_json
from demotune.models.adapters import load_adapter_on
from demotune.models.kernels import placement
from demotune.models.model_folder import (
    ADAPTER_CONFIG,
    check_weights,
    is_adapter,
    read_config,
    read_object,
    read_tensor,
)
from demotune.models.policy import (
    Policy,
    attach_adapter,
    hide_library_bars,
    load_policy,
    merged,
    on_device,
    refuse_broken_policy,
    resolve_base,
    resolve_model,
    save_weights,
    switch_off_dropout,
    train_every_embedding,
    weight_sharing_base,
    with_attention,
)
from demotune.models.reward_facts import FACTS, RewardFacts
from demotune.models.tokenizers import load_tokenizer
from demotune.runs.folder import RunFolder

RewardModel = PreTrainedModel | PeftModel
CLASSIFIER = "a sequence classifier with one label"
_LAYER = re.compile(r"\.(?:layers|layer|h|blocks)\.(\d+)\.")
_EMBEDDING = re.compile(r"\.(?:\w*embed\w*|wte|wpe)\.")


class _ExactHead(nn.Linear):
    """A linear head in its own precision under bfloat16 autocast, which would leave a reward three digits."""

    def forward(self, hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return super().forward(hidden.to(self.weight.dtype))

    @staticmethod
    def of(head: nn.Linear) -> "_ExactHead":
        """The same weights as such a head."""
        exact = _ExactHead(head.in_features, head.out_features, bias=head.bias is not None, device="meta")
        exact.weight, exact.bias = head.weight, head.bias
        return exact


def padding_id(tokenizer: PreTrainedTokenizerBase, stop_ids: Iterable[int]) -> int:
    """A token id to pad with that no finished response ends with."""
    ends = set(stop_ids)
    candidates = (tokenizer.pad_token_id, tokenizer.unk_token_id, *tokenizer.all_special_ids, *range(len(ends) + 1))
    return int(next(token_id for token_id in candidates if token_id is not None and token_id not in ends))


def reward_from_policy(policy: Policy, pad_id: int) -> RewardModel:
    """A reward model that starts from the policy's weights, with a head of zeros: every reward is exactly 0.

    A policy with a LoRA adapter shares its base weights with the reward, which gets an adapter of its own that starts
    as a copy of the policy's. A plain policy gives its weights away: do not use it afterwards.
    """
    if not isinstance(policy, PeftModel):
        return _with_head(policy, pad_id)
    config = _for_rewards(policy.peft_config[policy.active_adapter])
    reward = cast(PeftModel, get_peft_model(_with_head(weight_sharing_base(policy), pad_id), config))
    set_peft_model_state_dict(reward, get_peft_model_state_dict(reward) | get_peft_model_state_dict(policy))
    switch_off_dropout(reward)
    return reward


def load_reward_model(
    folder: Path, *, dtype: str, attn_implementation: str | None, device: torch.device, share: Policy | None = None
) -> RewardModel:
    """A reward model from a folder, ready to train or to score, without dropout.

    Attention None is our own where the architecture carries it, else transformers' "sdpa" or "eager".

    With `share`, a policy with an adapter on the same base, an adapter's base weights are the policy's own. Raises
    DemotuneError when the model has not exactly one label.
    """
    hide_library_bars()
    if is_adapter(folder):
        if isinstance(share, PeftModel):
            base = _with_head(weight_sharing_base(share), _adapter_padding(folder))
        else:
            base = _load_base(folder, dtype=dtype, attn_implementation=attn_implementation, device=device)
        model: RewardModel = load_adapter_on(base, folder, trainable=True)
    else:
        check_labels(folder)
        plain = with_attention(
            AutoModelForSequenceClassification,
            folder,
            dtype,
            attn_implementation,
            placement(device),
            what=CLASSIFIER,
            num_labels=1,
        )
        train_every_embedding(plain)
        if isinstance(getattr(plain, "score", None), nn.Linear):
            plain.score = _ExactHead.of(cast(nn.Linear, plain.score))
        model = plain
    switch_off_dropout(model)
    return cast(RewardModel, on_device(cast(nn.Module, model), folder, device))


def _load_base(adapter: Path, *, dtype: str, attn_implementation: str | None, device: torch.device) -> PreTrainedModel:
    """The base of a reward's adapter: a classifier, or a language model under a head of zeros."""
    folder, pad_id = resolve_base(adapter), _adapter_padding(adapter)
    load = load_reward_model if is_reward_model(folder) else load_policy
    base = load(folder, dtype=dtype, attn_implementation=attn_implementation, device=device)
    if not is_reward_model(folder):
        return _with_head(merged(base), pad_id)
    return cast(PreTrainedModel, with_padding(base, pad_id))


def saved_head_on(lm: PreTrainedModel, folder: Path, pad_id: int) -> PreTrainedModel:
    """The head of the reward in `folder` on a language model that has the reward's own weights, which are not read."""
    model = _with_head(lm, pad_id)
    with torch.no_grad():
        cast(nn.Linear, model.score).weight.copy_(read_tensor(folder, "score.weight"))
    return model


def is_reward_model(folder: Path) -> bool:
    """Whether a folder holds a sequence classifier (a reward) rather than a language model."""
    if is_adapter(folder):
        return bool(read_object(folder / ADAPTER_CONFIG).get("task_type") == "SEQ_CLS")
    architectures = read_config(folder).architectures or []
    return any(str(name).endswith("ForSequenceClassification") for name in architectures)


def check_labels(folder: Path) -> None:
    """Raise DemotuneError for a sequence classifier with another number of labels than one."""
    labels = read_config(folder).num_labels
    if is_reward_model(folder) and labels != 1:
        raise DemotuneError(f"{folder} has {labels} labels; a reward has one number: give a model with one label")


def check_reward_start(folder: Path) -> None:
    """Raise DemotuneError unless a reward can start from `folder`: from a classifier or a language model, whole ones.

    No weight is read. How an adapter fits under a head shows when it is loaded.
    """
    if not is_reward_model(folder):
        refuse_broken_policy(folder)
    elif is_adapter(folder):
        check_reward_start(resolve_base(folder))
    else:
        check_labels(folder)
        check_weights(AutoModelForSequenceClassification, folder, CLASSIFIER, num_labels=1)


def resolve_reward(source: str) -> Path:
    """The folder of a reward model to start from; of a run that learned one, that reward.

    Raises DemotuneError for a run of sft: its reward is a log-ratio, and a policy that is trained on it collapses.
    """
    run = RunFolder(Path(source))
    if run.holds_run and run.read_config().learned_reward == "none":
        raise DemotuneError(
            f"reward_model {source} is an SFT run, whose log-ratio ranks responses, but collapses under reinforcement "
            "learning: the policy learns to write what SFT made likelier, not what is better. Rank with it (demotune "
            f"sample --best-of, select), or start the reward at its weights with --reward-model {run.model}"
        )
    return resolve_model(str(run.reward) if run.holds_run and run.reward.is_dir() else source)


def with_padding(model: RewardModel, pad_id: int) -> RewardModel:
    """Make the model's last token the one before this padding."""
    model.config.get_text_config().pad_token_id = pad_id
    return model


def tokenizer_for(model: RewardModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer with the model's padding. transformers' Trainer sets a model's padding to that of its tokenizer."""
    padded = copy.deepcopy(tokenizer)
    padded.pad_token_id = model.config.get_text_config().pad_token_id
    return padded


def with_adapter(model: RewardModel, adapter: PeftConfig, seed: int) -> RewardModel:
    """The reward model under a new adapter; its rewards stay the same."""
    return model if isinstance(model, PeftModel) else attach_adapter(model, _for_rewards(adapter), seed)


def freeze_lower_layers(model: RewardModel, count: int) -> None:
    """Keep embeddings and the `count` lowest layers as they are. Raises DemotuneError when there are not more."""
    if count == 0:
        return
    layers = {int(found[1]) for name, _ in model.named_parameters() if (found := _LAYER.search(name))}
    if count >= len(layers):
        raise DemotuneError(f"reward_frozen_layers is {count}, the reward has {len(layers)} layers; freeze fewer")
    for name, weight in model.named_parameters():
        found = _LAYER.search(name)
        if _EMBEDDING.search(name) if found is None else int(found[1]) < count:
            weight.requires_grad_(False)


def save_reward_model(
    model: RewardModel,
    tokenizer: PreTrainedTokenizerBase,
    facts: RewardFacts,
    folder: Path,
    card: str,
    *,
    weights: dict[str, Tensor] | None = None,
) -> None:
    """Write model, tokenizer, facts and model card to `folder`, which appears whole or not at all.

    `weights` are the full ones of a sharded model.
    """
    with publish_folder(folder) as unfinished:
        save_weights(model, unfinished, weights)
        tokenizer_for(model, tokenizer).save_pretrained(unfinished)
        write_json(unfinished / FACTS, as_json(facts))
        (unfinished / "README.md").write_text(card, encoding="utf-8")


def _with_head(lm: PreTrainedModel, pad_id: int) -> PreTrainedModel:
    """The language model's backbone, not a copy, under a head of zeros."""
    config = copy.deepcopy(lm.config)
    config.num_labels = 1
    config.get_text_config().pad_token_id = pad_id
    try:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)  # type: ignore[no-untyped-call]
    except ValueError as error:
        raise DemotuneError(
            f"transformers has no sequence classifier for {type(lm).__name__}, so it cannot carry a reward; "
            "give another --reward-model"
        ) from error
    prefix = model.base_model_prefix
    setattr(model, prefix, lm.base_model)
    weight = next(lm.parameters())
    for name, head in model.named_children():
        if name != prefix:
            zeros = nn.Linear(cast(nn.Linear, head).in_features, 1, bias=False, dtype=weight.dtype)
            nn.init.zeros_(zeros.weight)
            setattr(model, name, _ExactHead.of(zeros.to(weight.device)))
    model.name_or_path = lm.name_or_path
    return model


def _for_rewards(adapter: PeftConfig) -> PeftConfig:
    adapter = copy.deepcopy(adapter)
    adapter.task_type = "SEQ_CLS"
    return adapter


def _adapter_padding(folder: Path) -> int:
    """The padding that `save_reward_model` wrote into the tokenizer beside an adapter, which has no model config."""
    pad_id = load_tokenizer(folder).pad_token_id
    if pad_id is None:
        raise DemotuneError(f"the tokenizer in {folder} has no pad token; set pad_token in its tokenizer_config.json")
    return int(cast(int, pad_id))
