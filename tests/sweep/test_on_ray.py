"""Trials on a real Ray cluster of this machine, a worker of which is killed on the way."""

import sys
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers.command import call
from sweep.test_sweep import LONG, child_of, inputs, models, one_thread, uninterrupted, wait_for_checkpoint, write_sweep

from demotune import DemotuneError
from demotune.config.commands import SweepConfig
from demotune.sweep.on_ray import fits_on_a_node, ray_pool
from demotune.sweep.plan import read_plan
from demotune.sweep.sweep import sweep

__all__ = ["inputs", "one_thread", "uninterrupted"]


def test_a_worker_that_is_killed_costs_a_retry_and_changes_no_result(
    inputs: dict[str, Any], uninterrupted: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = Path(write_sweep(tmp_path / "sweep.yaml", inputs, grid=LONG)), tmp_path / "out"
    plan = read_plan(file, out)

    def kill() -> None:
        child = child_of(psutil.Process().pid, seed=0)
        wait_for_checkpoint(plan.trials[0].folder)
        child.parent().kill()

    killer = threading.Thread(target=kill)
    killer.start()
    record = sweep(plan, SweepConfig(sweep_file=file, output=out, ray="local"))
    killer.join()
    assert "its Ray task died (WorkerCrashedError" in capsys.readouterr().out
    assert [trial.attempts for trial in record.trials] == [2, 1]
    assert record.unfinished == []
    assert models(plan) == uninterrupted
    begun = [line.split()[2] for line in plan.log(plan.trials[0]).read_text().splitlines() if line[:1] == "$"]
    assert begun == ["sft", "resume"]

    few = ray_pool(plan, "local", gpus=None, cpus=4096)
    with pytest.raises(DemotuneError, match=r"a trial needs 4096 CPUs, and this machine has .*--cpus-per-trial"):
        few.__enter__()


def test_without_ray_the_extra_is_named(
    inputs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    file = write_sweep(tmp_path / "sweep.yaml", inputs, grid=LONG)
    code, text = call("sweep", file, "--output", str(tmp_path / "out"), "--ray", "local")
    assert code == 1
    assert "--ray needs Ray; install it with: pip install 'demotune[ray]'" in text


@pytest.mark.parametrize(
    ("needs", "fits"),
    [({"CPU": 2, "GPU": 0}, True), ({"CPU": 2, "GPU": 1}, True), ({"CPU": 5, "GPU": 1}, False), ({"CPU": 9}, False)],
)
def test_a_trial_needs_one_machine_that_holds_it(needs: dict[str, int], fits: bool) -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": 8.0}},
        {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}},
        {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
    ]
    assert fits_on_a_node(needs, nodes) == fits
