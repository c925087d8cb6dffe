"""Rows of one file: JSONL, JSON, CSV or Parquet, gzipped or not. Files are streamed where their format allows it."""

from collections.abc import Callable
from functools import partial
from io import BufferedReader
from pathlib import Path

from demotune.common.errors import DemotuneError
from demotune.data.raw_rows import Rows
from demotune.data.readers.arrow_tables import parquet_rows
from demotune.data.readers.csv_files import csv_rows
from demotune.data.readers.json_files import json_rows, jsonl_rows
from demotune.data.readers.streams import opened

_TEXT_READERS: dict[str, Callable[[BufferedReader, str], Rows]] = {
    ".jsonl": jsonl_rows,
    ".ndjson": jsonl_rows,
    ".json": json_rows,
    ".csv": csv_rows,
    ".tsv": csv_rows,
}
SUFFIXES = (*_TEXT_READERS, ".parquet")

_SPREADSHEET = "export it as CSV, from the spreadsheet program or with pandas (pandas.read_excel, then to_csv)"
_ARCHIVE = "unpack it and give the folder"
_PACKED = "unpack it first; only .gz is read packed"
_FIXES = {
    ".xlsx": _SPREADSHEET, ".xls": _SPREADSHEET, ".xlsm": _SPREADSHEET, ".ods": _SPREADSHEET,
    ".zip": _ARCHIVE, ".tar": _ARCHIVE, ".tgz": _ARCHIVE, ".7z": _ARCHIVE, ".rar": _ARCHIVE,
    ".zst": f"{_PACKED} (zstd -d)", ".xz": f"{_PACKED} (unxz)", ".bz2": f"{_PACKED} (bunzip2)", ".lz4": _PACKED,
    ".arrow": "give the folder that datasets' save_to_disk wrote, or export it with to_parquet",
    ".feather": "export it with pandas.read_feather, then to_parquet",
    ".pq": "rename it to .parquet", ".jsonlines": "rename it to .jsonl", ".jl": "rename it to .jsonl",
    ".txt": "write each row as JSON with a prompt and a completion, one a line, to a .jsonl file",
}  # fmt: skip


def is_data_file(path: Path) -> bool:
    """Whether the name ends in one of the known suffixes, with or without .gz."""
    return _kind(path) in SUFFIXES


def is_other_file(path: Path) -> bool:
    """Whether the suffix is that of a data format which must be converted first."""
    return _kind(path) in _FIXES.keys() - {".txt"}


def file_rows(path: Path, reads: Callable[[str], bool] = lambda _: True) -> Rows:
    """Rows of a file in their order; source labels are `PATH:LINE`, or `PATH:ROW` for JSON and Parquet, from 1.

    reads: which columns mean something to a format; of Parquet only those are read, if there is one.

    A row that cannot be read becomes a `BadRow`. Blank lines are no rows. Raises DemotuneError when the file as a
    whole cannot be read, or when its suffix is not known.
    """
    refuse_other_suffix(path)
    kind = _kind(path)
    reader = partial(parquet_rows, reads=reads) if kind == ".parquet" else _TEXT_READERS[kind]
    with opened(path) as stream:
        yield from reader(stream, str(path))


def refuse_other_suffix(path: Path) -> None:
    """Raise DemotuneError for a file with the suffix of no format that is read."""
    kind = _kind(path)
    if kind not in SUFFIXES:
        fix = _FIXES.get(kind, "convert it to one of these, for example JSONL with a prompt and a completion a line")
        raise DemotuneError(
            f"{path} has {f'the suffix {path.suffix!r}' if path.suffix else 'no suffix'}, which is not one of "
            f"{', '.join(SUFFIXES)} (or these with .gz); {fix}"
        )


def _kind(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix
