"""The readers of runs, under the name that this package imports them by."""

from demotune.runs.run import Run, load_run, read_runs
from demotune.runs.stage import RunStage, SampledRow

__all__ = ["Run", "RunStage", "SampledRow", "load_run", "read_run", "read_runs"]

read_run = load_run
