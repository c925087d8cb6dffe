"""A config's fields as transformers' TrainingArguments."""

from pathlib import Path

from transformers import TrainingArguments

from demotune.common.errors import DemotuneError
from demotune.common.processes import shards_models, this_device
from demotune.config.methods import AnyConfig
from demotune.training.schedule import THAT_WORK


def training_arguments(config: AnyConfig, checkpoints: Path, steps: int, seed: int) -> TrainingArguments:
    """A config's fields in the Trainer's words. Checkpoints and progress are ours, so the Trainer's own are off."""
    sharded = shards_models()
    try:
        arguments = TrainingArguments(
            output_dir=str(checkpoints),
            per_device_train_batch_size=config.per_device_train_batch_size,
            gradient_accumulation_steps=config.gradient_accumulation_steps,
            max_steps=steps,
            learning_rate=config.learning_rate,
            optim=config.optim,
            lr_scheduler_type=config.lr_scheduler_type,
            warmup_steps=config.warmup_steps,
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
            bf16=bool(config.bf16),
            activation_checkpointing=bool(config.activation_checkpointing),
            seed=seed,
            logging_steps=config.logging_steps,
            logging_nan_inf_filter=False,
            include_num_input_tokens_seen="non_padding",
            save_strategy="no",
            save_total_limit=2,
            report_to="none",  # `tracking` logs: the Trainer would open a run for each phase
            remove_unused_columns=False,
            disable_tqdm=True,
            use_cpu=this_device().type == "cpu",
            ddp_find_unused_parameters=False,
            # After each pass, so that gradients, too, are kept in shards only.
            accelerator_config={"gradient_accumulation_kwargs": {"sync_each_batch": True}} if sharded else None,
        )
    except ValueError as error:
        fix = f"; take {THAT_WORK}" if "lr_scheduler_type" in str(error) else ""
        raise DemotuneError(f"transformers refuses a training setting: {error}{fix}") from error
    if sharded:  # the trainer computes under autocast, as scoring does; FSDP would cast the weights themselves
        arguments.mixed_precision = "no"
    arguments._n_gpu = min(arguments.n_gpu, 1)  # several GPUs are for several processes, never for DataParallel
    return arguments
