"""A conversation on the command line: answers as they are sampled, rewards, choices, rows that can be trained on."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.command import app
from helpers.tiny_runs import tiny_runs
from typer.testing import CliRunner, Result

from demotune import generate, load_reward
from demotune.common.files import read_rows
from demotune.data import load_demonstrations
from demotune.data.loading import load_preferences


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs(tmp_path_factory)


def talk(typed: str, *arguments: object) -> Result:
    shows = {"COLUMNS": "160", "NO_COLOR": "1", "TERM": "dumb"}
    return CliRunner().invoke(app, ["chat", *map(str, arguments), "--max-new-tokens", "6"], input=typed, env=shows)


def said(row: dict[str, list[dict[str, str]]], name: str = "completion") -> str:
    return row[name][0]["content"]


def test_an_answer_is_what_sample_gives_and_is_saved_with_its_reward(runs: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    shown = talk("tell 3\n", runs / "sft", "--reward", runs / "rft", "--output", file)
    assert shown.exit_code == 0, shown.output
    (row,) = read_rows(file)
    assert said(row) == generate(runs / "sft", ["tell 3"], max_new_tokens=6)[0]
    assert f"reward {row['score']:.4g}]" in shown.output
    assert "cut off at --max-new-tokens" in shown.output
    finished = load_reward(str(runs / "rft")).score_texts(["tell 3"], [said(row)])[0]
    assert row["score"] != finished  # it was cut off, so it has no end-of-turn token
    (demonstration,) = load_demonstrations([str(file)]).rows
    assert demonstration.response == said(row)


@pytest.mark.parametrize(
    ("output", "message"),
    [("folder", "is a folder; name a file"), ("file/x.jsonl", "file: "), ("rows.txt", "name it rows.jsonl")],
)
def test_a_file_that_cannot_be_written_is_refused_before_the_first_question(
    runs: Path, tmp_path: Path, output: str, message: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    shown = talk("tell 3\n", runs / "sft", "--output", tmp_path / output)
    assert shown.exit_code == 1
    assert message in shown.output
    assert "> " not in shown.output


def test_a_conversation_has_turns_and_can_begin_anew(runs: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    typed = "tell 3\nand 4?\n/undo\nand 5?\n/new\n\ntell 6\n/what\n/quit\ntell 7\n"
    shown = talk(typed, runs / "sft", "--system", "Be short.", "--output", file)
    assert shown.exit_code == 0, shown.output
    prompts = [[message["content"] for message in row["prompt"]] for row in read_rows(file)]
    first = said(read_rows(file)[0])
    assert prompts == [
        ["Be short.", "tell 3"],
        ["Be short.", "tell 3", first, "and 4?"],
        ["Be short.", "tell 3", first, "and 5?"],
        ["Be short.", "tell 6"],
    ]
    assert shown.output.count("/undo: take back") == 2  # at the start, and for a word it does not know


def test_of_two_models_the_chosen_answer_goes_on_and_both_are_a_preference(runs: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    shown = talk("tell 3\n7\n2\nand 4?\n\n", runs / "sft", "--beside", runs / "irft-1", "--output", file)
    assert shown.exit_code == 0, shown.output
    first, second = read_rows(file)
    answers = [generate(runs / name, ["tell 3"], max_new_tokens=6)[0] for name in ("sft", "irft-1")]
    assert [said(first, "rejected"), said(first, "chosen")] == answers
    assert second["prompt"][1]["content"] == answers[1]
    assert shown.output.count("go on with 1 or 2? [1]") == 3
    assert len(load_preferences([str(file)]).rows) == 2


def test_a_conversation_that_is_too_long_says_so_and_goes_on(runs: Path) -> None:
    shown = talk(f"{'tell ' * 300}\ntell 3\n", runs / "sft")
    assert shown.exit_code == 0, shown.output
    assert "/new begins a new conversation" in shown.output
    assert "[cut off" in shown.output


def test_a_model_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    shown = talk("tell 3\n", tmp_path / "nowhere")
    assert (shown.exit_code, "Traceback" in shown.output) == (1, False)


def test_on_a_wide_terminal_two_answers_stand_side_by_side(runs: Path) -> None:
    controller, terminal = pty.openpty()
    command = ["chat", str(runs / "sft"), "--beside", str(runs / "irft-1"), "--max-new-tokens", "6"]
    child = subprocess.Popen(
        [sys.executable, "-m", "demotune", *command],
        stdin=terminal, stdout=terminal, stderr=terminal, close_fds=True,
        env=os.environ | {"COLUMNS": "120", "LINES": "40", "TERM": "xterm-256color"},
    )  # fmt: skip
    os.close(terminal)
    seen, typed = "", iter([("> ", b"tell 3\n"), ("go on with", b"\n"), ("> ", b"\x04")])
    waiting, answer = next(typed)
    start = 0
    while True:
        try:
            seen += os.read(controller, 4096).decode(errors="replace")
        except OSError:  # the terminal is closed: the command has ended
            break
        if waiting is not None and waiting in seen[start:]:
            start = len(seen)
            os.write(controller, answer)
            waiting, answer = next(typed, (None, b""))
    assert child.wait() == 0, seen
    titles = [line for line in seen.splitlines() if f"{runs / 'sft'}"[-8:] in line and "╭" in line]
    assert any(line.count("╭") == 2 for line in seen.splitlines()), seen
    assert titles
