"""Rows that Python passes go through the same door as files: what is no text is refused by name, never lost."""

import datetime
from pathlib import Path

import numpy as np
import pandas
import pytest
from datasets import Dataset, DatasetDict, IterableDataset

from demotune.common.errors import DemotuneError
from demotune.config.methods import SFTConfig
from demotune.data import Loaded, load_demonstrations
from demotune.records import Demonstration
from demotune.runs.folder import RunFolder
from demotune.training.objects import keep_objects

GOOD = {"prompt": "2+2?", "completion": "4"}
TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!", "reasoning_content": "Greet."}]


def keep(tmp_path: Path, rows, eval_dataset=None, **fields) -> SFTConfig:
    nothing = {"model": None, "processing_class": None, "peft_config": None}
    config = SFTConfig(output=str(tmp_path / "run"), **fields)
    return keep_objects(config, RunFolder(tmp_path / "run"), train_dataset=rows, eval_dataset=eval_dataset, **nothing)


def load(tmp_path: Path, rows) -> Loaded[Demonstration]:
    return load_demonstrations(keep(tmp_path, rows).data)


def responses(sources: tuple[str, ...]) -> list[str]:
    return [row.response for row in load_demonstrations(sources).rows]


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

    with pytest.raises(DemotuneError, match=r"rows of train_dataset cannot be read \(ImportError.*remove_columns"):
        load(tmp_path, undecodable())
    with pytest.raises(DemotuneError, match="cannot be written as JSON"):
        load(tmp_path, [{**GOOD, "n": {(1, 2): 3}}])


# What a data set may be ----------------------------------------------------------------------------------------------

ROWS = [{"prompt": f"{n}?", "completion": answer} for n, answer in enumerate(["one", "two", "three"])]
COLUMNS = {"prompt": ["0?", "1?", "2?"], "completion": ["one", "two", "three"]}


def stream() -> IterableDataset:
    return IterableDataset.from_generator(lambda: iter(ROWS))


@pytest.mark.parametrize(
    "make",
    [
        lambda: ROWS,
        lambda: tuple(ROWS),
        lambda: Dataset.from_list(ROWS),
        stream,
        lambda: pandas.DataFrame(ROWS),
        lambda: COLUMNS,
        lambda: {name: np.array(values) for name, values in COLUMNS.items()},
        lambda: DatasetDict(train=Dataset.from_list(ROWS)),
    ],
    ids=["list", "tuple", "Dataset", "IterableDataset", "DataFrame", "dict", "arrays", "DatasetDict"],
)
def test_each_kind_of_data_set_has_the_same_rows(tmp_path, make):
    assert responses(keep(tmp_path, make()).data) == ["one", "two", "three"]


@pytest.mark.parametrize("as_path", [str, Path])
def test_a_path_is_read_where_it_lies(tmp_path, as_path):
    file = tmp_path / "rows.jsonl"
    Dataset.from_list(ROWS).to_json(file)
    assert keep(tmp_path, as_path(file)).data == (str(file),)
    assert keep(tmp_path, "owner/name").data == ("owner/name",)  # a hub id is no path that could be resolved


def test_a_stream_is_said_to_be_read_to_its_end(tmp_path, capsys):
    keep(tmp_path, stream())
    assert "train_dataset is a stream: it is read to its end" in capsys.readouterr().out


def test_missing_values_of_a_data_frame_are_no_text(tmp_path):
    frame = pandas.DataFrame([{**ROWS[0], "system": "Be brief."}, {**ROWS[1], "system": None}]).convert_dtypes()
    first, second = load(tmp_path, frame).rows
    assert [turn["role"] for turn in first.prompt] == ["system", "user"]
    assert [turn["role"] for turn in second.prompt] == ["user"]


def splits(**rows: int) -> DatasetDict:
    return DatasetDict({name: Dataset.from_list(ROWS[start : start + 1]) for name, start in rows.items()})


@pytest.mark.parametrize(
    ("names", "held_out"),
    [({"train": 0, "test": 1}, "test"), ({"train": 0, "test": 2, "validation": 1}, "validation")],
)
def test_splits_of_a_dataset_dict(tmp_path, capsys, names, held_out):
    config = keep(tmp_path, splits(**names))
    assert (responses(config.data), responses(config.eval_data)) == (["one"], ["two"])
    assert f"held-out rows are the split '{held_out}' of train_dataset" in capsys.readouterr().out


def test_a_plain_dict_of_datasets_has_splits_too(tmp_path):
    config = keep(tmp_path, dict(splits(train=0, test=1)))
    assert (responses(config.data), responses(config.eval_data)) == (["one"], ["two"])


def test_held_out_rows_that_are_given_go_first(tmp_path, capsys):
    config = keep(tmp_path, splits(train=0, test=1), splits(test=2, extra=0))
    assert (responses(config.data), responses(config.eval_data)) == (["one"], ["three"])
    assert keep(tmp_path, splits(train=0, test=1), eval_data=("other.jsonl",)).eval_data == ("other.jsonl",)
    assert keep(tmp_path, splits(train=0, extra=1)).eval_data == ()
    assert "held-out" not in capsys.readouterr().out


class Letters:
    """Nothing that has rows."""


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (Letters(), "train_dataset is of type Letters; give a datasets.Dataset, a pandas.DataFrame"),
        (7, "train_dataset is of type int; give"),
        (b"rows", "train_dataset is of type bytes; give"),
        (["prompt", "completion"], "row 0 of train_dataset is of type str, expected a mapping of column to value"),
        ({"prompt": "a", "completion": "b"}, "its column 'prompt' is of type str, expected a list"),
        ({"prompt": ["a"], "completion": ["b", "c"]}, r"differ in length \(prompt has 1, completion has 2 rows\)"),
        (splits(first=0, second=1), r"splits first, second and none that is called train; .*dataset\['first'\]"),
        (pandas.DataFrame([["a", "b"]], columns=["text", "text"]), "has two columns of one name"),
    ],
)
def test_anything_else_is_told_what_to_give(tmp_path, rows, expected):
    with pytest.raises(DemotuneError, match=expected):
        keep(tmp_path, rows)


def test_held_out_splits_without_a_usual_name_are_listed(tmp_path):
    with pytest.raises(DemotuneError, match=r"eval_dataset has the splits a, b and none .* validation or test"):
        keep(tmp_path, ROWS, splits(a=0, b=1))
