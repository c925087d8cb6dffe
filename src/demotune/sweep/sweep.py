"""`demotune sweep`: plan, run, compare."""

from contextlib import AbstractContextManager, nullcontext

from demotune.common.interrupts import stopping_like_ctrl_c
from demotune.config.commands import SweepConfig
from demotune.sweep.record import SweepRecord
from demotune.sweep.run import OneByOne, Pool, run_trials
from demotune.sweep.trials import Plan


def sweep(plan: Plan, config: SweepConfig) -> SweepRecord:
    """Run the trials of the plan that are not finished, where the config says, and compare all that are.

    Raises DemotuneError for what the user can mend; a trial that fails is no
    error, the record has it.
    """
    with _pool(plan, config) as pool, stopping_like_ctrl_c():
        attempts = run_trials(plan, pool, config.retries)
    from demotune.sweep.conclude import conclude  # noqa: PLC0415 (imports torch, which no trial waits for)

    return conclude(plan, attempts)


def _pool(plan: Plan, config: SweepConfig) -> AbstractContextManager[Pool]:
    if config.ray is None:
        return nullcontext(OneByOne(plan))
    from demotune.sweep.on_ray import ray_pool  # noqa: PLC0415 (an extra)

    return ray_pool(plan, config.ray, config.gpus_per_trial, config.cpus_per_trial)
