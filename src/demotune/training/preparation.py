"""From a config to a prepared run: model found, tokenizer and renderer made, rows read, automatic values filled in."""

import dataclasses
import enum
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from peft import PeftConfig
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from demotune.common.errors import DemotuneError
from demotune.common.files import file_hash
from demotune.common.machine import has_fast_bf16
from demotune.common.processes import main_process, process_state, this_device, wait_for_everyone
from demotune.common.progress import say
from demotune.common.suggestions import did_you_mean
from demotune.config.loggers import refuse_unknown_loggers
from demotune.config.methods import AnyConfig, RFTConfig, SFTConfig
from demotune.data import read_prompt_file
from demotune.data.intake import Intake, prepare, write_quarantine
from demotune.data.rendering import Renderer, RenderError
from demotune.models.files import first_line, is_adapter, is_quantized
from demotune.models.policy import (
    check_policy,
    generation_stop_ids,
    load_tokenizer,
    longest_input,
    lora_config,
    resolve_model,
)
from demotune.models.reward import check_reward_start, resolve_reward
from demotune.runs.folder import RunFolder
from demotune.training.schedule import THAT_WORK, learning_rates
from demotune.training.setup import Setup
from demotune.training.trainer import training_arguments


def prepare_run(config: AnyConfig, folder: RunFolder, callbacks: Sequence[TrainerCallback]) -> Setup:
    """Everything that comes before the first phase; nothing is trained. Raises DemotuneError."""
    for field, flag in (("model", "--model"), ("data", "--data")):
        if not getattr(config, field):
            raise DemotuneError(f"{field} is missing; name it with {flag}, in the YAML file, or pass it to run()")
    _check_early(config)
    say(f"demotune {config.method}: {config.model} on {', '.join(config.data)} -> {folder.root}")
    with process_state().main_process_first():  # one process downloads or converts
        start_model = resolve_model(config.model)
        reward_start = config.reward_model if isinstance(config, RFTConfig) else None
        reward_folder = None if reward_start is None else resolve_reward(reward_start)
    check_policy(start_model)
    if is_quantized(start_model) and not config.use_peft:
        raise DemotuneError(
            f"{config.model} is quantized, so its weights cannot be trained; train an adapter on it with --use-peft"
        )
    if reward_folder is not None:
        check_reward_start(reward_folder)
    limit = longest_input(start_model)
    if limit is not None and config.max_length > limit:
        raise DemotuneError(
            f"max_length is {config.max_length}, {config.model} has {limit} positions; set --max-length {limit} or less"
        )
    tokenizer = load_tokenizer(start_model)
    renderer = Renderer(tokenizer, config.template, generation_stop_ids(start_model))
    intake = prepare(config, renderer, folder.quarantine if main_process() else None)
    prompts = _further_prompts(config, renderer, intake)
    for note in intake.notes:
        say(f"  {note}")
    if prompts:
        say(f"  prompts without demonstrations: {len(prompts)}")
    if config.use_peft and is_adapter(start_model):
        say("  the start model is a LoRA adapter: it is trained on, its own rank, alpha and targets stay")
    if main_process():
        write_quarantine(intake.bad_rows, folder.quarantine)
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
        data_hashes=intake.data_hashes | _hashes_of_prompts(config),
        adapter=_adapter(config, folder),
        callbacks=tuple(callbacks),
    )


def _further_prompts(config: AnyConfig, renderer: Renderer, intake: Intake) -> tuple[tuple[int, ...], ...]:
    """RFT's prompts without demonstrations, each once; none that is held out, has a demonstration or is too long."""
    if not isinstance(config, RFTConfig):
        return ()
    known = {row.question for row in (*intake.train, *intake.heldout)}
    found: dict[tuple[int, ...], None] = {}
    for name in config.prompts:
        for where, prompt in read_prompt_file(Path(name)):
            try:
                forms = renderer.prompt_forms(prompt)
            except RenderError as error:
                raise DemotuneError(f"prompt {where} cannot be rendered: {error}") from error
            if known.isdisjoint(forms) and len(forms[0]) < config.max_length:
                found[forms[0]] = None
    return tuple(found)


def _hashes_of_prompts(config: AnyConfig) -> dict[str, str]:
    return {name: file_hash(Path(name)) for name in config.prompts} if isinstance(config, RFTConfig) else {}


def _check_early(config: AnyConfig) -> None:
    """What would otherwise fail only after samples were drawn: names that transformers and the loggers must know."""
    refuse_unknown_loggers(config.report_to)
    _check_name("optim", config.optim, OptimizerNames, "adamw_torch_fused, rmsprop, adafactor, sgd")
    _check_name("lr_scheduler_type", config.lr_scheduler_type, SchedulerType, THAT_WORK)
    arguments = training_arguments(config, Path(config.output), steps=1, seed=config.seed)
    learning_rates(arguments, steps=1)
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
    """The config with its automatic values: precision by device, sample length by demonstrations."""
    if config.bf16 is None:
        config = dataclasses.replace(config, bf16=has_fast_bf16(this_device()))
    if not isinstance(config, SFTConfig) and config.max_new_tokens is None:
        longest = max(len(row.demo.ids) for row in intake.train)
        config = dataclasses.replace(config, max_new_tokens=longest)
    return config


def _adapter(config: AnyConfig, folder: RunFolder) -> PeftConfig | None:
    if not config.use_peft:
        return None
    if folder.adapter.is_dir():
        return cast(PeftConfig, PeftConfig.from_pretrained(str(folder.adapter)))
    return lora_config(config.lora_r, config.lora_alpha, config.lora_target_modules)
