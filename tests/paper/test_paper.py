"""`demotune paper` at size tiny, with one seed: two artefacts of one sweep, their numbers and pages."""

import json
from pathlib import Path

import pytest
from helpers.in_process import InThisProcess

from demotune.cli.paper import make_paper
from demotune.common.errors import DemotuneError
from demotune.common.json_records import read_record
from demotune.config.paper import PaperConfig
from demotune.paper.page import render
from demotune.paper.paper import paper
from demotune.paper.record import ArtefactRecord, file_of
from demotune.runs.evaluation import read_evaluation
from demotune.runs.run import load_run
from demotune.sweep.trials import Plan


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paper")
    paper(PaperConfig(artefact="figure1", output=folder, seeds=1), InThisProcess)
    return folder


@pytest.fixture(scope="module")
def figure1(made: Path) -> ArtefactRecord:
    return read_record(ArtefactRecord, file_of(made, "figure1"))


def refuse_trials(plan: Plan) -> InThisProcess:
    class Refusing(InThisProcess):
        def begin(self, trial: object) -> None:
            raise AssertionError(f"{trial} is run again")

    return Refusing(plan)


def test_figure_1_has_the_numbers_of_the_comparison_beside_the_signs_of_the_paper(
    made: Path, figure1: ArtefactRecord
) -> None:
    evaluation = read_evaluation(made / "evaluations" / "preferences")
    gaps = [one.value for one in evaluation.measures if one.measure == "gap: log pi(chosen) - log pi(rejected)"]
    assert [series.points[0].value for series in figure1.charts[0].series[1:]] == pytest.approx(gaps)
    assert evaluation.about["data"]["rows"] == 52
    assert [row[0].text for row in figure1.grids[0].rows] == [
        "start: SFT", "SFT, more of it", "SPIN (T = 1)", "IRFT, T = 2", "RFT, T = 2",
    ]  # fmt: skip
    assert [row[-1].text for row in figure1.grids[0].rows] == [
        "not known to us", "negative", "not known to us", "positive", "positive",
    ]  # fmt: skip


def test_policy_steps_on_a_reward_in_doubt_are_warned_of(figure1: ArtefactRecord) -> None:
    """The paper has no gate, so steps are taken; its page says in how many stages RFT by itself would take none."""
    (rft,) = (run for run in (load_run(trial.folder) for trial in figure1.trials) if run.method == "rft")
    doubted = sum(stage.doubt is not None for stage in rft.stages)
    assert all(stage.kept is None for stage in rft.stages)
    assert [f"In {doubted} of 2 stages of RFT " in warning for warning in figure1.warnings].count(True) == (doubted > 0)


def test_more_sft_trains_on_about_the_tokens_of_irft(figure1: ArtefactRecord) -> None:
    runs = {run.method: run for run in (load_run(trial.folder) for trial in figure1.trials)}
    assert runs["sft"].cost.trained_tokens == pytest.approx(runs["irft"].cost.trained_tokens, rel=0.35)
    assert all(run.start_hash == runs["sft"].start_hash for run in runs.values())


def test_rows_are_selected_by_a_reward_and_test_rows_are_looked_for_among_them(
    made: Path, figure1: ArtefactRecord
) -> None:
    rows = [json.loads(line) for line in (made / "selected.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 96
    assert {row["reward"]["name"] for row in rows} == {f"reward model {made / 'made' / 'selector'}"}
    assert figure1.leaks == (
        "the test rows (52) were looked for in the training data of 4 models: none is there, nor one nearly the same",
    )


def test_another_artefact_of_the_same_trials_trains_nothing(made: Path) -> None:
    (page,) = paper(PaperConfig(artefact="table2", output=made, seeds=1), refuse_trials)
    record = read_record(ArtefactRecord, file_of(made, "table2"))
    times = [load_run(trial.folder).cost.seconds for trial in record.trials]
    assert [row[2].value for row in record.grids[0].rows] == times
    assert [row[4].value for row in record.grids[0].rows] == [one / times[0] for one in times]
    assert [row[-1].text for row in record.grids[0].rows] == [
        "1 SFT", "1 SFT + generating", "1 SFT + generating", "2 SFT + generating",
    ]  # fmt: skip
    assert "Memory and time" in page.read_text(encoding="utf-8")


def test_the_same_command_again_measures_nothing_and_finds_the_same(made: Path, figure1: ArtefactRecord) -> None:
    written = [*(made / "evaluations").rglob("parts/*"), *(made / "evaluations").rglob("evaluation.json")]
    when = {file: file.stat().st_mtime_ns for file in written}
    paper(PaperConfig(artefact="figure1", output=made, seeds=1), refuse_trials)
    again = read_record(ArtefactRecord, file_of(made, "figure1"))
    assert (again.charts, again.grids, again.rigor) == (figure1.charts, figure1.grids, figure1.rigor)
    assert len(when) > 5
    assert {file: file.stat().st_mtime_ns for file in written} == when


def test_the_page_shows_every_cell_and_loads_nothing(made: Path) -> None:
    record = read_record(ArtefactRecord, file_of(made, "figure1"))
    page = (made / "figure1.html").read_text(encoding="utf-8")
    assert page == render(record)
    cells = [cell.text for grid in (*record.grids, *record.rigor) for row in grid.rows for cell in row]
    assert [cell for cell in cells if cell not in page] == []
    assert "default-src 'none'" in page
    assert [word for word in ("<script", "src=", "http://", "https://", "@import") if word in page] == []


def test_a_folder_of_other_inputs_is_refused(made: Path) -> None:
    (made / "model").mkdir()
    config = PaperConfig(
        artefact="figure1", output=made, size="small", model=str(made / "model"), data=("rows.jsonl",),
        preferences=("pairs.jsonl",), reward_model=("reward",),
    )  # fmt: skip
    with pytest.raises(DemotuneError, match=r"was begun with other inputs \(size, model, data.* differ\)"):
        paper(config)


def test_print_writes_a_script_of_the_commands_and_runs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_paper(PaperConfig(artefact="figure1", output=tmp_path, seeds=1, print=True))
    shown = capsys.readouterr().out
    assert shown.startswith("#!/bin/sh\n")
    lines = [line for line in shown.splitlines() if line.startswith(("[ -e", "demotune"))]
    assert [line for line in lines if "|| demotune select " in line and "--top 96" in line] == lines[:1]
    assert [line.split("; else demotune ")[1].split()[0] for line in lines[1:-1]] == [
        "sft",
        "sft",
        "spin",
        "irft",
        "rft",
    ]
    assert lines[-1] == f"demotune paper figure1 --output {tmp_path} --seeds 1"
    assert not (tmp_path / "trials").exists()
