"""The files of a stage's on-policy batches, and what becomes of damaged ones."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from demotune.common.files import first_damaged, publish_file, read_json, seal, write_json, write_rows
from demotune.common.json_records import read_records
from demotune.common.processes import main_process, wait_for_everyone
from demotune.common.progress import warn
from demotune.records import Rollout
from demotune.runs.file_names import PARTIAL, ROLLOUTS
from demotune.training.stage import Stage

SEAL = ".sealed"


class BatchFiles:
    """The files of one batch. The seal comes last: a batch that has one is whole."""

    def __init__(self, folder: Path, number: int) -> None:
        self.rows, self._facts = folder / f"{number:04d}.jsonl.gz", folder / f"{number:04d}.json"
        self.seal = self.rows.with_suffix("").with_suffix(SEAL)

    def write(self, rows: Sequence[Rollout], facts: dict[str, float], decode: Callable[[Sequence[int]], str]) -> None:
        write_json(self._facts, facts)
        texts = ({"prompt": decode(row.prompt_ids), "completion": decode(row.response.ids)} for row in rows)
        write_rows(self.rows, (text | asdict(row) for text, row in zip(texts, rows, strict=True)))
        seal(self.seal, [self.rows, self._facts])

    def read(self) -> tuple[list[Rollout], dict[str, float]]:
        return list(read_records(Rollout, self.rows)), self.read_facts()

    def read_facts(self) -> dict[str, float]:
        return read_json(self._facts)


class RewardFile:
    """The weights of a co-trained linear reward after update `number`, from 1; whole where its seal is there."""

    def __init__(self, folder: Path, number: int) -> None:
        self.file = folder / f"reward-{number:04d}.safetensors"
        self.seal = self.file.with_suffix(SEAL)

    def write(self, weights: Tensor) -> None:
        with publish_file(self.file) as unfinished:
            save_file({"weights": weights}, unfinished)
        seal(self.seal, [self.file])

    def read(self) -> Tensor:
        return load_file(self.file)["weights"]


def read_batches(stage: Stage) -> list[dict[str, float]]:
    """The facts of every batch that a stage has drawn, in order."""
    folder = stage.folder / ROLLOUTS
    numbers = range(len(list(folder.glob("*.jsonl.gz"))))
    return [BatchFiles(folder, number).read_facts() for number in numbers]


def drop_damaged(stage: Stage, checkpoints: Path, steps_per_batch: int) -> None:
    """Begin the stage's policy steps anew where a batch that they have taken is damaged.

    A batch was drawn from the policy as it was then, which need not be one of the checkpoints: only the first is sure.
    """
    if main_process():
        folder = stage.folder / ROLLOUTS
        steps = max((int(path.name.rsplit("-", 1)[1]) for path in checkpoints.glob("checkpoint-*")), default=0)
        taken = {BatchFiles(folder, number).seal for number in range(-(-steps // steps_per_batch))}
        damaged = (first_damaged(mark) for mark in sorted(taken | {*folder.glob(f"*{SEAL}")}))
        if found := next(filter(None, damaged), None):
            warn(f"{found} is damaged; the policy steps of {stage.title} begin anew")
            shutil.rmtree(checkpoints, ignore_errors=True)  # first: steps without their batches would go wrong
            for journal in stage.folder.glob(f"policy-*{PARTIAL}"):
                journal.unlink()
            shutil.rmtree(folder, ignore_errors=True)
    wait_for_everyone()
