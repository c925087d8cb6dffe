"""What happens beside training steps: metrics to a file, checkpoints, progress on the screen, stopping on a signal."""

import json
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, cast

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from demotune.common.files import first_damaged, flush_to_disk, seal, write_rows
from demotune.common.interrupts import handled
from demotune.common.processes import any_process, main_process, wait_for_everyone
from demotune.common.profiling import Kind, current_profile
from demotune.common.progress import Tracker, say, warn

WHOLE = "checkpoint-is-whole"


class WriteMetrics(TrainerCallback):
    """Keeps a stage's metrics file equal to the trainer's history: nothing twice after a resume."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            write_rows(self._file, state.log_history)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            with self._file.open("a", encoding="utf-8") as opened:
                opened.write(json.dumps(state.log_history[-1]) + "\n")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            flush_to_disk(self._file)


class Checkpoints(TrainerCallback):
    """Asks for a checkpoint every `every` steps, and seals it once it is whole."""

    def __init__(self, every: int) -> None:
        self._every = every

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step % self._every == 0 and state.global_step < state.max_steps:
            control.should_save = True
            control.should_log = True  # a gradient that is not finite shows before the checkpoint is written

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        wait_for_everyone()  # each process writes files of its own
        if state.is_world_process_zero:
            checkpoint = Path(cast(str, args.output_dir)) / f"checkpoint-{state.global_step}"
            files = [file for file in checkpoint.rglob("*") if file.is_file()]
            for file in files:
                flush_to_disk(file)
            seal(checkpoint / WHOLE, files)


class RecordLastStep(TrainerCallback):
    """Metrics of the last step are always recorded, also where `logging_steps` does not divide the steps."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_log = True


class ShowProgress(TrainerCallback):
    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._tracker.start_at(state.global_step)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        record = state.log_history[-1]
        if "loss" not in record:  # an evaluation, or the end
            return
        shown = {
            "loss": "loss",
            "margin": "rewards/margins",
            "reward": "reward",
            "KL": "objective/kl",
            "tok/s": "tokens_per_second",
        }
        info = "  ".join(f"{name} {record[key]:.3g}" for name, key in shown.items() if key in record)
        self._tracker.advance(state.global_step - self._tracker.done, info)


class TimeSteps(TrainerCallback):
    """Spans of a profile inside gradient steps. "backward" is what is left of them beside "forward"."""

    def __init__(self) -> None:
        self._depth: int | None = None
        """Depth of the open span; None while none is open."""

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._leave()  # what an attempt that ran out of memory left open

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._enter("backward")

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        self._leave()
        self._enter("optimizer")

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        self._leave()

    def _enter(self, kind: Kind) -> None:
        if profile := current_profile():
            self._depth = profile.enter(kind)

    def _leave(self) -> None:
        if self._depth is not None and (profile := current_profile()):
            profile.leave(self._depth)
        self._depth = None


class StopOnSignal(TrainerCallback):
    """Ctrl-C, SIGTERM or SIGHUP: finish the step, write a checkpoint, stop. A second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.requested = False
        self._handlers = handled({signal.SIGINT, signal.SIGTERM, signal.SIGHUP}, self._request)

    def __enter__(self) -> "StopOnSignal":
        self._handlers.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._handlers.__exit__(*error)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.requested:  # a closing terminal sends SIGHUP twice, its own and the shell's
            self.requested = True
            say("stopping: this step is finished first, then a checkpoint written; Ctrl-C once more stops at once")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.requested = any_process(self.requested)  # all stop at the same step
        if self.requested and state.global_step < state.max_steps:
            control.should_save = True
            control.should_training_stop = True


class KeepBest(TrainerCallback):
    """Judges a reward every few steps on held-out pairs, publishes the best one, stops when none gets better.

    What it decides by is the trainer's history, which a checkpoint holds: a resumed phase decides alike.
    """

    judge: Callable[[], object]
    """What evaluates: the trainer's `evaluate`, once there is a trainer."""

    def __init__(self, every: int, patience: int, publish: Callable[[], None]) -> None:
        self._every, self._patience, self._publish = every, patience, publish

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step == 0:
            self.judge()  # steps that help on no held-out pair are not taken over
        elif self._exhausted(state):
            control.should_training_stop = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step % self._every == 0 or state.global_step >= state.max_steps:
            control.should_evaluate = True

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if best_judgement(state.log_history) is list(_judged(state.log_history))[-1]:
            self._publish()
        if self._exhausted(state):
            control.should_training_stop = True

    def _exhausted(self, state: TrainerState) -> bool:
        judged = list(_judged(state.log_history))
        return len(judged) - 1 - _last_gain(judged) >= self._patience


def _judged(history: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    return (record for record in history if "eval_loss" in record)


def best_judgement(history: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The judgement with the lowest loss, the first of equals."""
    return min(_judged(history), key=lambda record: record["eval_loss"])


def _last_gain(judged: Sequence[dict[str, Any]]) -> int:
    """Number of the last judgement that had a lower loss or a higher accuracy than all before it."""
    gained = 0
    loss, accuracy = judged[0]["eval_loss"], judged[0]["eval_rewards/accuracies"]
    for number, record in enumerate(judged):
        if record["eval_loss"] < loss or record["eval_rewards/accuracies"] > accuracy:
            gained = number
        loss, accuracy = min(loss, record["eval_loss"]), max(accuracy, record["eval_rewards/accuracies"])
    return gained


def latest_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint; newer ones that are unfinished or damaged are removed."""
    if main_process():
        for checkpoint in _newest_first(folder):
            if (checkpoint / WHOLE).exists():
                damaged = first_damaged(checkpoint / WHOLE)
                if damaged is None:
                    break
                warn(f"{damaged} is damaged; training goes on from before this checkpoint")
            (checkpoint / WHOLE).unlink(missing_ok=True)  # without it, what cannot be removed does not count
            shutil.rmtree(checkpoint, ignore_errors=True)
    wait_for_everyone()
    return next((str(checkpoint) for checkpoint in _newest_first(folder) if (checkpoint / WHOLE).exists()), None)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rsplit("-", 1)[1]), reverse=True)
