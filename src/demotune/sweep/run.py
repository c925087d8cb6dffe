"""The loop over the trials of a sweep: what can begin begins, what fails is tried again, the others go on."""

import time
from collections import Counter
from typing import Protocol

from demotune.common.progress import minutes, say
from demotune.sweep.child import Ending, run_trial
from demotune.sweep.record import NO_ATTEMPTS, Attempts, write_sweep
from demotune.sweep.trials import Plan, Trial


class Pool(Protocol):
    """Where trials run."""

    @property
    def has_place(self) -> bool:
        """Whether another trial may begin now."""

    def begin(self, trial: Trial) -> None:
        """Take a trial; it runs now or when its turn comes."""

    def next_end(self) -> tuple[Trial, Ending]:
        """Wait for the first of the trials that were taken to end."""

    def stop(self) -> None:
        """Let the trials that run write a checkpoint and stop, and wait for that."""


class OneByOne:
    """One trial at a time, on this machine."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._taken: Trial | None = None

    @property
    def has_place(self) -> bool:
        return self._taken is None

    def begin(self, trial: Trial) -> None:
        self._taken = trial

    def next_end(self) -> tuple[Trial, Ending]:
        assert self._taken is not None
        trial, self._taken = self._taken, None
        return trial, run_trial(trial, self._plan.log(trial))

    def stop(self) -> None:
        """The child was stopped where it was waited for."""


def run_trials(plan: Plan, pool: Pool, retries: int) -> dict[str, Attempts]:
    """Run every trial that is not finished, one that fails again up to `retries` times; what was done, by name.

    A trial begins when the one that it starts from has finished. KeyboardInterrupt stops those that run, and goes on.
    """
    loop = _Loop(plan, pool, retries)
    write_sweep(plan, {})
    try:
        while loop.waiting or loop.running:
            loop.begin_what_can()
            if loop.running:
                loop.take(*pool.next_end())
                write_sweep(plan, loop.attempts)
    except KeyboardInterrupt:
        pool.stop()
        write_sweep(plan, loop.attempts)
        left = len(plan.trials) - len(plan.finished)
        say(f"stopped; {len(plan.finished)} trials are finished, {left} are not: the same command goes on with them")
        raise
    return loop.attempts


class _Loop:
    def __init__(self, plan: Plan, pool: Pool, retries: int) -> None:
        self.plan, self.pool, self.retries = plan, pool, retries
        self.done = {trial.name for trial in plan.finished}
        self.waiting = [trial for trial in plan.trials if trial.name not in self.done]
        self.running: set[str] = set()
        self.failed: set[str] = set()
        self.attempts: dict[str, Attempts] = {}
        self.counts: Counter[str] = Counter()
        self.begun, self.ended_here = time.monotonic(), 0
        if self.done:
            say(f"{len(self.done)} of {len(plan.trials)} trials are finished already")

    def begin_what_can(self) -> None:
        for trial in list(self.waiting):
            if trial.start is not None and trial.start.name in self.failed:
                self.waiting.remove(trial)
                self._fail(trial, f"it starts from {trial.start.name}, which failed")
            elif self.pool.has_place and (trial.start is None or trial.start.name in self.done):
                self.waiting.remove(trial)
                self.running.add(trial.name)
                self.counts[trial.name] += 1
                self._say(trial, f"{_BEGINS[trial.state]}; its terminal is in {self.plan.log(trial)}")
                self.pool.begin(trial)

    def take(self, trial: Trial, ending: Ending) -> None:
        self.running.remove(trial.name)
        error = ending.error
        if error is None and trial.state != "finished":
            error = f"it ended well, but {trial.folder} has no result here; name an --output that all machines share"
        seconds = self.attempts.get(trial.name, NO_ATTEMPTS).seconds + ending.seconds
        self.attempts[trial.name] = Attempts(self.counts[trial.name], seconds, error)
        if error is None:
            self.done.add(trial.name)
            self._say(trial, f"finished in {minutes(seconds)}", ended=True)
        elif self.counts[trial.name] <= self.retries:
            say(f"{trial.name}: failed ({error}); it is tried again", style="yellow")
            self.waiting.insert(0, trial)
        else:
            self._fail(trial, error)

    def _fail(self, trial: Trial, error: str) -> None:
        self.failed.add(trial.name)
        known = self.attempts.get(trial.name, NO_ATTEMPTS)
        self.attempts[trial.name] = Attempts(known.count, known.seconds, error)
        say(f"{trial.name}: failed: {error}", style="red")

    def _say(self, trial: Trial, what: str, ended: bool = False) -> None:
        """With the trial's place and, after an end, the time that the others will take at the pace of those so far."""
        total = len(self.plan.trials)
        number = self.plan.trials.index(trial) + 1
        left = ""
        if ended:
            self.ended_here += 1
            others = len(self.waiting) + len(self.running)
            pace = (time.monotonic() - self.begun) / self.ended_here
            left = f"; {others} left, about {minutes(pace * others)}" if others else ""
        say(f"trial {number} of {total}, {trial.name}: {what}{left}")


_BEGINS = {"new": "begins", "interrupted": "goes on", "finished": "is there"}
