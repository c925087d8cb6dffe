"""A config's fields as flags of a command: name, type, help and default come from the field."""

import inspect
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from demotune.config.files import field_help, field_types

PANELS = {
    "Model, data, output": (
        "config", "model", "baseline", "data", "output", "eval_data", "eval_share", "max_eval_rows", "gate",
    ),
    "Reading the data": (
        "trained_on", "max_rows", "data_weights", "columns", "every_turn", "template", "max_length", "overlong",
        "max_bad_share",
    ),
    "LoRA": ("use_peft", "lora_r", "lora_alpha", "lora_target_modules", "merge_adapter"),
    "Optimisation and precision": (
        "learning_rate", "per_device_train_batch_size", "tokens_per_microbatch", "gradient_accumulation_steps",
        "optim", "lr_scheduler_type",
        "warmup_steps", "weight_decay", "max_grad_norm", "bf16", "dtype", "activation_checkpointing",
        "attn_implementation",
    ),
    "Reward steps": (
        "reward_model", "reward_learning_rate", "reward_epochs", "reward_steps", "reward_eval_steps",
        "reward_patience", "reward_link", "reward_bound", "center_rewards_coefficient", "reward_frozen_layers",
        "finished_only",
    ),
    "Policy steps": (
        "advantage", "prompts_per_batch", "num_generations", "policy_epochs", "policy_batches", "num_iterations",
        "num_mini_batches", "epsilon", "kl_estimator", "kl_target", "lam", "whiten_rewards", "reward_clip",
        "missing_eos_penalty",
    ),
    "Guard rails": ("stop_kl", "stop_length_ratio", "stop_unfinished", "stop_reward_margin"),
    "Judges": ("reward", "judge", "judge_url", "judge_model"),
    "Answers": ("answers", "max_new_tokens", "temperature", "sample_batch_size", "batch_size"),
    "Benchmark tasks": ("tasks", "task_data", "limit", "few_shots"),
    "Bookkeeping": ("seed", "logging_steps", "save_steps", "report_to", "run_name", "profile"),
}  # fmt: skip


class NamesAllMissing(TyperCommand):
    """A command that names each required option that is not given; typer names the first one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given, _, _ = self.make_parser(ctx).parse_args(list(args))
        missing = [option.opts[0] for option in self.params if option.required and option.name not in given]
        if len(missing) > 1 and not given.get("help"):
            ctx.fail(f"Missing options {', '.join(missing)}")
        return super().parse_args(ctx, args)


def flags_of(config_class: type[Any]) -> list[inspect.Parameter]:
    """One option for each field; an option that is not given is None or an empty list."""
    helps = field_help(config_class)
    return [
        parameter(name, _flag_type(kind), _option(config_class, name, kind, helps[name]))
        for name, kind in field_types(config_class).items()
    ]


def what_was_given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that stood on the command line."""
    return {name: value for name, value in options.items() if value is not None and value != []}


def parameter(name: str, kind: Any, option: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _option(config_class: type[Any], name: str, kind: Any, text: str) -> Any:
    flag = "--" + name.replace("_", "-")
    is_switch = bool in (kind, *typing.get_args(kind))
    default = next(f.default for f in config_class.__dataclass_fields__.values() if f.name == name)
    shown = "required" if name in config_class.required else _show_default(default)
    panel = next((title for title, names in PANELS.items() if name in names), config_class.method.upper())
    return typer.Option(
        f"{flag}/--no-{flag[2:]}" if is_switch else flag,
        help=f"{text} \\[{shown}]",
        show_default=False,
        rich_help_panel=panel,
    )


def _show_default(default: Any) -> str:
    if default is None or default == ():
        return "default: not given"
    if isinstance(default, tuple):
        return f"default: {' '.join(map(str, default))}"
    if isinstance(default, bool):
        return f"default: {'yes' if default else 'no'}"
    return f"default: {default}"


def _flag_type(kind: Any) -> Any:
    """A config field's type as a flag takes it: tuples are repeated flags, `X | None` is X."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return next(argument for argument in typing.get_args(kind) if argument is not type(None))
    if typing.get_origin(kind) is tuple:
        return list[typing.get_args(kind)[0]]  # type: ignore[misc]
    return kind
