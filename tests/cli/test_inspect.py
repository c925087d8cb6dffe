"""`demotune inspect`: rows as the model sees them, lengths, refused rows."""

import io
import json
from pathlib import Path

import pytest
from helpers.command import call
from helpers.tiny import save_tiny, write_rows
from rich.console import Console

from demotune.cli import inspect as inspecting


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspect")
    save_tiny(folder / "model")
    write_rows(folder / "rows.jsonl")
    return folder


def looked_at(place: Path, *more: str, data: str = "rows.jsonl", ends_with: int = 0) -> str:
    code, shown = call("inspect", "--data", str(place / data), "--model", str(place / "model"), *more)
    assert code == ends_with, shown
    return shown


def test_what_is_learned_is_marked_where_there_are_no_colours(place: Path) -> None:
    shown = looked_at(place, "--rows", "2")
    assert "prompt and completion; columns used: prompt, completion" in shown
    assert "the model is given the prompt and learns ⟦the response⟧" in shown
    assert "good row 1 of 24: 16 prompt + 15 response tokens" in shown
    assert "<|im_start|>user\nsay 0<|im_end|>\n<|im_start|>assistant\n⟦0, of course 0<|im_end|>⟧" in shown
    assert shown.count("⟦") == 3
    assert "no row of 24 is refused" in shown


def test_what_is_learned_has_a_colour_on_a_terminal(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    terminal = Console(file=written, force_terminal=True, color_system="standard", markup=False, width=100)
    monkeypatch.setattr(inspecting, "console", terminal)
    looked_at(place, "--rows", "1")
    shown = written.getvalue()
    assert "\x1b[32m0, of course 0<|im_end|>\x1b[0m" in shown
    assert "\x1b[2m<|im_start|>user\x1b[0m" in shown
    assert "⟦" not in shown


def test_lengths_are_counted(place: Path) -> None:
    lines = [line.split() for line in looked_at(place, "--rows", "0").splitlines()]
    assert ["prompt", "16", "16", "23", "29", "29", "22.6", "542"] in lines
    assert ["both", "31", "31", "39", "45", "45", "38.2", "916"] in lines
    counts = [int(line[-1]) for line in lines if len(line) == 5 and line[1] == "to"]
    assert sum(counts) == 24


def test_refused_rows_have_reasons_and_places(place: Path) -> None:
    rows = [
        {"prompt": "a", "completion": "b"},
        {"prompt": 3, "completion": "b"},
        {"prompt": "x" * 900, "completion": "b" * 200},
        {"prompt": "a", "completion": "b"},
    ]
    (place / "bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shown = looked_at(place, data="bad.jsonl")
    assert "3 of 4 rows are refused" in shown
    for part in ("wrong type: 1", "bad.jsonl:2: prompt is int 3", "over-long: 1", "duplicate: 1"):
        assert part in shown
    assert "over-long" not in looked_at(place, "--overlong", "truncate-prompt", data="bad.jsonl")


def test_data_without_a_good_row_are_shown_too(place: Path) -> None:
    (place / "none.jsonl").write_text(json.dumps({"prompt": "a", "completion": ""}) + "\n")
    shown = looked_at(place, data="none.jsonl", ends_with=1)
    assert "1 of 1 rows are refused" in shown
    assert "error: no row can be used" in shown


def test_long_texts_are_shortened_in_the_middle(place: Path) -> None:
    (place / "long.jsonl").write_text(json.dumps({"prompt": "a" * 3000 + "END", "completion": "b"}) + "\n")
    shown = looked_at(place, "--max-length", "4000", data="long.jsonl")
    assert "max_length is 256" in looked_at(place, data="long.jsonl", ends_with=1)
    assert "characters ...]" in shown
    assert "END<|im_end|>" in shown


def test_control_characters_of_the_data_stay_text(place: Path) -> None:
    (place / "hostile.jsonl").write_text(json.dumps({"prompt": "a\x1b[2J[red]", "completion": "b"}) + "\n")
    shown = looked_at(place, data="hostile.jsonl")
    assert "\x1b" not in shown
    assert "[red]" in shown
