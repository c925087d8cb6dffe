"""The one trainer: a transformers.Trainer that runs any phase which takes gradient steps.

What differs between methods is the objective (a loss on micro-batches); what this module adds to the Trainer is
exactness: a fixed plan of micro-batches, exact scaling of accumulated gradients, a check of the first loss, and
checkpoints that count only when they are whole.
"""

import itertools
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerBase, ProgressCallback, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from demotune.common.errors import DemotuneError
from demotune.common.files import write_json
from demotune.common.memory import peak_memory_gib
from demotune.common.processes import from_main_process
from demotune.common.profiling import span
from demotune.models.attention import carries_layouts
from demotune.models.packing import Batch
from demotune.models.policy import Policy
from demotune.models.sharding import load_optimizer_state
from demotune.runs.file_names import BAD_BATCH
from demotune.training.callbacks import KeepBest
from demotune.training.carried_optimizer import Carry, leave_carried
from demotune.training.checkpoints import CheckpointTrainer
from demotune.training.first_value import ExpectedFirstValue, check_first_value
from demotune.training.microbatches import in_equal_parts
from demotune.training.objectives import Objective, StepLoss
from demotune.training.passes import Pass, passes_over, training_nothing
from demotune.training.schedule import learning_rates
from demotune.training.smaller_passes import one_pass


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """What a phase trains: `model`, in place, through `microbatches`, in `steps` optimizer steps."""

    model: Policy
    objective: Objective[Any]
    microbatches: Sequence[Sequence[Any]]
    steps: int
    title: str
    """Text beside the progress bar."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the config that are others in this phase."""
    microbatches_of_step: int | None = None
    """Of all processes; None: as many as the config says."""
    tokenizer: PreTrainedTokenizerBase | None = None
    """Kept in checkpoints; None: the run's."""
    expected_first: ExpectedFirstValue | None = None
    carry: Carry | None = None
    keep_best: KeepBest | None = None
    stop_loss: float | None = None
    """End the steps once the training loss is below this."""
    judge: Callable[[], dict[str, float]] | None = None
    """Finds metrics on held-out records when a callback asks for an evaluation."""
    facts: Callable[[], dict[str, float]] = dict
    """Metrics that hold for all micro-batches of a step, recorded beside the objective's."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """Peak learning rates of single modules."""
    finish: Callable[[], None] | None = None
    """Called after the last step, while the model is in memory."""


class Interrupted(KeyboardInterrupt):
    """Training stopped at the user's request, after a checkpoint."""


class EarlyStop(Exception):  # noqa: N818 (no error: a phase may end so)
    """A guard rail ended the steps of a phase; the message says why."""


class PhaseTrainer(CheckpointTrainer):
    """transformers.Trainer over planned micro-batches of records, with an objective in place of labels.

    Each micro-batch is shared by processes in so many `parts`. `budget` is the most tokens of one forward pass: what
    has more is cut. Neither changes a gradient beyond rounding.
    """

    stop_requested = False
    stopped: str | None = None
    """Why a guard rail ended the steps."""
    loss_is_scaled_for_ga = True  # `compute_loss` divides by the items of the whole optimizer step

    def __init__(
        self,
        given: Fit,
        *,
        args: TrainingArguments,
        tokenizer: PreTrainedTokenizerBase,
        callbacks: list[TrainerCallback],
        budget: int | None = None,
        parts: int = 1,
    ) -> None:
        self.given, self._budget, self._parts, self._expected_first = given, budget, parts, given.expected_first
        self._values: defaultdict[str, list[Tensor]] = defaultdict(list)
        self._last_log: tuple[float, int] | None = None
        self._started = time.monotonic()
        carries_layouts(given.model)  # tried before its weights are sharded
        super().__init__(
            model=given.model,
            args=args,
            train_dataset=cast(Any, range(len(given.microbatches) * parts)),
            processing_class=given.tokenizer or tokenizer,
            callbacks=callbacks,
        )
        self.remove_callback(ProgressCallback)  # the screen is demotune's
        self.remove_callback(PrinterCallback)
        if given.keep_best:
            given.keep_best.judge = self.evaluate

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Numbers of parts of micro-batches, in planned order; accelerate deals them out to the processes.

        With further numbers, for nothing, where the last step would give one process more than another: accelerate
        would have some trained twice.
        """
        processes = self.accelerator.num_processes
        numbers = range(-(-len(cast(Any, self.train_dataset)) // processes) * processes)
        loader = DataLoader(cast(Dataset[Any], numbers), batch_size=1)
        return cast(DataLoader[Any], self.accelerator.prepare(loader))

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[list[Pass]], Tensor]:
        """The micro-batches of one optimizer step, looked up only now: accelerate's loader reads one step ahead.

        So micro-batches that are sampled from the policy are sampled after its last update.
        """
        numbers = [int(number) for number in itertools.islice(epoch_iterator, num_batches)]
        batches = [self._passes(number) for number in numbers]
        if self.accelerator.is_fsdp2:
            batches = [[*parts, *self._empty_passes(parts)] for parts in batches]
        return batches, self._get_num_items_in_batch(batches, device)

    def _passes(self, number: int) -> list[Pass]:
        """The passes over one part of a micro-batch; one that trains nothing where the part has no records."""
        unit, part = divmod(number, self._parts)
        microbatches, objective = self.given.microbatches, self.given.objective
        records = microbatches[min(unit, len(microbatches) - 1)]
        mine = in_equal_parts(records, self._parts)[part] if unit < len(microbatches) else ()
        if mine:
            return passes_over(mine, objective, self._budget)
        return [training_nothing(one) for one in passes_over([min(records, key=objective.tokens)], objective, None)]

    def _empty_passes(self, parts: list[Pass]) -> list[Pass]:
        """Passes without items, which train nothing, up to the most that a process has: all gather weights together."""
        counts = cast(Tensor, self.accelerator.gather(torch.tensor([len(parts)], device=self.args.device)))
        shortest = min(parts, key=lambda part: part.tokens)
        return [training_nothing(shortest)] * (int(counts.max()) - len(parts))

    def training_step(  # type: ignore[override]
        self, model: nn.Module, inputs: list[Pass], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Forward and backward of a micro-batch, part by part; gradients add up to those of the whole."""
        loss = torch.zeros((), device=self.args.device)
        for part in inputs:
            last = part is inputs[-1] or self.accelerator.is_fsdp2
            with nullcontext() if last else self.accelerator.no_sync(model), one_pass(part.tokens, part.records):
                loss += super().training_step(model, part.batch, num_items_in_batch)
        return loss

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted here: `demotune estimate` and the comparisons work it out from tokens."""
        return 0

    def _get_num_items_in_batch(self, batch_samples: list[list[Pass]], device: torch.device) -> Tensor:
        """Items (pairs or tokens) of the whole optimizer step, over all micro-batches and processes."""
        items = torch.stack([part.batch["items"] for parts in batch_samples for part in parts]).sum().to(device)
        return cast(Tensor, self.accelerator.gather(items)).sum()

    def _track_num_input_tokens(self, inputs: list[Pass]) -> None:
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
            step_loss = self.given.objective(model, inputs)
        if num_items_in_batch is None:
            raise ValueError("num_items_in_batch is missing: the loss of a step cannot be scaled")
        if not torch.isfinite(step_loss.total):
            self._stop_for_bad_loss(step_loss, inputs)
        counted = slice(None) if inputs["items"] else slice(0)  # none, yet named: processes exchange means of all
        for name, values in step_loss.metrics.items():
            self._values[name].append(values.flatten()[counted])
        if not inputs["items"]:
            return 0.0 * step_loss.total
        if self.state.global_step == 0 and self._expected_first is not None and step_loss.at_start is not None:
            check_first_value(float(step_loss.at_start.mean()), self._expected_first)
            self._expected_first = None
        # Processes average their gradients; each must hold its share of a sum over all of them.
        scaled: Tensor = step_loss.total * self.accelerator.num_processes / num_items_in_batch
        return scaled

    def autocast_smart_context_manager(self, cache_enabled: bool | None = False) -> AbstractContextManager[Any]:
        """What losses are computed under: under FSDP2 accelerate makes no bfloat16 products.

        No cast is kept for later products, as it would be a whole weight.
        """
        if not (self.args.bf16 and self.accelerator.is_fsdp2):
            return nullcontext()
        return torch.autocast(self.args.device.type, dtype=torch.bfloat16, cache_enabled=bool(cache_enabled))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the objective's metrics, averaged over the items since the last record, under TRL's names."""
        if "train_loss" in logs:
            return  # the Trainer's last record: of a resumed phase it counts losses and times since the resume only
        if self._values and "loss" in logs:
            logs |= self.given.facts()
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
            rate = next((rate for part, rate in self.given.rates.items() if part in name.split(".")), None)
            if rate is not None and weight.requires_grad:
                _give_own_rate(optimizer, weight, rate)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        carry, taken = self.given.carry, optimizer or self.optimizer
        carried = carry.load() if carry else None
        if carried:  # only now: before, the optimizer's weights were not sharded
            load_optimizer_state(cast(nn.Module, self.model), cast(torch.optim.Optimizer, taken), carried["optimizer"])
        steps = carry.total_steps if carry else num_training_steps
        scheduler = LambdaLR(cast(Any, taken), learning_rates(self.args, steps))
        if carried:
            scheduler.load_state_dict(carried["scheduler"])
            # Making a scheduler set the optimizer to the rate of its first step; loading one does not undo that.
            for group, rate in zip(scheduler.optimizer.param_groups, scheduler.get_last_lr(), strict=True):
                group["lr"] = rate
        self.lr_scheduler = scheduler
        return scheduler

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Record what `judge` finds on held-out records, at a callback's request."""
        if self.given.judge is None:
            raise ValueError("there is no judge to evaluate with")
        judged = self.given.judge()  # by all processes, which then decide by the same numbers
        found = {f"eval_{name}": value for name, value in from_main_process(lambda: judged).items()}
        self.log(dict(found))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        return found

    def save_carried(self, folder: Path) -> None:
        """Leave optimizer and schedule for the next stage; all processes call this."""
        if self.optimizer is None or self.lr_scheduler is None:
            raise RuntimeError("there is no optimizer to carry before training")
        leave_carried(folder, cast(nn.Module, self.model), self.optimizer, self.lr_scheduler)

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
