"""From a config to a prepared run: model found, tokenizer and renderer made, rows read, automatic values filled in."""

import dataclasses
import enum
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from peft import PeftConfig
from torch import nn
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from demotune.common.errors import DemotuneError
from demotune.common.files import file_hash
from demotune.common.machine import has_fast_bf16
from demotune.common.processes import (
    load_in_every_process,
    main_process,
    process_count,
    process_state,
    shards_models,
    this_device,
    wait_for_everyone,
)
from demotune.common.profiling import timed
from demotune.common.progress import say
from demotune.common.suggestions import did_you_mean
from demotune.config.loggers import refuse_unknown_loggers
from demotune.config.methods import AnyConfig
from demotune.config.sampler import STARTED
from demotune.data import read_prompt_file
from demotune.data.intake import Intake, prepare
from demotune.data.rendered_rows import RenderedRows
from demotune.data.rendering import Renderer, RenderError, prompt_hash
from demotune.models.adapters import adapter_rank
from demotune.models.kernels import PACKAGES, refuse_missing_kernels, use_liger_layers
from demotune.models.model_folder import first_line, is_adapter, is_quantized
from demotune.models.policy import (
    Policy,
    attach_adapter,
    content_hash,
    generation_stop_ids,
    load_policy,
    load_tokenizer,
    longest_input,
    lora_config,
    merged,
    refuse_broken_policy,
    resolve_model,
)
from demotune.models.question import as_question
from demotune.models.reward import RewardModel, check_reward_start, load_reward_model, resolve_reward
from demotune.rewards.answer_only import AnswerMarker, find_marker
from demotune.runs.folder import RunFolder
from demotune.runs.run import run_behind
from demotune.sampling import Engine, EngineSampler, InProcessSampler, Sampler, engine_for
from demotune.sampling.engine.process import refuse_missing_vllm
from demotune.training.arguments import training_arguments
from demotune.training.schedule import THAT_WORK, learning_rates

FEW_ROWS, FEW_SAMPLES = 500, 4
"""With fewer demonstrations than that, so many samples are drawn for each; greedy ones would all be the same."""


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
        if self.engine is not None:
            return EngineSampler(policy, self.engine, name)
        return InProcessSampler(policy, slots=self.config.sample_batch_size)

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


def prepare_run(
    config: AnyConfig, folder: RunFolder, callbacks: Sequence[TrainerCallback], begun_by: int | None = None
) -> Setup:
    """Everything that comes before the first phase; nothing is trained. Raises DemotuneError.

    `begun_by` is how many processes began the run, where it goes on.
    """
    for field, flag in (("model", "--model"), ("data", "--data")):
        if not getattr(config, field):
            raise DemotuneError(f"{field} is missing; name it with {flag}, in the YAML file, or pass it to run()")
    load_in_every_process()
    _check_early(config)
    say(f"demotune {config.method}: {config.model} on {', '.join(config.data)} -> {folder.root}")
    with process_state().main_process_first():  # one process downloads or converts
        start_model = resolve_model(config.model)
        reward_folder = None if config.reward_model is None else resolve_reward(config.reward_model)
    refuse_broken_policy(start_model)
    if is_quantized(start_model) and not config.use_peft:
        raise DemotuneError(
            f"{config.model} is quantized, so its weights cannot be trained; train an adapter on it with --use-peft"
        )
    if reward_folder is not None:
        check_reward_start(reward_folder)
    tokenizer = load_tokenizer(start_model)
    base_model = _base_model(config, tokenizer)
    check_positions(config, tokenizer, longest_input(start_model))
    renderer = Renderer(tokenizer, config.template, generation_stop_ids(start_model))
    intake = prepare(config, renderer, folder.quarantine if main_process() else None)
    prompts = further_prompts(config, renderer, intake)
    for note in intake.notes:
        say(f"  {note}")
    if prompts:
        say(f"  prompts without demonstrations: {len(prompts)}")
    if config.use_peft and is_adapter(start_model):
        say("  the start model is a LoRA adapter: it is trained on, its own rank, alpha and targets stay")
    wait_for_everyone()
    return Setup(
        config=_filled_in(config, intake),
        folder=folder,
        start_model=start_model,
        tokenizer=tokenizer,
        renderer=renderer,
        train=intake.train,
        heldout=intake.heldout,
        prompts=prompts,
        data_hashes=intake.data_hashes | {name: file_hash(Path(name)) for name in config.prompts},
        adapter=_adapter(config, folder),
        callbacks=tuple(callbacks),
        base_model=base_model,
        begun_by=begun_by,
    )


def _base_model(config: AnyConfig, tokenizer: PreTrainedTokenizerBase) -> Path | None:
    """The model before SFT, where its samples are asked for: as named, else from the run that made the start model."""
    if "base" not in config.reward_negatives:
        return None
    named = config.base_model
    if named is None:
        made_by = run_behind(Path(config.model))
        if made_by is None or made_by.config["method"] != "sft":
            raise DemotuneError(
                f"reward_negatives base asks for the model before SFT, and {config.model} is of no run of sft that "
                "names it; give --base-model MODEL"
            )
        named = str(made_by.config["model"])
    with process_state().main_process_first():
        folder = resolve_model(named)
    refuse_broken_policy(folder)
    if load_tokenizer(folder).get_vocab() != tokenizer.get_vocab():
        raise DemotuneError(
            f"base model {named} has another vocabulary than {config.model}, so a reward cannot read the samples of "
            "both; give another --base-model"
        )
    return folder


def check_positions(config: AnyConfig, tokenizer: PreTrainedTokenizerBase, limit: int | None) -> None:
    """A row, and the question that a linear reward reads after it, must fit the model."""
    asked = 0 if config.reward_question is None else len(as_question(tokenizer, config.reward_question).ids)
    if limit is not None and config.max_length + asked > limit:
        after = f" and the reward's question {asked} tokens" if asked else ""
        raise DemotuneError(
            f"max_length is {config.max_length}{after}, {config.model} has {limit} positions; set --max-length "
            f"{limit - asked} or less"
        )


def further_prompts(config: AnyConfig, renderer: Renderer, intake: Intake) -> tuple[tuple[int, ...], ...]:
    """Prompts without demonstrations, each once; none that is held out, has a demonstration or is too long."""
    if not config.prompts:
        return ()
    known = {*intake.train.questions.tolist(), *intake.heldout.questions.tolist()}
    found: dict[tuple[int, ...], None] = {}
    for name in config.prompts:
        for where, prompt in read_prompt_file(Path(name)):
            try:
                forms = renderer.prompt_forms(prompt)
            except RenderError as error:
                raise DemotuneError(f"prompt {where} cannot be rendered: {error}") from error
            if known.isdisjoint(map(prompt_hash, forms)) and len(forms[0]) < config.max_length:
                found[forms[0]] = None
    return tuple(found)


def _check_early(config: AnyConfig) -> None:
    """What would otherwise fail only after samples were drawn: names that transformers and the loggers must know."""
    refuse_unknown_loggers(config.report_to)
    refuse_missing_kernels(
        [name for name in PACKAGES if getattr(config, name, config.attn_implementation == name)], this_device()
    )
    if config.load_in_4bit and shards_models():
        raise DemotuneError(
            "weights of 4 bits cannot be sharded; launch without FSDP, so that each process holds them whole, or leave "
            "load_in_4bit out"
        )
    if shards_models() and os.environ.get("FSDP_ACTIVATION_CHECKPOINTING", "").lower() in ("1", "true"):
        raise DemotuneError(
            "fsdp_activation_checkpointing would wrap the layers that demotune reads; set it to false in accelerate's "
            "config, and give --activation-checkpointing"
        )
    _check_name("optim", config.optim, OptimizerNames, "adamw_torch_fused, rmsprop, adafactor, sgd")
    _check_name("lr_scheduler_type", config.lr_scheduler_type, SchedulerType, THAT_WORK)
    arguments = training_arguments(config, Path(config.output), steps=1, seed=config.seed)
    learning_rates(arguments, steps=1)
    if config.sampler == STARTED and main_process():
        refuse_missing_vllm(config.vllm_python)
    try:
        Trainer.get_optimizer_cls_and_kwargs(arguments)
    except Exception as error:  # a library that is missing, or modules and models that only other trainers can name
        raise DemotuneError(
            f"optim {config.optim} cannot be used here ({first_line(error)}); choose another, such as adamw_torch_fused"
        ) from error


def _check_name(field: str, name: str, known: type[enum.Enum], usual: str) -> None:
    names = [str(member.value) for member in known]
    if name not in names:
        advice = did_you_mean(name, names) or f"take {usual}"
        raise DemotuneError(f"{field} {name!r} is no name that transformers knows; {advice}")


def _filled_in(config: AnyConfig, intake: Intake) -> AnyConfig:
    """The config with its automatic values: precision by device, length and number of samples by demonstrations."""
    automatic: dict[str, Any] = {
        "bf16": has_fast_bf16(this_device()),
        "max_new_tokens": int(intake.train.response_lengths.max()),
        "samples_per_prompt": FEW_SAMPLES if len(intake.train) < FEW_ROWS and config.temperature else 1,
    }
    fields = {field.name for field in dataclasses.fields(config)}
    missing = {name: value for name, value in automatic.items() if name in fields and getattr(config, name) is None}
    return dataclasses.replace(config, **missing)


def _adapter(config: AnyConfig, folder: RunFolder) -> PeftConfig | None:
    if not config.use_peft:
        return None
    if folder.adapter.is_dir():
        return cast(PeftConfig, PeftConfig.from_pretrained(str(folder.adapter)))
    return lora_config(config.lora_r, config.lora_alpha, config.lora_target_modules)
