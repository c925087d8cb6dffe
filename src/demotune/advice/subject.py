"""The model that advice is asked about, and its rows, divided as a run of the same data would divide them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from demotune.common.errors import DemotuneError
from demotune.common.machine import computes_in_bf16
from demotune.common.processes import this_device
from demotune.common.progress import say
from demotune.config.commands import AdviseConfig
from demotune.config.field import fields_of
from demotune.config.methods import RFTConfig
from demotune.data.intake import prepare
from demotune.data.rendering import Renderer
from demotune.models.policy import content_hash, load_policy, longest_input, merged, refuse_broken_policy, resolve_model
from demotune.models.reward import padding_id
from demotune.models.tokenizers import generation_stop_ids, load_tokenizer
from demotune.records import RenderedDemonstration
from demotune.sampling import SamplingOptions
from demotune.training.early_checks import check_positions
from demotune.training.prepare import further_prompts

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is measured. `config` has its automatic values filled in."""

    config: AdviseConfig
    folder: Path
    tokenizer: PreTrainedTokenizerBase
    renderer: Renderer
    demonstrations: int
    """Rows that a run would train on."""
    train: tuple[RenderedDemonstration, ...]
    """Of these, those that are measured."""
    heldout: tuple[RenderedDemonstration, ...]
    prompts: tuple[tuple[int, ...], ...]
    """Token ids of further prompts."""
    data_hashes: dict[str, str]

    @cached_property
    def policy(self) -> PreTrainedModel:
        """The model, loaded when it is first asked for."""
        policy = load_policy(self.folder, dtype=self.config.dtype, attn_implementation=None, device=this_device())
        return merged(policy)

    @cached_property
    def hash(self) -> str:
        """Content hash of the model."""
        return content_hash(self.folder)

    @property
    def bf16(self) -> bool:
        return bool(self.config.bf16)

    @property
    def pad_id(self) -> int:
        """What a reward on this model is padded with."""
        return padding_id(self.tokenizer, self.renderer.stop_ids)

    def options(self, temperature: float) -> SamplingOptions:
        """As a run would draw."""
        return SamplingOptions(
            max_new_tokens=self.config.max_new_tokens or 1,
            max_length=self.config.max_length,
            stop_ids=self.renderer.stop_ids,
            vocabulary=self.renderer.vocabulary,
            temperature=temperature,
            bf16=self.bf16,
        )


def prepare_subject(config: AdviseConfig, quarantine: Path | None) -> Subject:
    """Find the model and read the rows. Raises DemotuneError as a run would.

    quarantine: where bad rows are written.
    """
    folder = resolve_model(config.model)
    refuse_broken_policy(folder)
    tokenizer = load_tokenizer(folder)
    run = run_config(config)
    check_positions(run, tokenizer, longest_input(folder))
    renderer = Renderer(tokenizer, config.template, generation_stop_ids(folder))
    intake = prepare(run, renderer, quarantine)
    prompts = further_prompts(run, renderer, intake)
    for note in intake.notes:
        say(f"  {note}")
    if not intake.heldout:
        raise DemotuneError(
            f"no row of {len(intake.train)} is held out, so nothing can be measured; give --eval-data, or a larger "
            "--eval-share"
        )
    longest = int(intake.train.response_lengths.max())
    return Subject(
        config=replace(
            config,
            bf16=computes_in_bf16(config.bf16),
            max_new_tokens=longest if config.max_new_tokens is None else config.max_new_tokens,
        ),
        folder=folder,
        tokenizer=tokenizer,
        renderer=renderer,
        demonstrations=len(intake.train),
        train=spread(intake.train, config.max_train_rows),
        heldout=tuple(intake.heldout),
        prompts=spread(prompts, config.max_prompts),
        data_hashes=intake.data_hashes,
    )


def run_config(config: AdviseConfig) -> RFTConfig:
    """A run's config with the same rows: RFT's, which takes prompts."""
    given: dict[str, Any] = {name: getattr(config, name) for name in shared_fields(RFTConfig)}
    return RFTConfig(**given | {"output": "not written"})


def shared_fields(config_class: type[Any]) -> tuple[str, ...]:
    """Names of the fields that advice shares with a config, `output` not among them: it has another meaning."""
    return tuple(name for name in fields_of(AdviseConfig) if name in fields_of(config_class) and name != "output")


def spread(items: Sequence[Item], limit: int) -> tuple[Item, ...]:
    """At most `limit` of them, evenly spread, in their order."""
    count = min(limit, len(items))
    return tuple(items[place * len(items) // count] for place in range(count))
