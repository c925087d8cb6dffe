"""The loop over trials, in a pool whose trials end as a test says: order, retries, dependants, the record."""

from collections.abc import Callable, Sequence

import pytest
from helpers.sweeps import leave_run

from demotune.sweep.child import Ending
from demotune.sweep.record import read_sweep
from demotune.sweep.run import run_trials
from demotune.sweep.trials import Plan, Trial

PlanOf = Callable[..., Plan]
GRID = [{"method": "sft", "seed": [0, 1]}, {"method": "irft", "start": "sft", "seed": [0, 1]}]


class Scripted:
    """A pool with `places` trials at a time. Each attempt ends with the next error of its trial, else well."""

    def __init__(self, errors: dict[str, Sequence[str]] | None = None, places: int = 1) -> None:
        self.errors = {name: list(texts) for name, texts in (errors or {}).items()}
        self.places, self.began, self.running, self.stopped = places, [], [], False

    @property
    def has_place(self) -> bool:
        return len(self.running) < self.places

    def begin(self, trial: Trial) -> None:
        assert trial.start is None or trial.start.state == "finished"
        self.began.append(trial.name)
        self.running.append(trial)

    def next_end(self) -> tuple[Trial, Ending]:
        trial = self.running.pop()
        texts = self.errors.get(trial.name)
        if texts:
            leave_run(trial, finished=False)
            if (error := texts.pop(0)) == "Ctrl-C":
                raise KeyboardInterrupt
            return trial, Ending(5.0, error)
        leave_run(trial)
        return trial, Ending(10.0, None)

    def stop(self) -> None:
        self.stopped = True


@pytest.fixture
def plan(plan_of: PlanOf) -> Plan:
    return plan_of(grid=GRID)


@pytest.mark.parametrize("places", [1, 2, 9])
def test_trials_begin_when_those_that_they_start_from_have_finished(plan: Plan, places: int) -> None:
    pool = Scripted(places=places)
    attempts = run_trials(plan, pool, retries=0)
    assert sorted(pool.began) == sorted(trial.name for trial in plan.trials)
    assert {trial.state for trial in plan.trials} == {"finished"}
    assert {one.count for one in attempts.values()} == {1}


def test_what_has_finished_is_not_run_again(plan: Plan) -> None:
    leave_run(plan.trials[0])
    leave_run(plan.trials[2])
    pool = Scripted()
    run_trials(plan, pool, retries=0)
    assert pool.began == ["sft-seed=1", "irft-from-sft-seed=1"]
    pool = Scripted()
    assert run_trials(plan, pool, retries=0) == {}
    assert pool.began == []


def test_a_failed_trial_is_tried_again_and_goes_on(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    pool = Scripted({"sft-seed=0": ["no luck"]})
    attempts = run_trials(plan, pool, retries=1)
    assert pool.began[:2] == ["sft-seed=0", "sft-seed=0"]
    assert (attempts["sft-seed=0"].count, attempts["sft-seed=0"].seconds) == (2, 15.0)
    assert attempts["sft-seed=0"].error is None
    shown = capsys.readouterr().out
    assert "sft-seed=0: failed (no luck); it is tried again" in shown
    assert "trial 1 of 4, sft-seed=0: goes on" in shown


def test_a_trial_that_keeps_failing_is_reported_and_the_others_go_on(plan: Plan) -> None:
    pool = Scripted({"sft-seed=0": ["first", "second", "third"]})
    attempts = run_trials(plan, pool, retries=1)
    assert pool.began == ["sft-seed=0", "sft-seed=0", "sft-seed=1", "irft-from-sft-seed=1"]
    assert (attempts["sft-seed=0"].count, attempts["sft-seed=0"].error) == (2, "second")
    blocked = attempts["irft-from-sft-seed=0"]
    assert (blocked.count, blocked.error) == (0, "it starts from sft-seed=0, which failed")
    record = read_sweep(plan.folder)
    assert record.sentence == "2 settings tried in 4 trials; 2 failed (sft-seed=0, irft-from-sft-seed=0)"
    assert [trial.state for trial in record.trials] == ["interrupted", "finished", "new", "finished"]


def test_a_trial_without_a_result_here_has_failed(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a cluster whose machines do not share the disk."""
    pool = Scripted()
    monkeypatch.setattr(pool, "next_end", lambda: (pool.running.pop(), Ending(1.0, None)))
    attempts = run_trials(plan, pool, retries=0)
    assert "has no result here; name an --output that all machines share" in str(attempts["sft-seed=1"].error)


def test_ctrl_c_stops_the_pool_and_says_how_to_go_on(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    pool = Scripted({"sft-seed=1": ["Ctrl-C"]})
    with pytest.raises(KeyboardInterrupt):
        run_trials(plan, pool, retries=1)
    assert pool.stopped
    expected = "stopped; 1 trials are finished, 3 are not: the same command goes on with them"
    assert expected in capsys.readouterr().out
    assert read_sweep(plan.folder).sentence == (
        "2 settings tried in 4 trials; 3 are not finished (sft-seed=1, irft-from-sft-seed=0, irft-from-sft-seed=1)"
    )


def test_time_left_goes_by_the_trials_that_ended_here(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    leave_run(plan.trials[0])
    run_trials(plan, Scripted(), retries=0)
    shown = capsys.readouterr().out
    assert shown.startswith("1 of 4 trials are finished already\n")
    assert "sft-seed=1: finished in 0:10; 2 left, about 0:00" in shown
    assert shown.rstrip().endswith("irft-from-sft-seed=1: finished in 0:10")
