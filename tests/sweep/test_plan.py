"""A sweep file becomes trials: grids, names, starts; everything wrong is one error before the first trial."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.sweeps import COMMON, leave_run

from demotune import DemotuneError
from demotune.config.config_files import build_config
from demotune.sweep.plan import read_plan
from demotune.sweep.trials import Plan

PlanOf = Callable[..., Plan]
SEEDS = {"method": "sft", "seed": [0, 1]}


def names(plan: Plan) -> list[str]:
    return [trial.name for trial in plan.trials]


def refusal(plan_of: PlanOf, **sections: Any) -> str:
    with pytest.raises(DemotuneError) as found:
        plan_of(**sections)
    return str(found.value)


# Grids and names -----------------------------------------------------------------------------------------------------


def test_a_grid_is_every_combination_and_the_last_field_changes_fastest(plan_of: PlanOf) -> None:
    plan = plan_of(grid=[{"method": ["spin", "irft"], "beta": [0.1, 0.5], "seed": [0, 1]}, SEEDS])
    assert names(plan) == [
        *(f"{m}-beta={b}-seed={s}" for m in ("spin", "irft") for b in (0.1, 0.5) for s in (0, 1)),
        "sft-seed=0",
        "sft-seed=1",
    ]
    assert [(t.config.method, t.config.seed) for t in plan.trials[-2:]] == [("sft", 0), ("sft", 1)]
    assert plan.trials[2].config.beta == 0.5
    assert {trial.config.model for trial in plan.trials} == {"start"}
    assert plan.trials[0].folder == Path("out/trials/spin-beta=0.1-seed=0")


def test_a_list_of_trials_gives_each_as_it_is(plan_of: PlanOf) -> None:
    """A list is a value there: two data files are one data set."""
    plan = plan_of(common={"model": "start"}, trials=[{"method": "irft", "data": ["a.jsonl", "b.jsonl"], "stages": 5}])
    (trial,) = plan.trials
    assert trial.config.data == ("a.jsonl", "b.jsonl")
    assert trial.name == "irft-data=a.jsonl+b.jsonl-stages=5-seed=42"


def test_common_fields_go_to_the_methods_that_have_them(plan_of: PlanOf) -> None:
    plan = plan_of(common=COMMON | {"stages": 3, "seed": 7}, grid={"method": ["sft", "irft"]})
    assert names(plan) == ["sft-seed=7", "irft-seed=7"]
    assert plan.trials[1].config.stages == 3


def test_new_values_rename_no_trial(plan_of: PlanOf) -> None:
    before = plan_of(grid={"method": "irft", "beta": 0.1, "seed": [0, 1]})
    after = plan_of(grid=[SEEDS, {"method": ["irft", "spin"], "beta": [0.5, 0.1], "seed": [0, 1, 2]}])
    assert set(names(before)) < set(names(after))


def test_names_are_file_names_whatever_the_value(plan_of: PlanOf) -> None:
    texts = ["{prompt}", "a/b {prompt}", "a:b {prompt}", "x" * 300 + "{prompt}"]
    plan = plan_of(grid={"method": "sft", "template": texts})
    assert len(set(names(plan))) == 4
    for trial in plan.trials:
        assert trial.folder.parent == Path("out/trials")
        assert len(trial.name) < 200


def test_settings_are_trials_that_differ_in_their_seed(plan_of: PlanOf) -> None:
    plan = plan_of(grid=[SEEDS, {"method": "irft", "start": "sft", "beta": [0.1, 0.5], "seed": [0, 1]}])
    assert {name: len(trials) for name, trials in plan.settings.items()} == {
        "sft": 2,
        "irft-from-sft-beta=0.1": 2,
        "irft-from-sft-beta=0.5": 2,
    }


def test_the_command_of_a_trial_gives_its_config(plan_of: PlanOf) -> None:
    """Its flags, read as the command line reads them."""
    fields = {"report_to": ["tensorboard", "trackio"], "bf16": False, "gate": "off", "learning_rate": "5e-7"}
    (trial,) = plan_of(trials=[{"method": "spin", "beta": 0.3, "use_peft": True, **fields}]).trials
    method, *words = trial.arguments
    read: dict[str, Any] = {}
    for place, word in enumerate(words):
        if word.startswith("--"):
            name = word.removeprefix("--").removeprefix("no-").replace("-", "_")
            following = words[place + 1] if place + 1 < len(words) else "--"
            value = not word.startswith("--no-") if following.startswith("--") else following
            read[name] = (*read[name], value) if name in read else (value,) if name in ("data", "report_to") else value
    read["seed"] = int(read.get("seed", 42))
    assert method == "spin"
    assert build_config("spin", None, read) == trial.config


# Starts --------------------------------------------------------------------------------------------------------------


def test_a_trial_starts_from_the_trial_of_its_seed_and_comes_after_it(plan_of: PlanOf) -> None:
    plan = plan_of(grid=[{"method": "irft", "start": "sft", "seed": [0, 1]}, SEEDS])
    assert names(plan) == ["sft-seed=0", "sft-seed=1", "irft-from-sft-seed=0", "irft-from-sft-seed=1"]
    for trial, first in ((plan.trials[2], plan.trials[0]), (plan.trials[3], plan.trials[1])):
        assert trial.start == first
        assert trial.config.model == str(first.folder)
        assert trial.at_first_model.model == "start"


def test_a_start_can_name_fields_and_go_on_over_several_trials(plan_of: PlanOf) -> None:
    plan = plan_of(
        trials=[
            {"method": "rft", "start": {"method": "irft", "seed": 0}, "seed": 5},
            {"method": "irft", "start": {"method": "sft", "learning_rate": "1e-5"}, "seed": 0},
            {"method": "sft", "learning_rate": 1e-5, "seed": 0},
            {"method": "sft", "learning_rate": 1e-4, "seed": 0},
        ]
    )
    assert [trial.depth for trial in plan.trials] == [0, 0, 1, 2]
    assert plan.trials[2].start == plan.trials[0]
    assert plan.trials[3].name == "rft-from-irft-seed=0-seed=5"
    assert plan.trials[3].at_first_model.model == "start"


@pytest.mark.parametrize(
    ("trials", "why"),
    [
        ([{"method": "irft", "start": "sft"}], "starts from a trial with seed 42, method sft, and there is none"),
        (
            [{"method": "irft", "start": "sft"}, *({"method": "sft", "learning_rate": lr} for lr in (1e-4, 1e-5))],
            "may start from 2 trials (sft-learning_rate=0.0001-seed=42, sft-learning_rate=1e-05-seed=42)",
        ),
        ([{"method": "irft", "start": "dpo"}], "start must name a method or fields with a method, got 'dpo'"),
        ([{"method": "irft", "start": {"method": "sft", "beta": 1}}, {"method": "sft"}], "start: beta is a field of"),
        ([{"method": "irft", "start": "sft", "model": "x"}, {"method": "sft"}], "model and start are both given"),
        ([{"method": "irft", "start": "spin"}, {"method": "spin", "start": "irft"}], "start from each other"),
    ],
)
def test_a_start_that_cannot_be_is_refused(plan_of: PlanOf, trials: list[dict[str, Any]], why: str) -> None:
    assert why in refusal(plan_of, trials=trials)


# Errors --------------------------------------------------------------------------------------------------------------


def test_one_error_lists_everything_that_is_wrong(plan_of: PlanOf) -> None:
    text = refusal(
        plan_of,
        common={"model": "start", "learning_rat": 1, "output": "x"},
        grid=[{"method": ["spin", "irft"], "link": "logistic", "seed": [0, 1]}, {"method": "dpo"}],
        trials=[{"method": "sft", "beta": 0.1, "max_steps": 0}, {"method": "sft", "output": "y", "data": "d"}],
    )
    assert text.splitlines()[0] == "sweep.yaml has 8 problems; correct them:"
    assert [line.strip() for line in text.splitlines()[1:]] == [
        "common: spin has no field learning_rat; did you mean learning_rate?",
        "common: the sweep names the folders of its trials; leave output out",
        "grid 1: link is a field of irft, which spin does not use",
        "grid 1: data is missing; give it in common",
        "grid 2: method must be one of sft, spin, irft, rft, got 'dpo'; give one",
        "trials 1: beta is a field of spin, irft and rft, which sft does not use",
        "trials 1: max_steps must be > 0, got 0; or leave it out",
        "trials 2: the sweep names the folders of its trials; leave output out",
    ]


@pytest.mark.parametrize(
    ("sections", "why"),
    [
        ({}, "sweep.yaml has no trials; give grid or trials"),
        ({"grids": []}, "has no section grids; it has common, grid, trials, compare; did you mean grid?"),
        ({"grid": "sft"}, "grid must hold fields (name: value), got 'sft'"),
        ({"common": [1], "grid": {"method": "sft"}}, "common must hold fields (name: value), got [1]"),
        ({"grid": {"method": "sft", "seed": []}}, "grid has no value of seed; give one or several, or leave it out"),
        ({"grid": {"method": "sft", "seed": [1, 1]}}, "grid: one trial is given twice (sft-seed=1); leave one out"),
        ({"grid": {"method": "sft"}, "compare": {"tasks": "x"}}, "compare has no field tasks; it has data, columns"),
        ({"grid": {"method": "sft"}, "compare": {"max_rows": 0}}, "compare: max_rows must be at least 1, got 0"),
    ],
)
def test_a_file_that_is_no_sweep_is_refused(plan_of: PlanOf, sections: dict[str, Any], why: str) -> None:
    assert why in refusal(plan_of, **sections)


def test_one_trial_under_two_names_is_refused(plan_of: PlanOf) -> None:
    why = "grid and trials: one trial is given twice (irft-seed=0, irft-beta=0.1-seed=0); leave one out"
    assert why in refusal(
        plan_of, grid={"method": "irft", "seed": 0}, trials=[{"method": "irft", "beta": 0.1, "seed": 0}]
    )


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DemotuneError, match=r"sweep file .* is not there"):
        read_plan(tmp_path / "none.yaml", tmp_path)


# Run folders that are there -------------------------------------------------------------------------------------------


def test_the_state_of_a_trial_is_that_of_its_run_folder(plan_of: PlanOf) -> None:
    plan = plan_of(grid=SEEDS | {"seed": [0, 1, 2]})
    leave_run(plan.trials[0])
    leave_run(plan.trials[1], finished=False)
    assert [trial.state for trial in plan.trials] == ["finished", "interrupted", "new"]
    assert plan.trials[1].next_arguments == ["resume", "out/trials/sft-seed=1"]
    assert plan.trials[2].next_arguments == plan.trials[2].arguments
    assert plan.finished == [plan.trials[0]]


def test_a_changed_file_is_refused_where_trials_are_there_already(plan_of: PlanOf) -> None:
    leave_run(plan_of(grid=SEEDS).trials[1])
    plan_of(common=COMMON | {"model": "./start"}, grid=SEEDS)
    with pytest.raises(DemotuneError) as found:
        plan_of(common=COMMON | {"learning_rate": 1e-3, "max_steps": 7}, grid=SEEDS)
    assert str(found.value) == (
        "out/trials/sft-seed=1 holds another run than sweep.yaml asks for now (learning_rate, max_steps differ); undo "
        "the change, move that folder away, or give another --output"
    )
