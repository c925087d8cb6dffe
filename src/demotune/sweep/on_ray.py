"""Trials side by side on a Ray cluster, a task each. Needs the extra `ray`."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from demotune.common.errors import DemotuneError, one_line
from demotune.common.progress import warn
from demotune.sweep.child import Ending, run_trial
from demotune.sweep.trials import Plan, Trial

LOCAL = "local"


@contextmanager
def ray_pool(plan: Plan, address: str, gpus: int | None, cpus: int) -> Iterator["RayPool"]:
    """A pool on the cluster of this address; `local` starts one here, which ends with the block.

    Raises DemotuneError where Ray is not installed, no cluster answers, or the local one is too small for a trial.
    """
    ray = _import_ray()
    try:
        ray.init(address=address, log_to_driver=False, include_dashboard=False if address == LOCAL else None)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise DemotuneError(
            f"no Ray cluster answers at {address} ({one_line(error)}); start one with ray start --head, or give "
            "--ray local"
        ) from error
    try:
        has = ray.cluster_resources()
        needs = {"CPU": cpus, "GPU": int(has.get("GPU", 0) > 0) if gpus is None else gpus}
        for kind, count in needs.items():
            if address == LOCAL and count > has.get(kind, 0):
                raise DemotuneError(
                    f"a trial needs {count} {kind}s, and this machine has {has.get(kind, 0):g}; lower "
                    f"--{kind.lower()}s-per-trial"
                )
        if not fits_on_a_node(needs, ray.nodes()):
            what = " and ".join(f"{count} {kind}s" for kind, count in needs.items() if count)
            warn(
                f"no machine of the cluster has the {what} of a trial: trials wait until one joins it; or lower "
                "--cpus-per-trial, --gpus-per-trial"
            )
        yield RayPool(ray, plan, needs)
    finally:
        ray.shutdown()


def fits_on_a_node(needs: Mapping[str, float], nodes: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a machine of the cluster, as Ray describes them, can hold a trial when nothing else runs there."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    return any(all(has.get(kind, 0) >= count for kind, count in needs.items()) for has in alive)


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray  # noqa: PLC0415 (an extra)
    except ImportError as error:
        raise DemotuneError("--ray needs Ray; install it with: pip install 'demotune[ray]'") from error
    return ray


class RayPool:
    """Ray chooses when and where a trial runs: there is always a place for another one."""

    has_place = True

    def __init__(self, ray: Any, plan: Plan, needs: dict[str, int]) -> None:
        self._ray, self._plan = ray, plan
        # A worker that dies is our loop's to count: it retries, and resumes what was begun.
        self._task = ray.remote(num_cpus=needs["CPU"], num_gpus=needs["GPU"], max_retries=0)(_run_in)
        self._running: dict[Any, Trial] = {}

    def begin(self, trial: Trial) -> None:
        task = self._task.options(name=trial.name)
        self._running[task.remote(Path.cwd(), trial, self._plan.log(trial))] = trial

    def next_end(self) -> tuple[Trial, Ending]:
        (ended,), _ = self._ray.wait(list(self._running), num_returns=1)
        trial = self._running.pop(ended)
        try:
            return trial, self._ray.get(ended)
        except self._ray.exceptions.RayError as error:
            return trial, Ending(0.0, f"its Ray task died ({one_line(error)})")

    def stop(self) -> None:
        for task in self._running:
            self._ray.cancel(task)  # a KeyboardInterrupt where the trial is waited for
        if self._running:
            self._ray.wait(list(self._running), num_returns=len(self._running))


def _run_in(folder: Path, trial: Trial, log: Path) -> Ending:
    """The task: the sweep's own folder, as relative paths are meant."""
    with contextlib.chdir(folder):
        return run_trial(trial, log)
