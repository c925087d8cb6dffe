"""Data sets that Python users pass: what they may be, and their rows."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pandas
from datasets import Dataset, IterableDataset

from demotune.common.errors import DemotuneError, one_line
from demotune.common.progress import say
from demotune.data.readers.arrow_tables import without_nulls

HELDOUT_SPLITS = ("validation", "test")
"""Names of splits to hold out, the first one that is there: rows that choose the best stage are no test any more."""
GIVE = "give a datasets.Dataset, a pandas.DataFrame, a dict of columns, a list of rows, or the path of a file"


def take_splits(train_dataset: Any, eval_dataset: Any, *, needs_eval: bool) -> tuple[Any, Any]:
    """(training, held-out) data sets; of a DatasetDict its split `train`, and `validation` or `test`.

    Held-out rows are taken from the training data's DatasetDict where `needs_eval` and none are given, which is said.
    Raises DemotuneError where a DatasetDict has no such split.
    """
    if _has_splits(train_dataset):
        if eval_dataset is None and needs_eval:
            split = next((name for name in HELDOUT_SPLITS if name in train_dataset), None)
            if split is not None:
                say(f"held-out rows are the split {split!r} of train_dataset")
                eval_dataset = train_dataset[split]
        train_dataset = _split_of(train_dataset, "train_dataset", ("train",))
    if _has_splits(eval_dataset):
        eval_dataset = _split_of(eval_dataset, "eval_dataset", HELDOUT_SPLITS)
    return train_dataset, eval_dataset


def json_lines(dataset: Any, name: str) -> Iterator[str]:
    """The rows as lines of JSON. Raises DemotuneError where `dataset` has no rows, or one cannot be read or written.

    ASCII, so that text with half a character can be written: its row is refused by name when the file is read.
    """
    for row in _rows(dataset, name):
        try:
            yield json.dumps({column: _or_none(value) for column, value in row.items()}, default=_plain) + "\n"
        except (TypeError, ValueError, RecursionError) as error:
            raise DemotuneError(f"a row of {name} cannot be written as JSON ({error}); give rows of text") from error


def _has_splits(dataset: Any) -> bool:
    return (
        isinstance(dataset, Mapping)
        and bool(dataset)
        and all(isinstance(split, Dataset | IterableDataset) for split in dataset.values())
    )


def _split_of(splits: Mapping[str, Any], name: str, wanted: Iterable[str]) -> Any:
    found = next((split for split in wanted if split in splits), None)
    if found is None:
        raise DemotuneError(
            f"{name} has the splits {', '.join(splits)} and none that is called {' or '.join(wanted)}; pass one of "
            f"them: {name}=dataset[{next(iter(splits))!r}]"
        )
    return splits[found]


def _rows(dataset: Any, name: str) -> Iterator[Mapping[str, object]]:
    """Each row once. A stream is read to its end."""
    if isinstance(dataset, IterableDataset):
        say(f"{name} is a stream: it is read to its end")
    try:
        for number, row in enumerate(_iterable(dataset, name)):
            if not isinstance(row, Mapping):
                raise DemotuneError(
                    f"row {number} of {name} is of type {type(row).__name__}, expected a mapping of column to value; "
                    f"{GIVE}"
                )
            yield {str(column): value for column, value in row.items()}
    except DemotuneError:
        raise
    except Exception as error:  # whatever a data set raises while it decodes pictures and sounds
        raise DemotuneError(
            f"the rows of {name} cannot be read ({one_line(error)}); leave out what is no text, with remove_columns"
        ) from error


def _iterable(dataset: Any, name: str) -> Iterable[Any]:
    if isinstance(dataset, Dataset | IterableDataset):
        return map(without_nulls, dataset)
    if isinstance(dataset, pandas.DataFrame):
        if not dataset.columns.is_unique:
            raise DemotuneError(
                f"{name} has two columns of one name ({', '.join(map(str, dataset.columns))}); drop one"
            )
        rows: list[Any] = dataset.astype(object).where(dataset.notna(), None).to_dict("records")
        return rows
    if isinstance(dataset, Mapping):
        return _rows_of_columns(dataset, name)
    if isinstance(dataset, Iterable) and not isinstance(dataset, bytes):
        return dataset
    raise DemotuneError(f"{name} is of type {type(dataset).__name__}; {GIVE}")


def _rows_of_columns(columns: Mapping[str, Any], name: str) -> list[dict[str, object]]:
    lengths = {}
    for column, values in columns.items():
        if isinstance(values, str | Mapping) or not hasattr(values, "__len__"):
            raise DemotuneError(
                f"{name} is a dict, and its column {column!r} is of type {type(values).__name__}, expected a list; "
                f"{GIVE}"
            )
        lengths[column] = len(values)
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{column} has {length}" for column, length in lengths.items())
        raise DemotuneError(f"the columns of {name} differ in length ({counts} rows); give each row all columns")
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _or_none(value: object) -> object:
    """pandas puts a number that is none in the place of a missing text."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _plain(value: Any) -> object:
    """Arrays as lists; in place of what JSON cannot hold an object, which is refused by name where it is read."""
    return value.tolist() if hasattr(value, "tolist") else {"type": type(value).__name__}
