"""The control of a comparison: SFT that goes on from the same start model for as many steps and tokens as a run."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from demotune.common.errors import DemotuneError
from demotune.common.progress import say
from demotune.config.field import fields_of
from demotune.config.methods import SFTConfig
from demotune.models.policy import content_hash, resolve_model
from demotune.pipeline import run_or_go_on
from demotune.runs.folder import RunFolder
from demotune.runs.run import Run, load_finished
from demotune.runs.settings import CONTROL


def train_controls(folders: Sequence[Path]) -> list[Path]:
    """One SFT run beside each run of another method, RUN-control-sft; what is there already is used or finished.

    Raises DemotuneError where a run can have no control, and where the folder holds another run.
    """
    found = []
    for finished in [finished for folder in folders if (finished := load_finished(folder)).method != "sft"]:
        config = control_of(finished)
        target = RunFolder(Path(config.output))
        if not target.manifest.exists() and content_hash(resolve_model(config.model)) != finished.start_hash:
            raise DemotuneError(f"{config.model} is not the model that {finished.folder} started from; put it back")
        there = target.finished
        run_or_go_on(config)
        if there:
            say(f"{target.root} is there already")
        found.append(target.root)
    return found


def control_of(finished: Run) -> SFTConfig:
    """SFT from the run's start model on its rows, at its learning rate and schedule, steps and tokens as in the run.

    A step of SFT takes as many rows as it needs to see the tokens that a step of the run saw: about twice as many, for
    a pair has two sides. What the run drew and scored without a gradient is not made up for.
    """
    tokens, steps = finished.cost.trained_tokens, finished.cost.steps
    if not steps:
        raise DemotuneError(f"{finished.folder} took no step of training, so there is nothing to control for")
    rows = (row for stage in finished.stages for row in stage.iter_sample_rows() if not row.heldout)
    mean_tokens = fmean(len(row.prompt_ids) + len(row.demo_ids) for row in rows)
    size, accumulation = _batches(
        sum(not row.heldout for row in finished.rows),
        tokens / steps / mean_tokens,
        int(finished.config["per_device_train_batch_size"]),
    )
    shared = {name: value for name, value in finished.config.items() if name in fields_of(SFTConfig)}
    own = {
        "output": f"{finished.folder}{CONTROL}",
        "max_steps": steps,
        "per_device_train_batch_size": size,
        "gradient_accumulation_steps": accumulation,
        "gate": "off",
    }
    return SFTConfig(**(shared | own))


def _batches(rows: int, per_step: float, largest: int) -> tuple[int, int]:
    """(micro-batch size, micro-batches in a step) so that a step has `per_step` rows on average.

    The largest size up to `largest` that comes within 5%, else the nearest. The last micro-batch of a pass may be
    short: on average one has rows / ceil(rows / size).
    """
    choices = []
    for size in range(min(largest, rows), 0, -1):
        mean = rows / -(-rows // size)
        accumulation = max(round(per_step / mean), 1)
        choices.append((abs(accumulation * mean / per_step - 1), size, accumulation))
    _, size, accumulation = next((choice for choice in choices if choice[0] <= 0.05), min(choices))
    return size, accumulation
