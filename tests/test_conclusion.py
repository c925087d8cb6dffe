"""What a run leaves for people: the audit, the card, the page, the model card; through the pipeline and the command."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.tiny import save_tiny, write_rows
from typer.testing import CliRunner

from demotune import IRFTConfig, RunResult, SFTConfig, conclusion, run
from demotune.cli.main import app
from demotune.rewards.shortcuts import audit_run

SMALL: dict[str, Any] = {"per_device_train_batch_size": 4, "eval_share": 0.3, "max_length": 96, "bf16": False}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conclusion")
    save_tiny(folder / "start")
    write_rows(folder / "rows.jsonl", count=40)
    return folder


@pytest.fixture(scope="module")
def irft(place: Path) -> RunResult:
    """A run as a user makes it, page and all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("demotune.pipeline.conclude", conclusion.conclude)
        return run(
            IRFTConfig(
                model=str(place / "start"), data=(str(place / "rows.jsonl"),), output=str(place / "irft"),
                stages=2, max_new_tokens=8, samples_per_prompt=1, **SMALL,
            )
        )  # fmt: skip


@pytest.fixture(scope="module")
def sft(place: Path) -> RunResult:
    config = SFTConfig(
        model=str(place / "start"), data=(str(place / "rows.jsonl"),), output=str(place / "sft"), **SMALL
    )
    return run(config)


def test_a_run_ends_with_its_page(irft: RunResult, capsys: pytest.CaptureFixture[str]) -> None:
    page = (irft.run_folder / "report.html").read_text(encoding="utf-8")
    assert "<!doctype html>" in page.lower()
    assert "of course" in page  # a demonstration, in the browser of samples
    conclusion.conclude(irft.run_folder)
    said = capsys.readouterr().out.replace("\n", "")
    assert (irft.run_folder / "report.html").resolve().as_uri() in said


def test_the_audit_is_kept(irft: RunResult) -> None:
    kept = json.loads((irft.run_folder / "shortcuts.json").read_text())
    found = audit_run(irft.run_folder)
    assert [record["stage"] for record in kept] == [0, 1]
    for record, (_, audit, verdict) in zip(kept, found, strict=True):
        assert audit is not None
        assert verdict is not None
        assert [one["accuracy"]["value"] for one in record["shortcuts"]] == [
            one.accuracy.value for one in audit.shortcuts
        ]
        assert record["reward"]["sentence"] == verdict.sentence


def test_card_and_model_card(irft: RunResult) -> None:
    card = json.loads((irft.run_folder / "card.json").read_text())
    answers = [entry["answer"] for section in card["checklist"].values() for entry in section.values()]
    assert answers.count("yes") == card["answered"]
    assert 0 < card["answered"] < card["applicable"]
    assert "irft" in (irft.model_folder / "README.md").read_text().lower()


def test_the_result_can_still_be_trained_on(irft: RunResult, place: Path) -> None:
    """A card in the model's folder does not make it another model."""
    again = run(
        SFTConfig(
            model=str(irft.model_folder), data=(str(place / "rows.jsonl"),), output=str(place / "more"), max_steps=1,
            **SMALL,
        )
    )  # fmt: skip
    begun = json.loads((again.run_folder / "manifest.json").read_text())["model"]
    state = json.loads((irft.run_folder / "stages" / f"{irft.best_stage:02d}" / "state.json").read_text())
    assert begun == state["train"]["outputs"]["model"]


def test_report_of_two_runs_compares_them(irft: RunResult, sft: RunResult, place: Path) -> None:
    done = CliRunner().invoke(
        app, ["report", str(irft.run_folder), str(sft.run_folder), "--output", str(place / "both.html")]
    )
    assert done.exit_code == 0, done.output
    page = (place / "both.html").read_text(encoding="utf-8")
    assert "minus sft" in page
    assert (place / "card.json").exists()
    kept = json.loads((place / "both-comparison.json").read_text())
    assert [line["setting"] for line in kept["lines"]] == ["start model", "irft", "sft"]


def test_report_shows_a_comparison_made_before(irft: RunResult, sft: RunResult, place: Path) -> None:
    runs = [str(irft.run_folder), str(sft.run_folder)]
    write_rows(place / "test.jsonl", count=50)
    compared = ["compare", *runs, "--data", str(place / "test.jsonl"), "--max-rows", "5"]
    done = CliRunner().invoke(app, [*compared, "--output", str(place / "compared")])
    assert done.exit_code == 0, done.output
    shown = ["report", *runs, "--comparison", str(place / "compared"), "--output", str(place / "shown.html")]
    done = CliRunner().invoke(app, shown)
    assert done.exit_code == 0, done.output
    assert "5 rows of" in (place / "shown.html").read_text(encoding="utf-8")
    assert not (place / "shown-comparison.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing"], "missing"),
        (["irft", "sft"], "--output"),
        (["irft", "--evaluation", "nowhere"], "nowhere"),
        (["irft", "--comparison", "nowhere"], "nowhere"),
    ],
)
def test_bad_input(irft: RunResult, sft: RunResult, place: Path, arguments: list[str], message: str) -> None:
    paths = [str(place / one) if not one.startswith("--") else one for one in arguments]
    done = CliRunner().invoke(app, ["report", *paths])
    assert done.exit_code == 1
    assert message in done.output
    assert "Traceback" not in done.output
