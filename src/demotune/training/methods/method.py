"""What a method is: the phases that each of its stages goes through, and what is said about a finished stage."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from demotune.config.methods import AnyConfig, RunConfig
from demotune.training.setup import Setup
from demotune.training.stage import Outcome, Stage
from demotune.training.work import PhaseWork
from demotune.training.work_plan import StagePlan


@dataclass(frozen=True, slots=True)
class Phase:
    """One step of a stage, under whose name state.json keeps what it left. That is in files, so it is done once.

    `run` does it; `work` says, before anything is done, how many tokens, steps and models that takes.
    """

    name: str
    run: Callable[[Stage], Outcome]
    work: Callable[[StagePlan], PhaseWork]
    first_stage_only: bool = False
    needed: Callable[[AnyConfig], bool] = lambda config: True
    """Whether a run with this config has the phase."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """A way to learn from demonstrations. Its number of stages, kind of reward and sampling are its config's."""

    config: type[RunConfig]
    phases: tuple[Phase, ...]
    """In their order; a stage is finished when the last one, "check", is done."""
    warn: Callable[[Stage], None] = lambda stage: None
    """Called once all phases of a stage are done."""

    @property
    def name(self) -> str:
        """The command, and the `method` of run.yaml."""
        return self.config.method

    def phases_of(self, setup: Setup, number: int) -> tuple[Phase, ...]:
        """The phases of stage `number` of a run."""
        return tuple(
            phase for phase in self.phases if (number == 0 or not phase.first_stage_only) and phase.needed(setup.config)
        )

    def work_of(self, setup: Setup, number: int) -> list[PhaseWork]:
        """The work of each phase of stage `number`, over all processes."""
        phases = self.phases_of(setup, number)
        plan = StagePlan(setup, number, [phase.name for phase in phases])
        return [replace(phase.work(plan), stage=number, name=phase.name) for phase in phases]
