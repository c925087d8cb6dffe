"""Published data, and the demonstrations that the package ships. Rows are counted, never printed."""

import hashlib
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest
from helpers.outside import OUTSIDE

from demotune.data import Loaded, load_demonstrations
from demotune.records import Demonstration

REAL = OUTSIDE / "data"


def load_real(name: str, **options) -> tuple[Loaded[Demonstration], str]:
    path = REAL / name
    if not path.is_file():
        pytest.skip(f"{path} is not here; it is not part of the project")
    return load_demonstrations([str(path)], **options), str(path)


@pytest.mark.parametrize(
    ("name", "size", "columns", "format_name"),
    [
        ("alpaca_eval/train.jsonl.gz", 605, None, "preference rows: prompt and chosen"),
        ("hh_harmless/train.jsonl.gz", 1497, None, "preference rows: prompt and chosen"),
        ("gsm8k/test.jsonl.gz", 1000, "prompt=question,response=answer", "columns question and answer"),
    ],
)
def test_every_row_is_good(name, size, columns, format_name):
    loaded, path = load_real(name, columns=columns)
    assert (len(loaded.rows), len(loaded.bad_rows), loaded.rows_read) == (size, 0, size)
    assert loaded.formats == {path: format_name}
    assert loaded.hashes == {path: hashlib.sha256(Path(path).read_bytes()).hexdigest()}


def test_multi_turn_dialogues_keep_their_turns():
    loaded, _ = load_real("hh_harmless/train.jsonl.gz")
    lengths = Counter(len(demonstration.prompt) for demonstration in loaded.rows)
    assert all(length % 2 == 1 for length in lengths)  # user, assistant, ..., user
    assert sum(lengths[length] for length in lengths if length > 1) > 0


def test_shipped_demonstrations():
    for name, size in (("support_train.jsonl", 132), ("support_heldout.jsonl", None)):
        path = files("demotune.cli") / "shipped" / name
        loaded = load_demonstrations([str(path)])
        lines = sum(1 for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
        assert loaded.bad_rows == ()
        assert len(loaded.rows) == (size or lines)
