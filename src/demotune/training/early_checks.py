"""Settings that would otherwise fail only after samples were drawn."""

import enum
from pathlib import Path

from transformers import PreTrainedTokenizerBase, Trainer
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from demotune.common.errors import DemotuneError, first_line
from demotune.common.launches import asked
from demotune.common.processes import main_process, shards_models, this_device
from demotune.common.suggestions import did_you_mean
from demotune.config.loggers import refuse_unknown_loggers
from demotune.config.methods import AnyConfig
from demotune.config.sampler import STARTED
from demotune.models.kernels import PACKAGES, refuse_missing_kernels
from demotune.models.question import as_question
from demotune.sampling.engine.process import refuse_missing_vllm
from demotune.training.arguments import training_arguments
from demotune.training.schedule import THAT_WORK, learning_rates


def check_early(config: AnyConfig) -> None:
    """Raise DemotuneError for names that transformers or the loggers do not know, and for what sharding does not do."""
    refuse_unknown_loggers(config.report_to)
    refuse_missing_kernels(
        [name for name in PACKAGES if getattr(config, name, config.attn_implementation == name)], this_device()
    )
    if config.load_in_4bit and shards_models():
        raise DemotuneError(
            "weights of 4 bits cannot be sharded; launch without FSDP, so that each process holds them whole, or leave "
            "load_in_4bit out"
        )
    if shards_models() and asked("FSDP_ACTIVATION_CHECKPOINTING"):
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


def check_positions(config: AnyConfig, tokenizer: PreTrainedTokenizerBase, limit: int | None) -> None:
    """A row, and the question that a linear reward reads after it, must fit the model."""
    question = 0 if config.reward_question is None else len(as_question(tokenizer, config.reward_question).ids)
    if limit is not None and config.max_length + question > limit:
        after = f" and the reward's question {question} tokens" if question else ""
        raise DemotuneError(
            f"max_length is {config.max_length}{after}, {config.model} has {limit} positions; set --max-length "
            f"{limit - question} or less"
        )


def _check_name(field: str, name: str, known: type[enum.Enum], usual: str) -> None:
    names = [str(member.value) for member in known]
    if name not in names:
        advice = did_you_mean(name, names) or f"take {usual}"
        raise DemotuneError(f"{field} {name!r} is no name that transformers knows; {advice}")
