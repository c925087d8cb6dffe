"""A run that is killed and goes on with another number of processes ends where the uninterrupted one ends.

Its steps are those of one process with an accumulation of 2; two processes with an accumulation of 1 share them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from helpers.killing import Killed, after_append
from helpers.tiny import save_tiny, write_rows
from helpers.two_processes import RFT, SMALL, assert_ends_alike, at_checkpoint, launch, leave

import demotune
from demotune.common.files import read_json, read_rows
from demotune.common.journals import read_journal
from demotune.config.methods import CONFIGS

SAMPLED: dict[str, Any] = {**SMALL, "max_new_tokens": 8, "samples_per_prompt": 1, "save_steps": 1}
RUNS: dict[str, dict[str, Any]] = {
    "sft": {**SMALL, "method": "sft", "num_train_epochs": 0.46},
    "irft": {**SAMPLED, "method": "irft", "stages": 2, "steps_per_stage": 3, "optimizer_across_stages": "carry"},
    "rft": {**SAMPLED, **RFT},
}
IN_TRAINING, IN_POLICY = ("01/checkpoints", 2), ("00/policy-checkpoints", 2)
"""Where they are left: a folder of checkpoints, and the step of one of them."""


def fields(place: Path, name: str, output: str, **more: Any) -> dict[str, Any]:
    where = {"model": str(place / "start"), "data": [str(place / "rows.jsonl")], "output": str(place / output)}
    return {**where, **RUNS[name], **more}


def run_here(config: Mapping[str, Any], *callbacks: Any) -> None:
    """In this process alone, which takes all micro-batches of a step."""
    own = {**config, "gradient_accumulation_steps": 2}
    demotune.run(CONFIGS[own.pop("method")](**own), callbacks=callbacks)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whole runs of one process by their names; one-NAME, which two went on with; two-NAME, which two began."""
    folder = tmp_path_factory.mktemp("other")
    save_tiny(folder / "start")
    write_rows(folder / "rows.jsonl")
    for name in RUNS:
        run_here(fields(folder, name, name))
    for name, where in (("irft", IN_TRAINING), ("rft", IN_POLICY)):
        with pytest.raises(Killed):
            run_here(fields(folder, name, f"one-{name}"), at_checkpoint(*where, leave))
    tasks: list[dict[str, Any]] = [
        fields(folder, "sft", "two-sft"),
        fields(folder, "irft", "two-irft", leave_at=IN_TRAINING),
        fields(folder, "irft", "two-scoring", leave_in="reference-"),
        *({"resume": str(folder / f"one-{name}")} for name in ("irft", "rft")),
    ]
    code, shown = launch(tasks, folder)
    assert code == 0, shown[-3000:]
    for records in ("pairs", "responses"):
        said = f"begun by 1 process, goes on with 2: 4 {records} a step as before, accumulation 1 instead of 2"
        assert shown.count(said) == 1
    return folder


@pytest.mark.parametrize("name", ["irft", "rft"])
def test_begun_by_one_and_gone_on_with_by_two(name: str, place: Path) -> None:
    assert_ends_alike(place / f"one-{name}", place / name)
    assert read_json(place / f"one-{name}" / "manifest.json")["processes"] == 1
    last = sorted((place / f"one-{name}").glob("stages/*/state.json"))[-1]
    assert [record["processes"] for record in read_json(last).values()] == (
        [1, 1, 2, 2] if name == "irft" else [1, 1, 1, 2, 2]
    )


def test_begun_by_two_and_gone_on_with_by_one(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demotune.resume(place / "two-irft")
    said = "begun by 2 processes, goes on with 1: 4 pairs a step as before, accumulation 2 instead of 1"
    assert capsys.readouterr().out.count(said) == 1
    assert_ends_alike(place / "two-irft", place / "irft")


def test_what_two_have_scored_is_not_scored_again(place: Path) -> None:
    stage = place / "two-scoring" / "stages" / "00"
    journals = [*stage.glob("reference-*.jsonl")]
    kept = [row["row"] for journal in journals for row in read_journal(journal)]
    assert len(journals) == 2
    scored: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        after_append(lambda rows: scored.extend(row["row"] for row in rows if "demo_ref_logp" in row), patch)
        demotune.resume(place / "two-scoring")
    rows = read_rows(stage / "reference_logps.jsonl.gz")
    assert sorted([*kept, *scored[: len(rows) - len(kept)]]) == list(range(len(rows)))
    assert_ends_alike(place / "two-scoring", place / "irft")


def test_a_step_with_fewer_micro_batches_than_processes_trains_none_twice(place: Path) -> None:
    """Five micro-batches are two steps of two, and one of one: a second process has nothing to train there."""
    steps = [row["num_tokens"] for row in read_rows(place / "two-sft" / "metrics.jsonl") if "loss" in row]
    assert steps == [row["num_tokens"] for row in read_rows(place / "sft" / "metrics.jsonl") if "loss" in row]
    assert len(steps) == 3
    assert_ends_alike(place / "two-sft", place / "sft")
