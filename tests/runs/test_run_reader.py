"""The one reader of run folders: what it finds, what it refuses, and what it does not need."""

import math
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.report_folders import FIVE, write_run

from demotune.common.errors import DemotuneError
from demotune.common.files import read_json, write_json, write_rows
from demotune.common.json_records import as_json, from_json
from demotune.common.statistics import Interval
from demotune.runs.evaluation import interval_of
from demotune.runs.file_names import HELDOUT, REFERENCE_LOGPS, SAMPLES
from demotune.runs.heldout import PairCheck, RewardCheck
from demotune.runs.run import load_run, read_runs
from demotune.runs.settings import setting_keys

TWO_STAGES = [(-8.0, -18.5, -29.0, -9.0, -9.0), (-7.0, -18.0, -28.0, -9.0, -9.0)]


def test_a_run_is_read_whole(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path / "irft", **FIVE, stages=TWO_STAGES))
    assert (run.name, run.method, run.seed, run.start_hash, run.finished) == ("irft", "irft", 7, "hash-of-start", True)
    assert len(run.start or ()) == 5
    assert run.start_nll_per_token == 80 / 50
    assert [stage.number for stage in run.stages] == [0, 1]
    assert run.result_stage == 1
    assert [row.demo_logp for row in run.result.heldout or ()] == list(TWO_STAGES[1])
    assert run.result.model_hash == "hash-of-result"
    assert run.result.check.nll_per_token == pytest.approx(71 / 50)
    assert run.result.check.whole_reward == RewardCheck(3, 3, 0, 0.2, Interval(0.7, 0.4, 0.9), 0.1, -0.1)
    cost = run.cost
    assert (cost.forward_tokens, cost.trained_tokens, cost.seconds) == (300, 400, 120.0)
    assert cost.flops == run.cost_until(1).flops == 3_000_000


def test_an_unfinished_run_has_the_stages_that_are_done(tmp_path: Path) -> None:
    """Its result, if it ended here, is the last stage that the gate did not call worse."""
    folder = write_run(tmp_path / "irft", **FIVE, stages=TWO_STAGES, finished=False)
    run = load_run(folder)
    assert (run.finished, [stage.number for stage in run.stages], run.result_stage) == (False, [0, 1], 1)
    second = folder / "stages/01"
    check = read_json(second / "check.json")
    write_json(second / "check.json", check | {"gate": check["gate"] | {"best": False, "verdict": "worse"}})
    assert load_run(folder).result_stage == 0
    state = read_json(second / "state.json")
    write_json(second / "state.json", {name: record for name, record in state.items() if name != "check"})
    assert [stage.number for stage in load_run(folder).stages] == [0]


def test_a_run_that_has_only_begun_is_a_run_and_no_report(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "irft", stages=(), finished=False)
    run = load_run(folder)
    assert (run.stages, run.start, run.start_nll_per_token) == ((), None, None)
    with pytest.raises(DemotuneError, match=r"has not finished a stage.*demotune resume"):
        read_runs([folder])


def test_files_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "irft")
    (folder / "stages/00" / SAMPLES).write_bytes(b"torn")
    (folder / "stages/00" / HELDOUT).write_text('{"key": "a"}\n')
    run = load_run(folder)
    assert run.result.check.gate is not None
    with pytest.raises(DemotuneError, match=rf"{SAMPLES} cannot be read"):
        _ = run.result.samples
    with pytest.raises(DemotuneError, match=rf"{HELDOUT} cannot be read"):
        _ = run.result.heldout


def test_files_that_do_not_fit_together_are_one_error(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "rft", method="rft")
    reward = {"key": "key0", "heldout": True, "usable": True, "demo_length": 2, "sample_length": 1}
    rewards = reward | {"demo_reward": 1.0, "sample_reward": 0.0}
    (folder / "stages/00" / REFERENCE_LOGPS).unlink()
    write_rows(folder / "stages/00/rewards.jsonl.gz", [rewards])
    with pytest.raises(DemotuneError, match="its files do not fit together"):
        _ = load_run(folder).result.samples


@pytest.mark.parametrize("found", [2, None])
def test_another_version_is_refused(tmp_path: Path, found: int | None) -> None:
    folder = write_run(tmp_path / "irft", manifest={"version": found})
    with pytest.raises(DemotuneError, match=rf"manifest.json has version {found}, and this demotune reads version 1"):
        load_run(folder)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DemotuneError, match="holds no run; name the folder that a run wrote with --output"):
        load_run(tmp_path)


def test_runs_that_log_differently_are_runs_of_one_setting(tmp_path: Path) -> None:
    quiet = load_run(write_run(tmp_path / "quiet", config={"seed": 1, "logging_steps": 10, "beta": 0.1}))
    loud = load_run(write_run(tmp_path / "loud", config={"seed": 2, "logging_steps": 1, "beta": 0.1}))
    other = load_run(write_run(tmp_path / "other", config={"seed": 2, "logging_steps": 1, "beta": 0.5}))
    first, second, third = setting_keys([quiet, loud, other])
    assert first == second != third


def test_reading_needs_no_torch() -> None:
    code = "import sys, demotune.runs.run, demotune.runs.comparison, demotune.runs.evaluation, demotune.runs.settings; "
    code += "print(sorted({'torch', 'transformers', 'datasets', 'sklearn'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# Records and JSON ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inner:
    number: float
    names: tuple[str, ...]


@dataclass(frozen=True)
class Outer:
    inner: Inner
    by_name: Mapping[str, Inner]
    either: PairCheck | RewardCheck | None
    count: int
    maybe: float | None
    note: str | None = None


def outer() -> Outer:
    check = RewardCheck(3, 6, 1, 0.5, Interval(0.7, 0.4, 0.9), 1.0, 2.0)
    inner = Inner(1.5, ("a", "b"))
    return Outer(inner, {"x": inner, "y": Inner(2.0, ())}, check, 3, None)


def test_a_record_comes_back_as_it_was() -> None:
    found = as_json(outer())
    assert found["inner"] == {"number": 1.5, "names": ("a", "b")}
    assert found["either"]["accuracy"] == {"value": 0.7, "low": 0.4, "high": 0.9}
    assert found["maybe"] is None
    assert "note" not in found
    as_read = found | {"inner": {"number": 1.5, "names": ["a", "b"]}}
    as_read["by_name"] = {"x": as_read["inner"], "y": {"number": 2.0, "names": []}}
    assert from_json(Outer, as_read) == outer()


def test_nan_is_null() -> None:
    assert as_json(Interval(1.0, math.nan, math.inf)) == {"value": 1.0, "low": None, "high": None}
    found = from_json(Interval, {"value": 1, "low": None, "high": None})
    assert (found.value, found.known) == (1.0, False)
    assert interval_of(1.0, None, None) is not None
    assert interval_of(None, None, None) is None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"count": None}, "count: expected int, found None"),
        ({"count": True}, "count: expected int, found True"),
        ({"inner": {"number": 1.0}}, "inner: it lacks names"),
        ({"inner": 3}, "inner: expected dict, found 3"),
        ({"by_name": {"x": {"number": "1", "names": []}}}, "by_name: number: expected float, found '1'"),
        ({"either": {"pairs": 3}}, "either: it lacks prompts, equal, margin, accuracy, demo_logratio, sample_logratio"),
    ],
)
def test_what_is_no_record_names_the_field(damage: dict[str, object], message: str) -> None:
    whole = {"inner": {"number": 1.5, "names": []}, "by_name": {}, "either": None, "count": 3, "maybe": 2.0}
    assert from_json(Outer, whole).maybe == 2.0
    with pytest.raises(ValueError, match=message):
        from_json(Outer, whole | damage)
