"""The readers of runs, under the name that this package imports them by."""

from demotune.runs.run import Run, RunStage, SampledRow, load_run, read_runs

__all__ = ["Run", "RunStage", "SampledRow", "load_run", "read_run", "read_runs"]

read_run = load_run
