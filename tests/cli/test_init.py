"""`demotune init`: questions, a config with comments, and what comes next."""

import json
from pathlib import Path

import pytest
from helpers.command import app
from helpers.tiny import save_tiny, write_rows
from typer.testing import CliRunner, Result

from demotune.config.config_files import load_config


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a model and one file of data."""
    save_tiny(tmp_path / "model")
    write_rows(tmp_path / "rows.jsonl")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def begin(*flags: str, typed: str = "") -> Result:
    shows = {"COLUMNS": "160", "NO_COLOR": "1", "TERM": "dumb"}
    return CliRunner().invoke(app, ["init", *flags], input=typed, env=shows)


def test_answers_become_a_config_that_can_be_run(place: Path) -> None:
    shown = begin(typed="model\n\n\n\n")
    assert shown.exit_code == 0, shown.output
    assert "data [rows.jsonl]" in shown.output
    assert "columns used: prompt, completion" in shown.output
    assert shown.output.count("response tokens") >= 3
    assert "sft is suggested" in shown.output
    assert "demotune advise --model model --data rows.jsonl" in shown.output
    assert "demotune sft --config run.yaml" in shown.output
    assert "it fits" in shown.output
    config = load_config(place / "run.yaml")
    assert (config.method, config.model, config.data, config.output) == ("sft", "model", ("rows.jsonl",), "runs/sft")
    text = (place / "run.yaml").read_text()
    assert "# Peak learning rate.\nlearning_rate: 2.0e-05\n" in text
    assert "columns" not in text
    assert config.max_length == 256  # what the model can read
    assert not (place / "runs").exists()


def test_flags_ask_nothing(place: Path) -> None:
    flags = ("--model", "model", "--data", "rows.jsonl", "--method", "irft", "--file", "a.yaml", "--yes")
    shown = begin(*flags)
    assert shown.exit_code == 0, shown.output
    config = load_config(place / "a.yaml")
    assert (config.method, config.output) == ("irft", "runs/irft")
    again = begin(*flags)
    assert again.exit_code == 1
    assert "a.yaml is there already" in again.output


def test_what_cannot_be_used_is_asked_again(place: Path) -> None:
    typed = "no/such/model\nmodel\ngone.jsonl\n'rows\nrows.jsonl\nppo\nsft\n\n"
    shown = begin(typed=typed)
    assert shown.exit_code == 0, shown.output
    for part in ("no/such/model", "gone.jsonl does not exist", "close the quotation", "'ppo' is no method"):
        assert part in shown.output
    assert load_config(place / "run.yaml").method == "sft"


def test_columns_of_no_known_format_are_asked_for(place: Path) -> None:
    rows = [{"customer_message": f"ask {n}", "agent_reply": f"say {n}"} for n in range(12)]
    (place / "desk.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = "prompt=customer_message,response=agent_reply"
    for typed in ("", "prompt=agent_reply\n"):  # Enter takes what is proposed; what cannot be used is asked for again
        shown = begin("--model", "model", "--data", "desk.jsonl", typed=f"{typed}\n\n\n")
        assert shown.exit_code == 0, shown.output
        assert f"--columns {columns}" in shown.output
        assert load_config(place / "run.yaml").columns == columns
        (place / "run.yaml").unlink()


def test_a_file_that_is_there_is_kept_unless_the_user_says_so(place: Path) -> None:
    (place / "run.yaml").write_text("mine")
    flags = ("--model", "model", "--data", "rows.jsonl", "--method", "sft", "--output", "runs/a")
    kept = begin(*flags, typed="perhaps\n\n")
    assert kept.exit_code == 1
    assert "was kept" in kept.output
    assert (place / "run.yaml").read_text() == "mine"
    assert begin(*flags, typed="yes\n").exit_code == 0
    assert load_config(place / "run.yaml").output == "runs/a"


@pytest.mark.parametrize(
    ("flags", "typed", "message"),
    [
        ((), "", "the input ended before the model was given"),
        (("--yes",), "", "--yes asks nothing, so the model and data must be given"),
        (("--model", "model"), "", "the input ended before the data was given"),
        (
            ("--model", "model", "--data", "rows.jsonl", "--yes", "--output", "rows.jsonl"),
            "",
            "rows.jsonl is a file; name",
        ),
        (("--model", "gone/gone/gone"), "", "model 'gone/gone/gone' is no folder"),
    ],
)
def test_what_is_missing_is_one_sentence(place: Path, flags: tuple[str, ...], typed: str, message: str) -> None:
    shown = begin(*flags, typed=typed)
    assert shown.exit_code == 1
    assert message in shown.output
    assert "Traceback" not in shown.output
    assert not (place / "run.yaml").exists()
