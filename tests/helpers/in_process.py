"""Trials of a sweep in this process: what a child gives, without the seconds that it takes to start."""

import demotune
from demotune.sweep.child import Ending
from demotune.sweep.trials import Plan, Trial


class InThisProcess:
    """One trial at a time; `begun` are the names of those that were run."""

    def __init__(self, plan: Plan) -> None:
        self.begun: list[str] = []
        self._taken: Trial | None = None

    @property
    def has_place(self) -> bool:
        return self._taken is None

    def begin(self, trial: Trial) -> None:
        self._taken = trial
        self.begun.append(trial.name)

    def next_end(self) -> tuple[Trial, Ending]:
        assert self._taken is not None
        trial, self._taken = self._taken, None
        demotune.run(trial.config)
        return trial, Ending(0.0, None)

    def stop(self) -> None:
        """Nothing runs where nothing is waited for."""
