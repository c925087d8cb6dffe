"""Rows that Python passes go through the same door as files: what is no text is refused by name, never lost."""

import datetime
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset

from demotune.common.errors import DemotuneError
from demotune.config.methods import SFTConfig
from demotune.data import Loaded, load_demonstrations
from demotune.records import Demonstration
from demotune.runs.folder import RunFolder
from demotune.training.objects import keep_objects

GOOD = {"prompt": "2+2?", "completion": "4"}
TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!", "reasoning_content": "Greet."}]


def load(tmp_path: Path, rows) -> Loaded[Demonstration]:
    nothing = {"model": None, "eval_dataset": None, "processing_class": None, "peft_config": None}
    config = keep_objects(
        SFTConfig(output=str(tmp_path / "run")), RunFolder(tmp_path / "run"), train_dataset=rows, **nothing
    )
    return load_demonstrations(config.data)


class Picture:
    """What PIL puts in a row."""


@pytest.mark.parametrize("as_rows", [list, iter, Dataset.from_list])
def test_rows_of_a_list_and_of_a_dataset_keep_what_stands_beside_their_text(tmp_path, as_rows):
    rows = [{"messages": TURNS, "tools": '[{"name": "f"}]', "when": datetime.datetime(9999, 1, 1)}]
    (found,) = load(tmp_path, as_rows(rows)).rows
    assert (found.response, found.reasoning, found.context.tools) == ("Hello!", "Greet.", ({"name": "f"},))


def test_values_that_are_no_text_refuse_their_row_by_name(tmp_path):
    rows = [
        {**GOOD, "n": np.float32(1), "system": float("nan")},
        {**GOOD, "images": [Picture()]},
        {**GOOD, "prompt": datetime.date(2024, 1, 1)},
        {**GOOD, "prompt": "half \ud83d"},
        {"prompt": np.array([TURNS[0]]), "completion": "Hello!"},
    ]
    loaded = load(tmp_path, rows)
    assert [(one.prompt[-1]["content"], one.response) for one in loaded.rows] == [
        ("2+2?", "4"),
        ("Hi", "Hello!"),
    ]
    assert [bad.reason for bad in loaded.bad_rows] == ["non-text content", "wrong type", "invalid UTF-8"]


def test_rows_that_cannot_be_read_or_written_are_one_error(tmp_path):
    def undecodable():
        yield GOOD
        raise ImportError("To support decoding images, please install 'Pillow'.")

    with pytest.raises(DemotuneError, match=r"rows of the dataset cannot be read \(ImportError.*remove_columns"):
        load(tmp_path, undecodable())
    with pytest.raises(DemotuneError, match="cannot be written as JSON"):
        load(tmp_path, [{**GOOD, "n": {(1, 2): 3}}])
