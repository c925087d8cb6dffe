"""Files of each kind, folders, saved datasets and the hub: what is read, how it is labelled, what the hash covers."""

import csv
import gzip
import hashlib
import json
import subprocess
import sys

import pyarrow
import pytest
from pyarrow import parquet

from demotune.common.errors import DemotuneError
from demotune.data import load_demonstrations

ROWS = [{"prompt": "2+2?", "completion": "4"}, {"prompt": "Naïve?\nSay.", "completion": "Yes, “so”"}]
PAIRS = [("2+2?", "4"), ("Naïve?\nSay.", "Yes, “so”")]


def pairs(loaded):
    return [(d.prompt[-1]["content"], d.response) for d in loaded.rows]


def as_jsonl(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def write_csv(path, rows):
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def write_as(path, rows):
    """Write rows in the format of the suffix of `path`."""
    if path.suffix == ".csv":
        write_csv(path, rows)
    elif path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_bytes(json.dumps(rows, ensure_ascii=False).encode())
    else:
        path.write_bytes(as_jsonl(rows))


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".json", ".csv", ".parquet"])
@pytest.mark.parametrize("zipped", [False, True])
def test_each_kind_of_file_gives_the_same_rows(tmp_path, suffix, zipped):
    path = tmp_path / f"rows{suffix}"
    write_as(path, ROWS)
    if zipped:
        content = path.read_bytes()
        path = tmp_path / f"rows{suffix}.GZ"
        path.write_bytes(gzip.compress(content))
        (tmp_path / f"rows{suffix}").unlink()
    loaded = load_demonstrations([str(path)])
    assert pairs(loaded) == PAIRS
    first, second = (2, 3) if suffix == ".csv" else (1, 2)  # line 1 of CSV is the header
    assert [d.source for d in loaded.rows] == [f"{path}:{first}", f"{path}:{second}"]
    assert loaded.hashes == {str(path): hashlib.sha256(path.read_bytes()).hexdigest()}


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path):
    for suffix in (".jsonl", ".json", ".csv"):
        path = tmp_path / f"rows{suffix}"
        write_as(path, ROWS)
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        assert pairs(load_demonstrations([str(path)])) == PAIRS


def test_windows_line_ends(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(as_jsonl(ROWS).replace(b"\n", b"\r\n"))
    assert pairs(load_demonstrations([str(path)])) == PAIRS


def test_json_with_a_data_key_and_json_lines_called_json(tmp_path):
    wrapped, lines = tmp_path / "wrapped.json", tmp_path / "lines.json"
    wrapped.write_text(json.dumps({"version": 1, "data": ROWS}))
    lines.write_bytes(as_jsonl(ROWS) + b"{broken\n")
    assert pairs(load_demonstrations([str(wrapped)])) == PAIRS
    loaded = load_demonstrations([str(lines)])
    assert pairs(loaded) == PAIRS
    assert [(bad.source, bad.reason) for bad in loaded.bad_rows] == [(f"{lines}:3", "broken JSON")]


def test_bad_rows_inside_a_json_list(tmp_path):
    path = tmp_path / "rows.json"
    path.write_bytes(b'[7, {"prompt": "caf\xe9?", "completion": "x"}, {"prompt": "a", "completion": "b"}]')
    loaded = load_demonstrations([str(path)])
    assert pairs(loaded) == [("a", "b")]
    assert [(bad.source, bad.reason) for bad in loaded.bad_rows] == [
        (f"{path}:1", "not an object"),
        (f"{path}:2", "invalid UTF-8"),
    ]


def test_bad_rows_inside_csv_are_labelled_with_their_first_line(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(
        b"prompt,completion\n"  # line 1
        b'"two\nlines",yes\n'  # lines 2 and 3
        b"only one cell\n"  # line 4
        b"caf\xe9?,x\n"  # line 5
        b'"a"b,x\n'  # line 6
        b"\n"  # line 7
        b"last good,x\n"  # line 8
        b'"never closed,x\n'  # line 9
        b"swallowed,x\n"  # line 10
    )
    loaded = load_demonstrations([str(path)])
    assert pairs(loaded) == [("two\nlines", "yes"), ("last good", "x")]
    assert [d.source for d in loaded.rows] == [f"{path}:2", f"{path}:8"]
    assert [(bad.source, bad.reason) for bad in loaded.bad_rows] == [
        (f"{path}:4", "broken CSV"),
        (f"{path}:5", "invalid UTF-8"),
        (f"{path}:6", "broken CSV"),
        (f"{path}:9", "broken CSV"),
    ]
    assert loaded.bad_rows[0].detail == "1 cells, but the header has 2"
    assert loaded.bad_rows[3].detail.endswith("lines 9 to 10")


def test_csv_cells_hold_long_text_and_messages_as_json(tmp_path):
    path = tmp_path / "rows.csv"
    messages = json.dumps([{"role": "user", "content": "x" * 200_000}])
    write_csv(path, [{"prompt": messages, "completion": "y"}, {"prompt": "[{maths}]", "completion": "z"}])
    assert pairs(load_demonstrations([str(path)])) == [("x" * 200_000, "y"), ("[{maths}]", "z")]


def test_parquet_messages_carry_nulls_for_the_keys_of_other_messages(tmp_path):
    path = tmp_path / "rows.parquet"
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "add"}]}
    plain = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
    parquet.write_table(pyarrow.Table.from_pylist([{"messages": plain}, {"messages": [plain[0], call]}]), path)
    loaded = load_demonstrations([str(path)])
    assert pairs(loaded) == [("2+2?", "4")]
    assert [(bad.source, bad.reason) for bad in loaded.bad_rows] == [(f"{path}:2", "tool call")]


def test_parquet_text_that_is_not_utf8_refuses_only_its_row(tmp_path):
    path = tmp_path / "rows.parquet"
    texts = [b"good", b"caf\xe9", b"also good"]
    invalid = pyarrow.array(texts, pyarrow.binary()).cast(pyarrow.string(), safe=False)
    parquet.write_table(pyarrow.table({"prompt": invalid, "completion": ["a", "b", "c"]}), path)
    loaded = load_demonstrations([str(path)])
    assert pairs(loaded) == [("good", "a"), ("also good", "c")]
    assert [(bad.source, bad.reason, bad.detail) for bad in loaded.bad_rows] == [
        (f"{path}:2", "invalid UTF-8", "byte 0xe9 at position 3 of a text")
    ]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "data"
    (folder / "a").mkdir(parents=True)
    (folder / ".cache").mkdir()
    write_as(folder / "b.csv", [{"instruction": "from b", "output": "1"}])
    write_as(folder / "a" / "z.jsonl", [{"prompt": "from a/z", "completion": "2"}])
    (folder / "a" / "empty.jsonl").touch()
    (folder / ".cache" / "hidden.jsonl").write_text("{broken")
    (folder / "README.md").write_text("not data")
    return folder


def test_a_folder_is_all_its_data_files_sorted_each_with_its_own_format(folder):
    loaded = load_demonstrations([str(folder)])
    assert pairs(loaded) == [("from a/z", "2"), ("from b", "1")]
    assert [d.source for d in loaded.rows] == [f"{folder}/a/z.jsonl:1", f"{folder}/b.csv:2"]
    assert loaded.formats == {str(folder): "prompt and completion; Alpaca: instruction, input, output"}
    assert loaded.bad_rows == ()


def test_the_hash_of_a_folder_follows_names_and_bytes_of_data_files_only(folder):
    def content_hash():
        return load_demonstrations([str(folder)]).hashes[str(folder)]

    before = content_hash()
    (folder / "README.md").write_text("changed")
    assert content_hash() == before
    moved = folder.rename(folder.parent / "elsewhere")
    assert load_demonstrations([str(moved)]).hashes[str(moved)] == before
    moved.rename(folder)
    (folder / "b.csv").rename(folder / "c.csv")
    renamed = content_hash()
    assert renamed != before
    write_as(folder / "c.csv", [{"instruction": "from b", "output": "changed"}])
    assert content_hash() not in {before, renamed}


def test_a_folder_written_by_save_to_disk(tmp_path):
    import datasets

    saved = tmp_path / "saved"
    datasets.Dataset.from_list(ROWS).save_to_disk(str(saved))
    loaded = load_demonstrations([str(saved)])
    assert pairs(loaded) == PAIRS
    assert [d.source for d in loaded.rows] == [f"{saved}:1", f"{saved}:2"]
    (saved / "cache-1234.arrow").write_bytes(b"what map() leaves behind")
    assert load_demonstrations([str(saved)]).hashes == loaded.hashes
    (saved / "state.json").unlink()
    with pytest.raises(DemotuneError, match="looks like a dataset written by save_to_disk but cannot be read"):
        load_demonstrations([str(saved)])


def test_a_saved_dataset_dict_is_its_train_split(tmp_path):
    import datasets

    train, test = (datasets.Dataset.from_list([row]) for row in ROWS)
    datasets.DatasetDict({"test": test, "train": train}).save_to_disk(str(tmp_path / "both"))
    assert pairs(load_demonstrations([str(tmp_path / "both")])) == PAIRS[:1]
    assert pairs(load_demonstrations([str(tmp_path / "both" / "test")])) == PAIRS[1:]
    datasets.DatasetDict({"a": test, "b": train}).save_to_disk(str(tmp_path / "no_train"))
    with pytest.raises(DemotuneError, match=r"has the splits a, b and no train; give one, as .*no_train/a$"):
        load_demonstrations([str(tmp_path / "no_train")])


@pytest.mark.parametrize(("source", "split"), [("owner/name", "train"), ("owner/some.name:test_sft", "test_sft")])
def test_a_hub_dataset_is_asked_for_by_name_and_split(monkeypatch, source, split):
    import datasets

    asked = []

    def load_dataset(name, split):
        asked.append((name, split))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    loaded = load_demonstrations([source])
    assert asked == [(source.partition(":")[0], split)]
    assert pairs(loaded) == PAIRS
    assert [d.source for d in loaded.rows] == [f"{source}:1", f"{source}:2"]
    assert loaded.hashes == {source: datasets.Dataset.from_list(ROWS)._fingerprint}


def test_an_unreachable_hub_says_what_was_tried_and_the_way_around(monkeypatch):
    import datasets

    def load_dataset(name, split):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DemotuneError) as caught:
        load_demonstrations(["owner/name"])
    message = str(caught.value)
    assert "no such file or folder" in message
    assert "hub dataset owner/name (split train) failed: ConnectionError: no route to host" in message
    assert "hf download owner/name --repo-type dataset" in message


BROKEN_FILES = {
    "missing.jsonl": (None, "does not exist"),
    "empty.jsonl": (b"", "has no rows"),
    "blank.jsonl": (b"\n \n", "has no rows"),
    "empty.json": (b"", "has no rows"),
    "empty_list.json": (b"[]", "has no rows"),
    "header_only.csv": (b"prompt,completion\n", "has no rows"),
    "rows.txt": (b"x", r"suffix '\.txt', which is not one of \.jsonl"),
    "broken.json": (b'[{"prompt": ', "is not valid JSON .*line 1 column 13.*name it .jsonl"),
    "trailing.json": (b"[]]", "is not valid JSON .*Extra data"),
    "settings.json": (b'{"lr": 1}', "holds a dict of 1, not rows; expected a list of objects"),
    "twice.csv": (b"prompt,prompt\na,b\n", "names a column twice"),
    "header.csv": (b'"a"b,c\n', "broken header"),
    "not_zipped.jsonl.gz": (b"plain", "cannot be read"),
    "cut.jsonl.gz": (gzip.compress(as_jsonl(ROWS))[:-12], "cannot be read"),
    "bad.parquet": (b"plain text, no parquet", "not valid Parquet"),
    "bad.parquet.gz": (gzip.compress(b"plain text, no parquet"), "not valid Parquet"),
}


@pytest.mark.parametrize(("name", "content", "message"), [(k, *v) for k, v in BROKEN_FILES.items()], ids=BROKEN_FILES)
def test_a_file_that_cannot_be_used_is_named_with_the_problem(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DemotuneError, match=message) as caught:
        load_demonstrations([str(path)])
    assert str(path) in str(caught.value)


def test_a_folder_without_data_files(tmp_path):
    (tmp_path / "README.md").touch()
    with pytest.raises(DemotuneError, match=r"holds no data file; expected \.jsonl"):
        load_demonstrations([str(tmp_path)])


def test_a_pipe_is_refused_instead_of_half_read():
    with pytest.raises(DemotuneError, match="/dev/null is neither a file nor a folder"):
        load_demonstrations(["/dev/null"])


@pytest.mark.parametrize("sources", [[], [""]])
def test_no_source(sources):
    with pytest.raises(DemotuneError, match="--data"):
        load_demonstrations(sources)


def test_a_source_given_twice(tmp_path):
    with pytest.raises(DemotuneError, match=r"x\.jsonl is given twice"):
        load_demonstrations(["x.jsonl", "y.jsonl", "x.jsonl"])


def test_importing_loads_no_heavy_library():
    code = "import sys, demotune.data; print({'datasets', 'pyarrow', 'pandas', 'numpy', 'torch'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
