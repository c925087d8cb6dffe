"""From a config to a prepared run: model found, tokenizer and renderer made, rows read, automatic values filled in."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from peft import PeftConfig
from transformers import PreTrainedTokenizerBase, TrainerCallback

from demotune.common.errors import DemotuneError
from demotune.common.files import file_hash
from demotune.common.machine import has_fast_bf16
from demotune.common.processes import main_process, process_state, settle_fsdp, this_device, wait_for_everyone
from demotune.common.progress import say
from demotune.config.methods import AnyConfig
from demotune.data import read_prompt_file
from demotune.data.intake import Intake, prepare
from demotune.data.rendering import Renderer, RenderError, prompt_hash
from demotune.models.model_folder import is_adapter, is_quantized
from demotune.models.policy import longest_input, lora_config, refuse_broken_policy, resolve_model
from demotune.models.reward import check_reward_start, resolve_reward
from demotune.models.tokenizers import generation_stop_ids, load_tokenizer
from demotune.runs.folder import RunFolder
from demotune.runs.run import run_behind
from demotune.training.early_checks import check_early, check_positions
from demotune.training.setup import Setup

FEW_ROWS, FEW_SAMPLES = 500, 4
"""With fewer demonstrations than that, so many samples are drawn for each; greedy ones would all be the same."""


def prepare_run(
    config: AnyConfig, folder: RunFolder, callbacks: Sequence[TrainerCallback], begun_by: int | None = None
) -> Setup:
    """Everything that comes before the first phase; nothing is trained. Raises DemotuneError.

    `begun_by` is how many processes began the run, where it goes on.
    """
    for field, flag in (("model", "--model"), ("data", "--data")):
        if not getattr(config, field):
            raise DemotuneError(f"{field} is missing; name it with {flag}, in the YAML file, or pass it to run()")
    settle_fsdp()
    check_early(config)
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
