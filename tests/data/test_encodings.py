"""Bytes on a disk: encodings, delimiters, Parquet's types, bounds, and what is said about files that cannot be read."""

import codecs
import csv
import datetime
import errno
import gzip
import io
import json
import os
import zlib
from pathlib import Path

import pyarrow
import pytest
from helpers.outside import OUTSIDE
from pyarrow import parquet

from demotune.common.errors import DemotuneError
from demotune.data import load_demonstrations, read_prompt_file
from demotune.data.readers import streams

ROWS = [("Naïve?\r\nSay.", "Yes, “so”"), ("2+2?", "4")]
JSONL = "".join(json.dumps({"prompt": p, "completion": c}, ensure_ascii=False) + "\n" for p, c in ROWS)
DOCUMENT = json.dumps([{"prompt": p, "completion": c} for p, c in ROWS], ensure_ascii=False)
CSV = 'prompt,completion\r\n"Naïve?\r\nSay.","Yes, “so”"\r\n2+2?,4\r\n'
MARKED = {
    "utf-8": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}


def pairs(path):
    return [(d.prompt[-1]["content"], d.response) for d in load_demonstrations([str(path)]).rows]


@pytest.mark.parametrize("encoding", MARKED)
@pytest.mark.parametrize(("name", "text"), [("a.jsonl", JSONL), ("a.json", DOCUMENT), ("a.csv", CSV)])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_byte_order_mark_names_the_encoding(tmp_path, encoding, name, text, zipped):
    content = MARKED[encoding] + text.encode(encoding)
    path = tmp_path / (name + ".gz" * zipped)
    path.write_bytes(gzip.compress(content) if zipped else content)
    assert pairs(path) == ROWS


MISNAMED = {
    "gzip": (gzip.compress(JSONL.encode()), "name it .gz too"),
    "a zip archive or a spreadsheet": (b"PK\x03\x04" + bytes(50), "export it as CSV"),
    "Parquet": (b"PAR1" + bytes(50), "name it .parquet"),
    "packed with zstd": (b"\x28\xb5\x2f\xfd" + bytes(50), "unpack it"),
}


@pytest.mark.parametrize(("kind", "content", "fix"), [(k, *v) for k, v in MISNAMED.items()], ids=MISNAMED)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_a_file_of_another_kind_than_its_name_says_is_named(tmp_path, name, kind, content, fix):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DemotuneError, match=f"{name} is no text but {kind}, whatever its name says; .*{fix}"):
        load_demonstrations([str(tmp_path / name)])


def test_a_table_without_line_feeds_says_so(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"prompt,completion\ra,b\r")
    with pytest.raises(DemotuneError, match="save it with line feeds"):
        load_demonstrations([str(tmp_path / "a.csv")])


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
@pytest.mark.parametrize(("name", "text"), [("a.jsonl", JSONL), ("a.json", DOCUMENT), ("a.csv", CSV)])
def test_utf_16_without_a_mark_is_one_error_that_names_it(tmp_path, encoding, name, text):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    with pytest.raises(DemotuneError, match=rf"{name} is not UTF-8: .* as in UTF-16 .* save it as UTF-8"):
        load_demonstrations([str(path)])


@pytest.mark.parametrize(("name", "text"), [("a.jsonl", JSONL), ("a.json", DOCUMENT)])
def test_a_mark_that_lies_is_one_error(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(codecs.BOM_UTF16_LE + text.encode("utf-16-le") + b"x")
    with pytest.raises(DemotuneError, match="byte order mark of UTF-16-LE but is not"):
        load_demonstrations([str(path)])


def test_a_row_in_another_encoding_says_which_it_probably_is(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(JSONL.encode() + '{"prompt": "café", "completion": "x"}'.encode("cp1252"))
    (bad,) = load_demonstrations([str(path)]).bad_rows
    assert (bad.reason, bad.detail) == (
        "invalid UTF-8", "byte 0xe9 at position 15; is it Windows-1252? save the file as UTF-8",
    )  # fmt: skip


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_the_delimiter_is_what_stands_between_the_columns(tmp_path, delimiter, name):
    lines = [("id", "prompt", "completion"), ("1", '"a, b; c\t|"', "d"), ("2", "e", '"f\n,,,\n;;"'), ("3", "g", "h")]
    path = tmp_path / name
    path.write_text("\n".join(delimiter.join(cells) for cells in lines))
    assert pairs(path) == [("a, b; c\t|", "d"), ("e", "f\n,,,\n;;"), ("g", "h")]


def test_a_header_that_two_delimiters_divide_is_read_as_its_rows_are(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("prompt;completion;a,b\n1;2;3\n4;5;6\n")
    assert pairs(path) == [("1", "2"), ("4", "5")]


def test_the_delimiter_that_excel_declares_is_taken(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("sep=;\nprompt;completion\na;b\n")
    (found,) = load_demonstrations([str(path)]).rows
    assert (found.response, found.source) == ("b", f"{path}:3")


def test_messages_that_pandas_wrote_as_python_are_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("prompt,completion\na,b\n\"[{'role': 'user', 'content': 'c'}]\",d\n")
    (bad,) = load_demonstrations([str(path)]).bad_rows
    assert (bad.source, bad.reason) == (f"{path}:3", "wrong type")
    assert "json.dumps" in bad.detail


def test_messages_in_csv_with_a_key_twice_are_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('prompt,completion\na,b\n"[{""role"": ""user"", ""role"": ""user"", ""content"": ""c""}]",d\n')
    loaded = load_demonstrations([str(path)])
    assert [(bad.source, bad.reason) for bad in loaded.bad_rows] == [(f"{path}:3", "key given twice")]


def test_a_key_twice_refuses_its_row_of_a_json_document_only(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d", "prompt": "e"}]')
    loaded = load_demonstrations([str(path)])
    assert [d.response for d in loaded.rows] == ["b"]
    assert [(bad.source, bad.reason) for bad in loaded.bad_rows] == [(f"{path}:2", "key given twice")]


def write_parquet(path, **columns):
    parquet.write_table(pyarrow.table(columns), path)


FAR = pyarrow.array([2**55, 0], pyarrow.timestamp("ms"))


def test_parquet_columns_of_no_format_are_not_read(tmp_path):
    path = tmp_path / "a.parquet"
    write_parquet(path, id=[1, 2], prompt=["a", "b"], completion=["c", "d"], seen=FAR)
    loaded = load_demonstrations([str(path)])
    assert [d.response for d in loaded.rows] == ["c", "d"]
    assert loaded.notes == (
        f"read {path}: prompt and completion; columns used: prompt, completion; not used: id, seen",
    )


def nested(values, *names):
    fields = [pyarrow.field(name, values[0].type) for name in names]
    return pyarrow.StructArray.from_arrays(values, fields=fields)


UNREADABLE = {
    "a date out of range": (FAR, "a value of the type timestamp[ms] cannot be read"),
    "a duration out of range": (pyarrow.array([2**62, 0], pyarrow.duration("s")), "duration[s]"),
    "a time zone that nobody knows": (pyarrow.array([0, None], pyarrow.timestamp("s", "Mars/Olympus")), "Mars"),
}


@pytest.mark.parametrize(("values", "detail"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_parquet_value_that_cannot_be_read_refuses_its_row(tmp_path, values, detail):
    path = tmp_path / "a.parquet"
    write_parquet(path, prompt=["a", "b"], completion=["c", "d"], documents=values)
    loaded = load_demonstrations([str(path)])
    assert loaded.bad_rows[0].source == f"{path}:1"
    assert loaded.bad_rows[0].reason == "unreadable value"
    assert detail in loaded.bad_rows[0].detail


def test_parquet_objects_with_a_field_twice_are_refused(tmp_path):
    path = tmp_path / "a.parquet"
    text = pyarrow.array(["a", "b"])
    write_parquet(path, prompt=["a", "b"], completion=["c", "d"], documents=nested([text, text], "x", "x"))
    loaded = load_demonstrations([str(path)])
    assert [bad.reason for bad in loaded.bad_rows] == ["unreadable value"] * 2
    assert "duplicate field names" in loaded.bad_rows[0].detail


def test_a_parquet_column_twice_is_one_error(tmp_path):
    path = tmp_path / "a.parquet"
    text = pyarrow.array(["a", "b"])
    parquet.write_table(pyarrow.Table.from_arrays([text, text, text], names=["prompt", "completion", "prompt"]), path)
    with pytest.raises(DemotuneError, match=r"a\.parquet has the column prompt twice"):
        load_demonstrations([str(path)])


def test_nulls_that_parquet_fills_into_tools_are_not_there(tmp_path):
    path = tmp_path / "a.parquet"
    tools = [[{"name": "f", "parameters": {"x": "int"}}], [{"name": "g", "parameters": {"y": "str"}}]]
    write_parquet(path, prompt=["a", "b"], completion=["c", "d"], tools=tools)
    assert [list(d.context.tools) for d in load_demonstrations([str(path)]).rows] == tools


def test_a_dataset_with_dates_and_pictures_it_does_not_need(tmp_path):
    import datasets

    rows = {
        "prompt": ["a", "b"],
        "completion": ["c", "d"],
        "when": [datetime.datetime(2024, 1, 1)] * 2,
        "image": [None, {"bytes": b"no picture", "path": None}],
    }
    features = datasets.Features(
        prompt=datasets.Value("string"),
        completion=datasets.Value("string"),
        when=datasets.Value("timestamp[s]"),
        image=datasets.Image(),
    )
    datasets.Dataset.from_dict(rows).cast(features).save_to_disk(str(tmp_path / "saved"))
    loaded = load_demonstrations([str(tmp_path / "saved")])
    assert [d.response for d in loaded.rows] == ["c"]
    assert [bad.reason for bad in loaded.bad_rows] == ["non-text content"]
    assert loaded.notes[0].endswith("columns used: prompt, completion; not used: when")


def test_a_line_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "LARGEST_LINE", 2000)
    for encoding in ("utf-8", "utf-16"):
        path = tmp_path / "a.jsonl"
        path.write_text(JSONL + " " * 2000, encoding=encoding)
        with pytest.raises(DemotuneError, match=r"a\.jsonl has a line of more than"):
            load_demonstrations([str(path)])


def test_a_json_document_that_is_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "LARGEST_DOCUMENT", 50)
    path = tmp_path / "a.json"
    path.write_text(DOCUMENT)
    with pytest.raises(DemotuneError, match=r"a\.json has more than .* write it as JSON Lines"):
        load_demonstrations([str(path)])


ROW = b'{"prompt": "a", "completion": "b"}\n'


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.gz", "a.csv.gz", "a.parquet.gz"])
def test_a_gzip_bomb_is_refused_before_it_is_unpacked(tmp_path, name):
    """80 MiB in some 80 KiB: more than the 64 MiB, and 100 times its size, that a file may unpack to."""
    row = b"a," + b"b" * 2**20 + b"\n" if "csv" in name else ROW.replace(b"b", b"b" * 2**20)
    path = tmp_path / name
    path.write_bytes(gzip.compress((b"prompt,completion\n" if "csv" in name else b"") + row * 80))
    with pytest.raises(DemotuneError, match=rf"{name} unpacks to more than 100 times its size"):
        load_demonstrations([str(path)])


def test_a_cell_without_end_refuses_its_row(tmp_path, monkeypatch):
    limit = csv.field_size_limit
    monkeypatch.setattr(csv, "field_size_limit", lambda _: limit(100))
    path = tmp_path / "a.csv"
    path.write_text("prompt,completion\na,b\n" + "x" * 200 + ",d\ne,f\n")
    loaded = load_demonstrations([str(path)])
    assert [(bad.source, bad.reason) for bad in loaded.bad_rows] == [(f"{path}:3", "broken CSV")]
    assert [d.response for d in loaded.rows] == ["b", "f"]


ADVICE = {
    "a.xlsx": "export it as CSV, from the spreadsheet program or with pandas",
    "a.zip": "unpack it and give the folder",
    "a.tar.gz": "unpack it and give the folder",
    "a.jsonl.zst": "unpack it first; only .gz is read packed (zstd -d)",
    "a.txt": "write each row as JSON",
    "a.doc": "convert it to one of these",
}


@pytest.mark.parametrize(("name", "fix"), ADVICE.items(), ids=ADVICE)
def test_a_file_of_another_kind_gets_the_fix_that_works(tmp_path, name, fix):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DemotuneError) as caught:
        load_demonstrations([str(tmp_path / name)])
    assert fix in str(caught.value)
    assert "rename" not in str(caught.value)


def test_files_of_a_folder_that_are_passed_over_are_named(tmp_path):
    for name in ("more.zip", "README.md", "old.xlsx"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DemotuneError, match=r"holds no data file; .* it has .*more\.zip, which must be unpacked"):
        load_demonstrations([str(tmp_path)])
    (tmp_path / "a.jsonl").write_text(JSONL)
    notes = load_demonstrations([str(tmp_path)]).notes
    assert notes[1] == (
        f"{tmp_path}: files not read (unpack or convert them first): {tmp_path}/more.zip, {tmp_path}/old.xlsx"
    )


REFUSED = {
    PermissionError(errno.EACCES, "Permission denied"): r"Permission denied\); give yourself the right to read it",
    OSError(errno.EIO, "Input/output error"): r"Input/output error\); copy or download it again",
    IsADirectoryError(errno.EISDIR, "Is a directory"): r"Is a directory\); give a file",
    zlib.error("invalid block type"): r"invalid block type\); copy or download it again",
}


@pytest.mark.parametrize(("problem", "message"), REFUSED.items(), ids=lambda value: type(value).__name__)
def test_whatever_the_disk_refuses_is_one_error_with_path_cause_and_fix(tmp_path, monkeypatch, problem, message):
    path = tmp_path / "a.jsonl"
    path.write_text(JSONL)

    class Refusing(io.BufferedReader):
        def readline(self, size=-1):
            raise problem

    monkeypatch.setattr(Path, "open", lambda self, mode: Refusing(io.FileIO(self, mode)))
    with pytest.raises(DemotuneError, match=rf"a\.jsonl cannot be read \({message}"):
        load_demonstrations([str(path)])


def test_a_name_that_no_disk_takes_and_a_folder_that_may_not_be_listed(tmp_path, monkeypatch):
    with pytest.raises(DemotuneError, match=r"cannot be read \(File name too long\); check the path"):
        load_demonstrations(["x" * 5000 + ".jsonl"])
    with pytest.raises(DemotuneError, match=r"cannot be read \(File name too long\); check the path"):
        read_prompt_file(Path("x" * 5000 + ".txt"))
    (tmp_path / "inner").mkdir()
    (tmp_path / "a.jsonl").write_text(JSONL)

    def walk(folder, onerror, followlinks):
        onerror(PermissionError(errno.EACCES, "Permission denied", str(folder)))
        return []

    monkeypatch.setattr(os, "walk", walk)
    with pytest.raises(DemotuneError, match=r"cannot be read \(Permission denied\); give yourself the right"):
        load_demonstrations([str(tmp_path)])


TALK = [{"role": "developer", "content": "Be kind."}, {"role": "User", "content": [{"type": "text", "text": "Hi"}]}]
SYSTEM, HI = {"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}
PROMPT_FILES = {
    "a.txt": ("Hi\r\n\r\n", (HI,)),
    "a.jsonl": (json.dumps({"prompt": "Hi", "system": "Be kind."}), (SYSTEM, HI)),
    "b.jsonl": (json.dumps({"messages": TALK}), (SYSTEM, HI)),
    "c.jsonl": (json.dumps({"instruction": "Hi", "input": "", "output": "x"}), (HI,)),
    "a.json": (json.dumps([{"conversations": [{"from": "human", "value": "Hi"}]}]), (HI,)),
    "a.csv": ("id;question\r\n1;Hi\r\n", (HI,)),
}


@pytest.mark.parametrize("encoding", MARKED)
@pytest.mark.parametrize("name", PROMPT_FILES)
def test_prompts_are_read_as_data_is(tmp_path, name, encoding):
    text, prompt = PROMPT_FILES[name]
    path = tmp_path / name
    path.write_bytes(MARKED[encoding] + text.encode(encoding))
    assert [found for _, found in read_prompt_file(path)] == [prompt]
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert [found for _, found in read_prompt_file(packed)] == [prompt]


def test_prompts_in_parquet(tmp_path):
    write_parquet(tmp_path / "a.parquet", prompt=["Hi"], seen=FAR[:1])
    assert read_prompt_file(tmp_path / "a.parquet") == [(f"{tmp_path}/a.parquet:1", (HI,))]


@pytest.mark.parametrize("name", ["prompts_bom.txt", "prompts_bom.jsonl"])
def test_prompt_files_that_failed_once(name):
    path = OUTSIDE / "cases" / name
    if not path.is_file():
        pytest.skip(f"{path} is not here; it is not part of the project")
    assert read_prompt_file(path)[0][1] == ({"role": "user", "content": "First prompt?"},)


BAD_PROMPTS = {
    "a.txt": (b"good\ncaf\xe9\n", "a.txt:2 is not UTF-8: byte 0xe9"),
    "a.jsonl": (b'{"prompt": "Hi", "tools": [{"name": "f"}]}', "tools or documents"),
    "b.jsonl": (b'{"prompt": "Hi", "image": "a.png"}', "image is text"),
    "c.jsonl": (b'{"text": "Hi"}', "it has none of prompt"),
    "a.xlsx": (b"x", "neither text nor data"),
}


@pytest.mark.parametrize(("name", "content", "message"), [(k, *v) for k, v in BAD_PROMPTS.items()], ids=BAD_PROMPTS)
def test_a_prompt_that_cannot_be_used_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DemotuneError, match=message):
        read_prompt_file(tmp_path / name)


def test_damage_to_a_parquet_file_gives_good_rows_bad_rows_or_one_error(tmp_path):
    path = tmp_path / "a.parquet"
    write_parquet(path, prompt=["a", "b"], completion=["c", "d"], id=[1, 2])
    whole = path.read_bytes()
    for position in range(4, len(whole), 3):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xCA]) + whole[position + 1 :])
        try:
            load_demonstrations([str(path)])
        except DemotuneError as error:
            assert str(path) in str(error)


def test_messages_in_csv_are_messages_and_other_lists_are_text(tmp_path):
    """With a space after the bracket, too; a list of objects that are no messages is an answer."""
    messages = json.dumps([{"role": "user", "content": "Hi"}]).replace("[{", "[ {")
    cells = [messages, json.dumps([{"name": "Ann"}])]
    path = tmp_path / "rows.csv"
    quoted = ['"' + cell.replace('"', '""') + '"' for cell in cells]
    path.write_text("prompt,completion\n" + ",".join(quoted) + "\n")
    (row,) = load_demonstrations([str(path)]).rows
    assert row.prompt == ({"role": "user", "content": "Hi"},)
    assert row.response == '[{"name": "Ann"}]'


def test_linked_folders_are_read_once(tmp_path):
    real, folder = tmp_path / "real", tmp_path / "data"
    real.mkdir()
    folder.mkdir()
    (real / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    (folder / "link").symlink_to(real)
    (folder / "back").symlink_to(folder)
    assert [row.response for row in load_demonstrations([str(folder)]).rows] == ["b"]
