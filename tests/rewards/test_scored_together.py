"""`demotune score` keeps what it has scored beside its output: killed and given again, it scores no batch twice."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from helpers.command import call
from helpers.killing import Killed, after_append
from helpers.rewards import save_reward
from helpers.tiny import save_tiny, write_rows

ROWS = 10


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scored")
    save_tiny(folder / "start")
    save_reward(folder / "reward")
    write_rows(folder / "rows.jsonl", ROWS)
    return folder


def score(place: Path, data: Path, output: Path, *flags: str) -> str:
    where = ["--reward", str(place / "reward"), "--data", str(data), "--output", str(output)]
    code, shown = call("score", *where, "--batch-size", "4", "--no-bf16", *flags)
    assert code == 0, shown
    return shown


def killed_in_the_second_batch(place: Path, data: Path, output: Path) -> None:
    batches: list[int] = []

    def die(rows: list[Mapping[str, Any]]) -> None:
        batches.append(len(rows))
        if len(batches) == 2:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        after_append(die, patch)
        with pytest.raises(Killed):
            score(place, data, output)
    assert batches == [4, 4]
    assert not output.exists()


@pytest.fixture
def appended(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows that are added to journals from now on."""
    rows: list[int] = []
    after_append(lambda added: rows.extend(row["row"] for row in added), monkeypatch)
    return rows


def test_killed_and_given_again(place: Path, tmp_path: Path, appended: list[int]) -> None:
    output, whole = tmp_path / "scores.jsonl", tmp_path / "whole.jsonl"
    score(place, place / "rows.jsonl", whole)
    assert sorted(appended) == list(range(ROWS))
    killed_in_the_second_batch(place, place / "rows.jsonl", output)
    appended.clear()
    score(place, place / "rows.jsonl", output)
    assert len(appended) == ROWS - 8
    assert output.read_bytes() == whole.read_bytes()
    assert {file.name for file in tmp_path.iterdir()} == {"scores.jsonl", "whole.jsonl"}


def test_other_rows_under_the_same_name_are_scored(place: Path, tmp_path: Path, appended: list[int]) -> None:
    data, output, whole = tmp_path / "rows.jsonl", tmp_path / "scores.jsonl", tmp_path / "whole.jsonl"
    write_rows(data, ROWS)
    killed_in_the_second_batch(place, data, output)
    rows = [json.dumps({"prompt": f"and {number}", "completion": "no"}) for number in range(ROWS)]
    data.write_text("\n".join(rows), encoding="utf-8")
    appended.clear()
    score(place, data, output)
    assert sorted(appended) == list(range(ROWS))
    score(place, data, whole)
    assert output.read_bytes() == whole.read_bytes()


def test_another_batch_size_scores_anew(place: Path, tmp_path: Path, appended: list[int]) -> None:
    """In other batches numbers are rounded in another way."""
    output = tmp_path / "scores.jsonl"
    killed_in_the_second_batch(place, place / "rows.jsonl", output)
    appended.clear()
    score(place, place / "rows.jsonl", output, "--batch-size", "3")
    assert sorted(appended) == list(range(ROWS))
    assert not list(tmp_path.glob("*.parts"))
