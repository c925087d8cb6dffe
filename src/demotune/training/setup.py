"""What all stages of a run share: config, model folder, tokenizer, rows, device; nothing in it changes."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from peft import PeftConfig
from transformers import PreTrainedTokenizerBase, TrainerCallback

from demotune.common.processes import this_device
from demotune.common.profiling import timed
from demotune.config.methods import AnyConfig
from demotune.data.rendering import Renderer
from demotune.models.files import is_adapter
from demotune.models.policy import Policy, attach_adapter, content_hash, load_policy, merged
from demotune.models.reward import RewardModel, load_reward_model
from demotune.records import RenderedDemonstration
from demotune.runs.folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A prepared run. `config` has its automatic values (precision, attention, sample length) filled in."""

    config: AnyConfig
    folder: RunFolder
    start_model: Path
    tokenizer: PreTrainedTokenizerBase
    renderer: Renderer
    train: tuple[RenderedDemonstration, ...]
    heldout: tuple[RenderedDemonstration, ...]
    prompts: tuple[tuple[int, ...], ...]
    """Token ids of further prompts, without demonstrations (RFT)."""
    data_hashes: dict[str, str]
    adapter: PeftConfig | None
    callbacks: tuple[TrainerCallback, ...]

    @property
    def bf16(self) -> bool:
        return bool(self.config.bf16)

    @property
    def float32(self) -> bool:
        """Whether models compute in float32 all through, so that what stands beside a row moves it by rounding only."""
        return not self.bf16 and self.config.dtype == "float32"

    @cached_property
    def start_hash(self) -> str:
        """Content hash of the start model, read once."""
        return content_hash(self.start_model)

    def policy_folder(self, stage: int) -> Path:
        """Where the policy lies that stage `stage` starts from: pi_t of the paper."""
        return self.folder.stage(stage - 1) / "model" if stage else self.start_model

    def load(self, folder: Path) -> Policy:
        """A policy as the run trains it: with its adapter when the run uses one, as one plain model when not."""
        policy = self.load_as_it_is(folder)
        if self.adapter is None:
            return merged(policy)
        return policy if is_adapter(folder) else attach_adapter(policy, self.adapter, self.seed(0, "adapter"))

    @timed("files")
    def load_as_it_is(self, folder: Path) -> Policy:
        """A policy in the run's precision and attention, on its device."""
        return load_policy(
            folder,
            dtype=self.config.dtype,
            attn_implementation=self.config.attn_implementation,
            device=this_device(),
        )

    @timed("files")
    def load_reward(self, folder: Path, share: Policy | None) -> RewardModel:
        """A reward model likewise; with `share` an adapter's base weights are those of that policy."""
        return load_reward_model(
            folder,
            dtype=self.config.dtype,
            attn_implementation=self.config.attn_implementation,
            device=this_device(),
            share=share,
        )

    def seed(self, stage: int, purpose: str) -> int:
        """A seed of its own for each use of randomness, from the run's seed."""
        return derive_seed(self.config.seed, stage, purpose)


def derive_seed(seed: int, stage: int, purpose: str) -> int:
    """31 bits from a hash of the three, so that no two uses share a stream of random numbers."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{stage}/{purpose}".encode()).digest()[:4]) >> 1


def free_memory() -> None:
    """Give cached accelerator memory back after a model was dropped."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
