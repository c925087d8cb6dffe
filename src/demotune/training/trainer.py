"""The one trainer: a transformers.Trainer that runs any phase which takes gradient steps.

What differs between methods is the objective (a loss on micro-batches); what this module adds to the Trainer is
exactness: a fixed plan of micro-batches, exact scaling of accumulated gradients, a check of the first loss, and
checkpoints that count only when they are whole.
"""

import itertools
import math
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainingArguments

from demotune.common.errors import DemotuneError
from demotune.common.files import publish_file, write_json
from demotune.common.memory import peak_memory_gib
from demotune.common.processes import this_device
from demotune.common.profiling import span
from demotune.common.progress import track
from demotune.config.methods import AnyConfig
from demotune.models.packing import Batch, cut_to_budget
from demotune.models.policy import Policy
from demotune.runs.names import BAD_BATCH, CARRIED
from demotune.training.callbacks import RecordLastStep, ShowProgress, StopOnSignal, latest_checkpoint
from demotune.training.objectives import Objective, StepLoss
from demotune.training.schedule import THAT_WORK, learning_rates
from demotune.training.smaller_passes import one_pass


@dataclass(frozen=True, slots=True)
class MicrobatchPlan:
    """Which records stand together (`units`) and in which order the units are trained (`order`, all passes)."""

    units: tuple[tuple[int, ...], ...]
    order: tuple[int, ...]
    steps: int


@dataclass(frozen=True, slots=True)
class AtStart:
    """What the objective's `at_start` must be on average before the first update, and how far rounding may move it."""

    what: str
    expected: float
    tolerance: float


@dataclass(frozen=True, slots=True)
class Carry:
    """Optimizer and schedule that go on across stages: what was left by the last one, and the steps of all stages."""

    previous: Path | None
    total_steps: int


@dataclass(frozen=True, slots=True)
class Part:
    """What one forward and backward pass takes; `tokens` as the budget counts them."""

    batch: Batch
    tokens: int
    records: int


class Interrupted(KeyboardInterrupt):
    """Training stopped at the user's request, after a checkpoint."""


def plan_microbatches(
    lengths: Sequence[int], *, batch_size: int, accumulation: int, epochs: float, steps: int | None, seed: int
) -> MicrobatchPlan:
    """Fix once, from the seed, which records share a micro-batch and when each micro-batch is trained.

    Records are shuffled, sorted by length within windows of 8 micro-batches (less padding), and cut. A micro-batch
    keeps its members in every pass, so that it can be scored exactly as it will be trained; its place in each pass is
    random. `steps` (optimizer steps) overrides `epochs`.
    """
    if not lengths:
        raise ValueError("there are no records to plan micro-batches for")
    rng = random.Random(seed)
    shuffled = rng.sample(range(len(lengths)), len(lengths))
    window = 8 * batch_size
    grouped = [
        record
        for start in range(0, len(shuffled), window)
        for record in sorted(shuffled[start : start + window], key=lambda record: lengths[record])
    ]
    units = tuple(tuple(grouped[start : start + batch_size]) for start in range(0, len(grouped), batch_size))
    wanted = steps * accumulation if steps is not None else max(round(len(units) * epochs), 1)
    order: list[int] = []
    while len(order) < wanted:
        order += rng.sample(range(len(units)), len(units))
    return MicrobatchPlan(units=units, order=tuple(order[:wanted]), steps=-(-wanted // accumulation))


class PhaseTrainer(Trainer):
    """transformers.Trainer over planned micro-batches of records, with an objective in place of labels.

    `judge` finds metrics on held-out records when a callback asks for an evaluation; `facts` are metrics that hold for
    all micro-batches of a step, recorded beside the objective's. `rates` are peak learning rates of single modules.
    `budget` is the most tokens of one forward pass: micro-batches with more are cut, which changes no gradient beyond
    rounding.
    """

    stop_requested = False
    loss_is_scaled_for_ga = True  # `compute_loss` divides by the items of the whole optimizer step

    def __init__(
        self,
        *,
        model: Policy,
        args: TrainingArguments,
        objective: Objective[Any],
        microbatches: Sequence[Sequence[Any]],
        tokenizer: PreTrainedTokenizerBase,
        at_start: AtStart | None = None,
        carry: Carry | None = None,
        callbacks: list[TrainerCallback],
        judge: Callable[[], dict[str, float]] | None = None,
        facts: Callable[[], dict[str, float]] = dict,
        rates: Mapping[str, float] | None = None,
        budget: int | None = None,
    ) -> None:
        self._objective, self._at_start, self._carry = objective, at_start, carry
        self._rates, self._budget = rates or {}, budget
        self._microbatches, self._judge, self._facts = microbatches, judge, facts
        self._values: defaultdict[str, list[Tensor]] = defaultdict(list)
        self._last_log: tuple[float, int] | None = None
        self._started = time.monotonic()
        super().__init__(
            model=model,
            args=args,
            train_dataset=cast(Any, range(len(microbatches))),
            processing_class=tokenizer,
            callbacks=callbacks,
        )

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Numbers of micro-batches, in planned order; accelerate deals them out to the processes."""
        loader = DataLoader(cast(Dataset[Any], self.train_dataset), batch_size=1)
        return cast(DataLoader[Any], self.accelerator.prepare(loader))

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[list[Part]], Tensor]:
        """The micro-batches of one optimizer step, looked up only now: accelerate's loader reads one step ahead.

        So micro-batches that are sampled from the policy are sampled after its last update.
        """
        numbers = [int(number) for number in itertools.islice(epoch_iterator, num_batches)]
        batches = [self._parts(self._microbatches[number]) for number in numbers]
        return batches, self._get_num_items_in_batch(batches, device)

    def _parts(self, records: Sequence[Any]) -> list[Part]:
        """The passes of one micro-batch: one, or several where it has more tokens than the budget."""
        parts = cut_to_budget(records, self._objective.tokens, self._budget)
        return [
            Part(self._objective.collate(part), sum(map(self._objective.tokens, part)), len(part)) for part in parts
        ]

    def training_step(  # type: ignore[override]
        self, model: nn.Module, inputs: list[Part], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Forward and backward of a micro-batch, part by part; gradients add up to those of the whole."""
        loss = torch.zeros((), device=self.args.device)
        for part in inputs:
            synchronised = nullcontext() if part is inputs[-1] else self.accelerator.no_sync(model)
            with synchronised, one_pass(part.tokens, part.records):
                loss += super().training_step(model, part.batch, num_items_in_batch)
        return loss

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted here: `demotune estimate` and the comparisons work it out from tokens."""
        return 0

    def _get_num_items_in_batch(self, batch_samples: list[list[Part]], device: torch.device) -> Tensor:
        """Items (pairs or tokens) of the whole optimizer step, over all micro-batches and processes."""
        items = torch.stack([part.batch["items"] for parts in batch_samples for part in parts]).sum().to(device)
        return cast(Tensor, self.accelerator.gather(items)).sum()

    def _track_num_input_tokens(self, inputs: list[Part]) -> None:
        """Tokens of prompts and responses, where each response has a prompt of its own; computed prompts are fewer."""
        tokens = torch.stack([part.batch["tokens"] for part in inputs]).sum().to(self.args.device)
        self.state.num_input_tokens_seen += int(cast(Tensor, self.accelerator.gather(tokens)).sum())

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Sum over the micro-batch / items of the step: micro-batches of any size weigh each item alike."""
        with span("forward"):
            step_loss = self._objective(model, inputs)
        if num_items_in_batch is None:
            raise ValueError("num_items_in_batch is missing: the loss of a step cannot be scaled")
        if not torch.isfinite(step_loss.total):
            self._stop_for_bad_loss(step_loss, inputs)
        if self.state.global_step == 0 and self._at_start is not None and step_loss.at_start is not None:
            check_start(float(step_loss.at_start.mean()), self._at_start)
            self._at_start = None
        for name, values in step_loss.metrics.items():
            self._values[name].append(values.flatten())
        # Processes average their gradients; each must hold its share of a sum over all of them.
        scaled: Tensor = step_loss.total * self.accelerator.num_processes / num_items_in_batch
        return scaled

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the objective's metrics, averaged over the items since the last record, under TRL's names."""
        if "train_loss" in logs:
            return  # the Trainer's last record: of a resumed phase it counts losses and times since the resume only
        if self._values and "loss" in logs:
            logs |= self._facts()
            logs |= {name: self._mean_over_processes(values) for name, values in self._values.items()}
            self._values.clear()
            now, tokens = time.monotonic(), self.state.num_input_tokens_seen
            then, tokens_then = self._last_log or (self._started, self._initial_num_input_tokens_seen)
            logs["num_tokens"] = tokens
            logs["tokens_per_second"] = round((tokens - tokens_then) / max(now - then, 1e-9), 1)
            logs["peak_memory_gib"] = round(peak_memory_gib(), 2)
            self._last_log = (now, tokens)
        super().log(logs)
        if not math.isfinite(logs.get("grad_norm", 0.0)):
            raise DemotuneError(
                f"the gradient became {logs['grad_norm']} at step {self.state.global_step}; lower --learning-rate, or "
                "compute with --no-bf16; earlier checkpoints are intact"
            )

    def _mean_over_processes(self, values: list[Tensor]) -> float:
        together = torch.cat(values).float()
        sum_and_count = torch.stack([together.sum(), together.new_tensor(len(together))])
        total, count = cast(Tensor, self.accelerator.reduce(sum_and_count, reduction="sum")).tolist()
        return float(total / count)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        optimizer = super().create_optimizer(model)
        for name, weight in cast(nn.Module, model or self.model).named_parameters():
            rate = next((rate for part, rate in self._rates.items() if part in name.split(".")), None)
            if rate is not None and weight.requires_grad:
                _give_own_rate(optimizer, weight, rate)
        if self._carry is not None and self._carry.previous is not None:
            state = torch.load(self._carry.previous, weights_only=True)
            optimizer.load_state_dict(state["optimizer"])
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        steps = self._carry.total_steps if self._carry else num_training_steps
        scheduler = LambdaLR(cast(Any, optimizer or self.optimizer), learning_rates(self.args, steps))
        if self._carry is not None and self._carry.previous is not None:
            scheduler.load_state_dict(torch.load(self._carry.previous, weights_only=True)["scheduler"])
            # Making a scheduler set the optimizer to the rate of its first step; loading one does not undo that.
            for group, rate in zip(scheduler.optimizer.param_groups, scheduler.get_last_lr(), strict=True):
                group["lr"] = rate
        self.lr_scheduler = scheduler
        return scheduler

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Record what `judge` finds on held-out records, at a callback's request."""
        if self._judge is None:
            raise ValueError("there is no judge to evaluate with")
        found = {f"eval_{name}": value for name, value in self._judge().items()}
        self.log(dict(found))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        return found

    def save_carried(self, folder: Path) -> None:
        """Leave optimizer and schedule for the next stage."""
        if self.optimizer is None or self.lr_scheduler is None:
            raise RuntimeError("there is no optimizer to carry before training")
        state = {"optimizer": self.optimizer.state_dict(), "scheduler": self.lr_scheduler.state_dict()}
        with publish_file(folder / CARRIED) as unfinished:
            torch.save(state, unfinished)

    def _stop_for_bad_loss(self, step_loss: StepLoss, inputs: Batch) -> None:
        file = Path(cast(str, self.args.output_dir)).parent / BAD_BATCH
        write_json(file, {name: tensor.tolist() for name, tensor in inputs.items()})
        raise DemotuneError(
            f"the loss became {float(step_loss.total)} at step {self.state.global_step + 1}; its batch is saved in "
            f"{file} (token ids). Lower --learning-rate, or compute with --no-bf16; earlier checkpoints are intact"
        )


def _give_own_rate(optimizer: torch.optim.Optimizer, weight: Tensor, rate: float) -> None:
    """Move a parameter into a group of its own."""
    for group in optimizer.param_groups:
        if any(member is weight for member in group["params"]):
            group["params"] = [member for member in group["params"] if member is not weight]
            settings = {name: value for name, value in group.items() if name not in ("params", "lr")}
            optimizer.add_param_group({**settings, "params": [weight], "lr": rate})
            return


def check_start(found: float, start: AtStart) -> None:
    """Raise DemotuneError unless a stage starts where its reference is: there this number is known exactly."""
    if abs(found - start.expected) > start.tolerance:
        raise DemotuneError(
            f"the first {start.what} of the stage is {found:.6f}, it must be {start.expected:.6f} within "
            f"{start.tolerance:g}: before the first update policy and reference are the same model. They were computed "
            "differently: look for active dropout, a precision other than the one the reference was scored in, or "
            "scores of another policy"
        )


def train_phase(trainer: PhaseTrainer, *, what: str, total_steps: int, checkpoints: Path) -> list[dict[str, Any]]:
    """Run or continue a training phase; returns its metric records.

    Raises Interrupted at the user's request, unless the last step was made: then `trainer.stop_requested` is set.
    """
    with track(what, total_steps, "steps") as tracker, StopOnSignal() as stop:
        trainer.add_callback(ShowProgress(tracker))
        trainer.add_callback(RecordLastStep())
        trainer.add_callback(stop)
        trainer.train(resume_from_checkpoint=latest_checkpoint(checkpoints))
    if stop.requested and trainer.state.global_step < total_steps:
        raise Interrupted
    trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    trainer.stop_requested = stop.requested
    return [dict(record) for record in trainer.state.log_history if "loss" in record]


def training_arguments(config: AnyConfig, checkpoints: Path, steps: int, seed: int) -> TrainingArguments:
    """A config's fields in the Trainer's words. Checkpoints and progress are ours, so the Trainer's own are off."""
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
            report_to=list(config.report_to) or "none",
            run_name=config.run_name,
            remove_unused_columns=False,
            disable_tqdm=True,
            use_cpu=this_device().type == "cpu",
            ddp_find_unused_parameters=False,
        )
    except ValueError as error:
        fix = f"; take {THAT_WORK}" if "lr_scheduler_type" in str(error) else ""
        raise DemotuneError(f"transformers refuses a training setting: {error}{fix}") from error
    arguments._n_gpu = min(arguments.n_gpu, 1)  # several GPUs are for several processes, never for DataParallel
    return arguments
