"""The one reader of a run folder: a run, finished or not, as records; big files are read when they are asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from demotune.common.errors import DemotuneError
from demotune.common.files import read_json
from demotune.common.json_records import iter_records
from demotune.common.notebook import html_table
from demotune.common.record_arrays import RecordArrays
from demotune.records import BadRow
from demotune.runs.costs import Cost, cost_of
from demotune.runs.file_names import START, stage_title
from demotune.runs.folder import RunFolder, run_of, written_by_a_run
from demotune.runs.gate import best_stage
from demotune.runs.heldout import HeldoutRow
from demotune.runs.manifest import Manifest, read_manifest
from demotune.runs.rows import RowName
from demotune.runs.stage_reader import RunStage, heldout_rows, records_of


@dataclass(frozen=True, eq=False)
class Run:
    """One run folder, begun at least."""

    name: str
    folder: Path
    manifest: Manifest

    def __repr__(self) -> str:
        end = "finished" if self.finished else "unfinished"
        return f"Run({self.method}, {self.folder}, {len(self.stages)} stages, {end})"

    def _repr_html_(self) -> str:
        """A small table, for notebooks: a line for each finished stage, with what was measured on held-out rows."""
        end = "finished" if self.finished else "unfinished"
        rows = [_stage_cells("start model", self.start_nll_per_token)]
        for stage in self.stages:
            name = stage_title(stage.number) + (", the result" if stage.number == self.result_stage else "")
            reward, gate = stage.check.whole_reward, stage.check.gate
            accuracy = "" if reward is None else reward.accuracy.text()
            rows.append(_stage_cells(name, stage.check.nll_per_token, accuracy, gate.verdict if gate else ""))
        heads = ("", "nats per held-out token", "reward accuracy", "gate")
        return html_table(f"{self.method} run {self.folder}, {end}", heads, rows)

    @property
    def files(self) -> RunFolder:
        return RunFolder(self.folder)

    @property
    def config(self) -> Mapping[str, Any]:
        """As the run began, automatic values filled in."""
        return self.manifest.config

    @property
    def method(self) -> str:
        return str(self.config["method"])

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @property
    def start_hash(self) -> str:
        """Content hash of the start model."""
        return self.manifest.model

    @property
    def finished(self) -> bool:
        return self.files.finished

    @cached_property
    def start(self) -> tuple[HeldoutRow, ...] | None:
        """Held-out rows under the start model; None before they are measured."""
        return heldout_rows(self.files.stage(0) / START)

    @property
    def start_nll_per_token(self) -> float | None:
        """Of held-out demonstrations under the start model, nats; None without held-out rows."""
        if not self.start:
            return None
        return -sum(row.demo_logp for row in self.start) / sum(row.demo_tokens for row in self.start)

    @cached_property
    def stages(self) -> tuple[RunStage, ...]:
        """Those whose check is done."""
        return tuple(RunStage(self.files, number) for number in self.files.finished_stages)

    @cached_property
    def result_stage(self) -> int:
        """The stage whose model is the result; of an unfinished run, the one that would be if it ended here."""
        if self.finished:
            with written_by_a_run(self.files.summary):
                return int(read_json(self.files.summary)["best_stage"])
        return self.best_so_far

    @property
    def best_so_far(self) -> int:
        """The stage that the gates of the finished stages choose."""
        return best_stage([None if self.config["gate"] == "off" else stage.check.gate for stage in self.stages])

    @property
    def result(self) -> RunStage:
        with written_by_a_run(self.folder):
            return {stage.number: stage for stage in self.stages}[self.result_stage]

    @cached_property
    def quarantine(self) -> Sequence[BadRow]:
        """Data rows that were refused."""
        return records_of(BadRow, self.files.quarantine)

    @cached_property
    def rows(self) -> Sequence[RowName]:
        """The names of the rows that were trained on and held out."""
        return RecordArrays(RowName, iter_records(RowName, self.files.rows))

    @property
    def cost(self) -> Cost:
        """Of all finished stages."""
        return self.cost_until(len(self.stages))

    def cost_until(self, stage: int) -> Cost:
        """Of the stages up to and with this one."""
        return cost_of(self.manifest, (phase for one in self.stages if one.number <= stage for phase in one.phases))

    @property
    def peak_memory_gib(self) -> float:
        """Of all phases, those that only measure too."""
        return max(phase.peak_memory_gib for stage in self.stages for phase in stage.phases)

    @property
    def result_cost(self) -> Cost:
        """Of the stages up to and with the one whose model is the result."""
        return self.cost_until(self.result_stage)


def _stage_cells(name: str, nll_per_token: float | None, accuracy: str = "", verdict: str = "") -> tuple[str, ...]:
    return name, "" if nll_per_token is None else f"{nll_per_token:.3f}", accuracy, verdict


def load_run(folder: str | Path, name: str | None = None) -> Run:
    """The run in a folder, finished or not. Raises DemotuneError where there is none."""
    root = Path(folder)
    if not RunFolder(root).manifest.is_file():
        raise DemotuneError(f"{root} holds no run; name the folder that a run wrote with --output")
    return Run(name or root.resolve().name, root, read_manifest(RunFolder(root).manifest))


def load_finished(folder: str | Path) -> Run:
    """A run that has its result. Raises DemotuneError where there is none."""
    run = load_run(folder)
    if not run.finished:
        raise DemotuneError(f"{folder} is an unfinished run; finish it with: demotune resume {folder}")
    return run


def read_runs(folders: Sequence[Path]) -> tuple[Run, ...]:
    """Runs to report, in the given order, each with a name of its own: as many last parts of its path as that takes.

    Raises DemotuneError for a folder without a run, a run without a finished stage, and a run that is named twice.
    """
    whole = [folder.resolve() for folder in folders]
    for depth in range(1, max(len(path.parts) for path in whole) + 1):
        names = ["/".join(path.parts[-depth:]) for path in whole]
        if len(set(names)) == len(names):
            return tuple(_load_begun(folder, name) for folder, name in zip(folders, names, strict=True))
    raise DemotuneError(f"a run is named twice: {', '.join(map(str, folders))}; name each run folder once")


def run_behind(model: Path) -> Run | None:
    """The run that made a model, given by its own folder, RUN/model or RUN/stages/NN/model; None where no run did."""
    folder = run_of(model)
    return None if folder is None else load_run(folder)


def begun_template(model: Path) -> str | None:
    """The prompt template of the run that made a model; None where no run made it, or one with the chat template."""
    run = run_behind(model)
    return None if run is None else run.config["template"]


def _load_begun(folder: Path, name: str) -> Run:
    run = load_run(folder, name)
    if not run.stages:
        raise DemotuneError(
            f"{run.folder} has not finished a stage, so there is nothing to report; continue it with: "
            f"demotune resume {run.folder}"
        )
    return run
