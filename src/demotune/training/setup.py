"""A prepared run: what its phases read, and how they load models and draw."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

from peft import PeftConfig
from torch import nn
from transformers import PreTrainedTokenizerBase, TrainerCallback

from demotune.common.processes import process_count, this_device
from demotune.common.profiling import timed
from demotune.config.methods import AnyConfig
from demotune.data.rendered_rows import RenderedRows
from demotune.data.rendering import Renderer
from demotune.models.adapters import adapter_rank
from demotune.models.kernels import use_liger_layers
from demotune.models.model_folder import is_adapter
from demotune.models.policy import Policy, attach_adapter, content_hash, load_policy, merged
from demotune.models.reward import RewardModel, load_reward_model
from demotune.rewards.answer_only import AnswerMarker, find_marker
from demotune.runs.folder import RunFolder
from demotune.sampling import Engine, Sampler, choose_sampler, engine_for


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A prepared run. `config` has its automatic values (precision, attention, sample length) filled in."""

    config: AnyConfig
    folder: RunFolder
    start_model: Path
    tokenizer: PreTrainedTokenizerBase
    renderer: Renderer
    train: RenderedRows
    heldout: RenderedRows
    prompts: tuple[tuple[int, ...], ...]
    """Token ids of further prompts, without demonstrations (RFT)."""
    data_hashes: dict[str, str]
    adapter: PeftConfig | None
    callbacks: tuple[TrainerCallback, ...]
    base_model: Path | None = None
    """The model before SFT, where the reward learns from its samples."""
    begun_by: int | None = None
    """How many processes began the run that goes on; None where these begin it."""

    @property
    def processes(self) -> int:
        """How many processes a step is cut for: those that began the run."""
        return self.begun_by or process_count()

    @property
    def bf16(self) -> bool:
        return bool(self.config.bf16)

    @property
    def float32(self) -> bool:
        """Whether models compute in float32 throughout: then a row moves with its batch by rounding only."""
        return not self.bf16 and self.config.dtype == "float32"

    @property
    def samples_per_prompt(self) -> int:
        """M, how many samples each demonstration gets in a stage."""
        return self.config.samples_per_prompt or 1

    @cached_property
    def answer_marker(self) -> AnswerMarker | None:
        """Where answers begin; None where whole responses are judged."""
        return find_marker(self.tokenizer, self.config.answer_after, self.renderer.end_id)

    @cached_property
    def start_hash(self) -> str:
        """Content hash of the start model, read once."""
        return content_hash(self.start_model)

    def policy_folder(self, stage: int) -> Path:
        """The folder of the policy that stage `stage` starts from: pi_t of the paper."""
        return self.folder.stage(stage - 1) / "model" if stage else self.start_model

    def load(self, folder: Path) -> Policy:
        """A policy as the run trains it: with its adapter when the run uses one, as one plain model when not."""
        policy = self.load_policy_unmerged(folder)
        if self.adapter is None:
            return merged(policy)
        return policy if is_adapter(folder) else attach_adapter(policy, self.adapter, self.seed(0, "adapter"))

    def sampler(self, policy: Callable[[], Policy], name: str = "the policy") -> Sampler:
        """What draws from a policy, which is loaded when something is to be drawn; `name` is for messages."""
        return choose_sampler(self.engine, policy, name, slots=self.config.sample_batch_size)

    @cached_property
    def engine(self) -> Engine | None:
        """The servers that draw; None where this process does."""
        return engine_for(
            self.config,
            self.folder.root,
            model=self.start_model,
            lora_rank=None if self.adapter is None else adapter_rank(self.start_model) or self.config.lora_r,
            longest=self.config.max_length,
            rows=self.config.sample_batch_size,
            bf16=not self.float32,
        )

    def close(self) -> None:
        """End the server that the run started, if any."""
        if self.engine is not None:
            self.engine.close()

    @timed("files")
    def load_policy_unmerged(self, folder: Path) -> Policy:
        """A policy in the run's precision and attention, on its device; one with an adapter keeps it apart."""
        policy = load_policy(
            folder,
            dtype=self.config.dtype,
            attn_implementation=self.config.attn_implementation,
            device=this_device(),
            load_in_4bit=self.config.load_in_4bit,
        )
        return self._with_kernels(policy)

    @timed("files")
    def load_reward(self, folder: Path, share: Policy | None) -> RewardModel:
        """A reward model likewise; with `share` an adapter's base weights are those of that policy."""
        reward = load_reward_model(
            folder,
            dtype=self.config.dtype,
            attn_implementation=self.config.attn_implementation,
            device=this_device(),
            share=share,
        )
        return self._with_kernels(reward)

    def _with_kernels(self, model: Policy) -> Policy:
        if self.config.use_liger_kernel:
            use_liger_layers(cast(nn.Module, model))
        return model

    def seed(self, stage: int, purpose: str) -> int:
        """A seed of its own for each use of randomness, from the run's seed."""
        return derive_seed(self.config.seed, stage, purpose)


def derive_seed(seed: int, stage: int, purpose: str) -> int:
    """31 bits from a hash of the three, so that no two uses share a stream of random numbers."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{stage}/{purpose}".encode()).digest()[:4]) >> 1
