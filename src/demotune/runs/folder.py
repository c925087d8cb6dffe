"""A run folder: its paths, its lock, and which phases are done."""

from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from demotune.common.errors import DemotuneError
from demotune.common.files import UNFINISHED, damaged, read_json, write_record
from demotune.common.json_records import read_record
from demotune.common.locks import held, take
from demotune.config.config_files import load_config
from demotune.config.methods import AnyConfig
from demotune.runs.check import StageCheck
from demotune.runs.file_names import (
    CHECK,
    CONFIG,
    LOCK,
    MANIFEST,
    MERGED_MODEL,
    METRICS,
    MODEL,
    QUARANTINE,
    REWARD,
    ROWS,
    STAGES,
    START_ADAPTER,
    START_DATA,
    START_MODEL,
    STATE,
    SUMMARY,
)


class RunFolder:
    """Paths of a run, its lock, and the state of its stages."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.model = root / MODEL
        self.reward = root / REWARD
        self.merged_model = root / MERGED_MODEL
        self.metrics = root / METRICS
        self.summary = root / SUMMARY
        self.quarantine = root / QUARANTINE
        self.config = root / CONFIG
        self.adapter = root / START_ADAPTER
        self.manifest = root / MANIFEST
        self.rows = root / ROWS

    def stage(self, number: int) -> Path:
        return self.root / STAGES / f"{number:02d}"

    def stage_state(self, number: int) -> dict[str, Any]:
        """What a stage has finished: phase name -> record of its inputs and outputs."""
        file = self.stage(number) / STATE
        return read_json(file) if file.exists() else {}

    @property
    def finished_stages(self) -> list[int]:
        """Numbers of the stages whose last phase is done."""
        count = len(list((self.root / STAGES).glob("*/")))
        return [number for number in range(count) if "check" in self.stage_state(number)]

    def stage_check(self, number: int) -> StageCheck:
        """What a finished stage measured on held-out rows."""
        return read_record(StageCheck, self.stage(number) / CHECK)

    def mark_done(self, number: int, phase: str, record: Mapping[str, object]) -> None:
        """State that `phase` of a stage is finished, after its output was published."""
        state = self.stage_state(number)
        write_record(self.stage(number) / STATE, state | {phase: dict(record)})

    def forget(self, number: int, phases: Container[str]) -> None:
        """State that these phases of a stage are not done, so that they are done again."""
        state = self.stage_state(number)
        write_record(
            self.stage(number) / STATE, {phase: record for phase, record in state.items() if phase not in phases}
        )

    def read_config(self) -> AnyConfig:
        """The config of the run that this folder holds. Raises DemotuneError where it holds none."""
        if not self.manifest.exists():
            raise DemotuneError(f"{self.root} holds no run to resume; start one with demotune sft, spin, irft or rft")
        return load_config(self.config)

    @property
    def holds_run(self) -> bool:
        """Whether a run was begun here, finished or not."""
        return self.config.exists() or self.manifest.exists()

    @property
    def finished(self) -> bool:
        return self.summary.exists()

    def finished_model(self) -> Path:
        """The model that the run made. Raises DemotuneError where there is no run, or one that is not finished."""
        if not self.holds_run and not self.finished:
            raise DemotuneError(f"{self.root} holds no run; name the folder that a run wrote with --output")
        if not self.finished:
            raise DemotuneError(
                f"{self.root} is an unfinished run, it has no model yet; finish it with: demotune resume {self.root}"
            )
        return self.model

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process; the lock goes when the process goes, however it ends."""
        fix = "wait for it, stop it, or choose another --output"
        with held(self.root / LOCK, lambda process: f"run folder {self.root} is in use by process {process}; {fix}"):
            yield

    def wait_until_free(self) -> None:
        """Wait while another process holds the folder."""
        if (self.root / LOCK).is_file():
            with (self.root / LOCK).open("a+") as lock:
                take(lock)

    def refuse_if_taken(self) -> None:
        """A new run needs a folder that is new, empty, or holds only a run that never got to its manifest."""
        if self.root.is_file():
            raise DemotuneError(f"output {self.root} is a file; name a new folder for the run with --output")
        if self.manifest.exists():
            fix = "choose another --output" if self.finished else f"continue it with: demotune resume {self.root}"
            raise DemotuneError(
                f"{self.root} already holds {'a finished' if self.finished else 'an unfinished'} run; {fix}"
            )
        before_manifest = {LOCK, *(file.name for file in (self.config, self.quarantine, self.rows))}
        known = {*before_manifest, START_MODEL, START_DATA, START_ADAPTER}
        others = sorted(p.name for p in self.root.glob("*") if p.name not in known and UNFINISHED not in p.name)
        if others:
            raise DemotuneError(
                f"{self.root} is not empty and holds no run (found {', '.join(others[:3])}); "
                "choose a new or empty folder with --output"
            )


def run_of(model: Path) -> Path | None:
    """The run folder that is `model` or holds it: RUN, RUN/model, RUN/stages/NN/model."""
    if not model.exists():
        return None
    folders = (model.resolve(), *model.resolve().parents[:3])
    return next((folder for folder in folders if (folder / MANIFEST).is_file()), None)


@contextmanager
def written_by_a_run(root: Path) -> Iterator[None]:
    """Code that reads a run's files: where they lack something, or do not fit together, that is one DemotuneError."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        problem = f"its files do not fit together: {type(error).__name__}: {error}"
        raise damaged(root, problem) from error
