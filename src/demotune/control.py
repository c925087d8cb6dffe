"""The control of a comparison: SFT that goes on from the same start model for as many steps and tokens as a run."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from demotune.config import SFTConfig
from demotune.config_files import field_types, from_fields
from demotune.errors import DemotuneError
from demotune.evaluation.finished_runs import FinishedRun, read_run
from demotune.files import read_rows
from demotune.pipeline import resume, run
from demotune.progress import say
from demotune.run_folder import RunFolder

SUFFIX = "-control-sft"


def train_controls(folders: Sequence[Path]) -> list[Path]:
    """One SFT run beside each run of another method, RUN-control-sft; what is there already is used or finished."""
    found = []
    for folder in folders:
        finished = read_run(folder)
        if finished.method == "sft":
            continue
        config = control_of(finished)
        target = RunFolder(Path(config.output))
        if target.finished:
            say(f"{target.root} is there already")
        elif target.manifest.exists():
            resume(target.root)
        else:
            run(config)
        found.append(target.root)
    return found


def control_of(finished: FinishedRun) -> SFTConfig:
    """SFT from the run's start model on its rows, at its learning rate and schedule, steps and tokens as in the run.

    A step of SFT takes as many rows as it needs to see the tokens that a step of the run saw: about twice as many, for
    a pair has two sides. What the run drew and scored without a gradient is not made up for. Raises DemotuneError for
    a run of an older version, which did not count its tokens.
    """
    tokens, steps = finished.cost.trained_tokens, finished.cost.steps
    if not tokens or not steps:
        raise DemotuneError(f"{finished.folder} did not count its tokens, so it has no control; run it again")
    per_step = tokens / steps / _mean_tokens(finished)
    size = int(finished.config["per_device_train_batch_size"])
    accumulation = max(round(per_step / size), 1)
    shared = {name: value for name, value in finished.config.items() if name in field_types(SFTConfig)}
    own = {
        "output": f"{finished.folder}{SUFFIX}",
        "max_steps": steps,
        "per_device_train_batch_size": max(round(per_step / accumulation), 1),
        "gradient_accumulation_steps": accumulation,
        "gate": "off",
    }
    return from_fields(SFTConfig, shared | own)


def _mean_tokens(finished: FinishedRun) -> float:
    """Of a training row, prompt and response."""
    files = sorted(finished.folder.glob("stages/*/samples.jsonl.gz"))
    rows = [row for file in files for row in read_rows(file) if not row["heldout"]]
    return fmean(len(row["prompt_ids"]) + len(row["demo_ids"]) for row in rows)
