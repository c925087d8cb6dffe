"""Files appear whole or not at all, journals lose only what was torn, a run folder has one owner."""

import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from demotune.common.errors import DemotuneError
from demotune.common.files import (
    UNFINISHED,
    file_hash,
    first_damaged,
    folder_hash,
    link_or_copy,
    publish_file,
    publish_folder,
    read_json,
    read_rows,
    seal,
    write_json,
    write_record,
    write_rows,
)
from demotune.common.journals import Journal, read_journal
from demotune.runs.folder import RunFolder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if UNFINISHED not in path.name}


# Publishing ----------------------------------------------------------------------------------------------------------


def test_a_file_takes_its_name_when_the_block_ends(tmp_path: Path) -> None:
    file = tmp_path / "new" / "a.txt"
    with publish_file(file) as unfinished:
        unfinished.write_text("whole")
        assert not file.exists()
    assert file.read_text() == "whole"
    assert list(file.parent.iterdir()) == [file]


def test_a_folder_in_the_place_of_a_file_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write_json(tmp_path / "taken", 1)
    assert caught.value.filename == str(tmp_path / "taken")
    assert [file.name for file in tmp_path.iterdir()] == ["taken"]


def test_a_file_that_fails_half_way_leaves_the_old_one(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_json(file, "old")
    before = file.read_bytes()
    with pytest.raises(ZeroDivisionError), publish_file(file) as unfinished:
        unfinished.write_text("hal")
        raise ZeroDivisionError
    assert file.read_bytes() == before
    with pytest.raises(TypeError):
        write_json(file, {"not": {"json"}})
    with pytest.raises(TypeError):
        write_rows(file, [{"fine": 1}, {"not": {"json"}}])
    assert file.read_bytes() == before
    assert names(tmp_path) == {"a.txt"}
    write_json(file, "new")  # what the failure left behind is not in the way
    assert json.loads(file.read_text()) == "new"


def test_a_folder_that_fails_half_way_leaves_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with publish_folder(folder) as unfinished:
        (unfinished / "old.txt").write_text("old")
    with pytest.raises(ZeroDivisionError), publish_folder(folder) as unfinished:
        (unfinished / "torn.txt").write_text("hal")
        raise ZeroDivisionError
    assert names(folder) == {"old.txt"}
    assert names(tmp_path) == {"model"}


def test_a_published_folder_replaces_the_old_one_and_holds_nothing_of_a_failed_try(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "model"
    for name in ("first", "second"):
        with pytest.raises(ZeroDivisionError), publish_folder(folder) as unfinished:
            (unfinished / "torn.txt").write_text("hal")
            raise ZeroDivisionError
        with publish_folder(folder) as unfinished:
            (unfinished / "inner").mkdir()
            (unfinished / "inner" / name).write_text(name)
    assert names(folder) == {"inner"}
    assert names(folder / "inner") == {"second"}
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_process_that_dies_while_writing_leaves_the_old_content(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "target"
    if kind == "file":
        target.write_text("old")
        inside = "path.write_text('hal')"
    else:
        target.mkdir()
        (target / "a.txt").write_text("old")
        inside = "(path / 'a.txt').write_text('hal')"
    code = (
        "import os, sys; from pathlib import Path; from demotune.common.files import publish_file, publish_folder\n"
        f"with publish_{kind}(Path(sys.argv[1])) as path:\n    {inside}\n    os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(target)], check=False).returncode == 9
    assert (target if kind == "file" else target / "a.txt").read_text() == "old"


def test_a_second_name_for_a_folder_has_the_same_files(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for folder, text in ((source, "new"), (target, "old")):
        (folder / "inner").mkdir(parents=True)
        (folder / "inner" / f"{text}.txt").write_text(text)
    link_or_copy(source, target)
    assert names(target / "inner") == {"new.txt"}
    assert (target / "inner" / "new.txt").read_text() == "new"
    assert (target / "inner" / "new.txt").samefile(source / "inner" / "new.txt")  # no space is used twice


# Rows ----------------------------------------------------------------------------------------------------------------

AWKWARD = [
    {"text": 'line\nbreak \r\n tab\t quote" back\\slash', "ids": [1, 2], "no": None, "yes": True, "x": 1e-7},
    {"text": "separators \u2028 \u2029 \x85 \x1c \x0b \x0c, snow ☃, emoji 🧊, nul \x00"},
    {},
]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_rows_come_back_as_they_were(tmp_path: Path, name: str) -> None:
    write_rows(tmp_path / name, AWKWARD)
    assert read_rows(tmp_path / name) == AWKWARD
    write_rows(tmp_path / name, iter(()))
    assert read_rows(tmp_path / name) == []


def test_the_same_rows_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the name nor the time is in a gzip file: its hash is that of its content."""
    for number, time in enumerate((1.0, 2e9)):
        monkeypatch.setattr("time.time", lambda time=time: time)
        write_rows(tmp_path / f"{number}.jsonl.gz", AWKWARD)
    one, other = (tmp_path / f"{number}.jsonl.gz" for number in (0, 1))
    assert one.read_bytes() == other.read_bytes()
    assert file_hash(one) == file_hash(other)
    assert one.read_bytes()[4:8] == b"\0\0\0\0"  # the header's time
    write_rows(tmp_path / "plain.jsonl", AWKWARD)
    assert gzip.decompress(one.read_bytes()) == (tmp_path / "plain.jsonl").read_bytes()


def test_hash_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert file_hash(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# Journals ------------------------------------------------------------------------------------------------------------


def test_a_torn_last_line_is_not_there_and_is_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "sampled.partial.jsonl"
    journal = Journal(file)
    journal.append([{"row": 1}, {"row": 2}])
    whole = file.read_bytes()
    for torn in (b'{"row": 3, "ids": [1, 2', b'{"row": 3}', b"\xe2\x98"):
        file.write_bytes(whole + torn)
        assert read_journal(file) == [{"row": 1}, {"row": 2}]
        Journal(file)
        assert file.read_bytes() == whole
    Journal(file).append([{"row": 3}])
    assert read_journal(file) == [{"row": 1}, {"row": 2}, {"row": 3}]


def test_a_journal_holds_any_text_in_one_line(tmp_path: Path) -> None:
    Journal(tmp_path / "j").append(AWKWARD)
    assert read_journal(tmp_path / "j") == AWKWARD
    assert len((tmp_path / "j").read_bytes().split(b"\n")) == len(AWKWARD) + 1


def test_a_changed_line_is_dropped_with_a_word_and_the_others_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A token id, the checksum itself, a field's name, what stands before the line: none of them goes unseen."""
    file = tmp_path / "sampled.partial.jsonl"
    rows = [{"row": number, "ids": [10 + number, 7]} for number in range(3)]
    Journal(file).append(rows)
    whole = file.read_bytes()
    second = whole.split(b"\n")[1]
    checksum = json.loads(second)["checksum"].encode()
    assert len(checksum) == 8
    for old, new in ((b"[11, 7]", b"[91, 7]"), (checksum, b"x" + checksum[1:]), (b'"ids"', b'"idz"'), (b"{", b"[")):
        file.write_bytes(whole.replace(second, second.replace(old, new, 1)))
        assert read_journal(file) == [rows[0], rows[2]]
        Journal(file).append([rows[1]])
        assert f"{file.name}: 1 damaged line dropped" in capsys.readouterr().out
        assert read_journal(file) == [rows[0], rows[2], rows[1]]
        Journal(file)
        assert capsys.readouterr().out == ""


# Damage --------------------------------------------------------------------------------------------------------------


def test_a_seal_names_the_first_file_that_is_not_what_it_was(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    for name in ("a", "inner/b"):
        (tmp_path / name).write_bytes(b"abc")
    mark = tmp_path / "whole"
    seal(mark, [tmp_path / "a", tmp_path / "inner" / "b"])
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert json.loads(mark.read_text()) == {"a": abc, "inner/b": abc}
    assert first_damaged(mark) is None
    (tmp_path / "inner" / "b").write_bytes(b"abd")
    assert first_damaged(mark) == tmp_path / "inner" / "b"
    (tmp_path / "a").unlink()
    assert first_damaged(mark) == tmp_path / "a"
    for content in (b"", b"{}", b'{"a": '):
        mark.write_bytes(content)
        assert first_damaged(mark) == mark
    assert first_damaged(tmp_path / "never") == tmp_path / "never"


def test_the_hash_of_a_folder_is_of_names_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "a").write_bytes(b"abc")
    before = folder_hash(tmp_path)
    assert folder_hash(tmp_path) == before
    (tmp_path / "inner" / "a").rename(tmp_path / "inner" / "b")
    renamed = folder_hash(tmp_path)
    (tmp_path / "inner" / "b").write_bytes(b"abd")
    assert len({before, renamed, folder_hash(tmp_path)}) == 3


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_torn_damaged_and_missing_rows_are_one_error_that_names_the_file(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    write_rows(file, AWKWARD)
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"\xff" + whole[1:], whole[:20] + b"\xff\xff" + whole[22:]):
        file.write_bytes(content)
        with pytest.raises(DemotuneError, match=f"{file} cannot be read .*; restore it from a copy"):
            read_rows(file)
    file.unlink()
    with pytest.raises(DemotuneError, match=f"{file} cannot be read"):
        read_rows(file)


# The run folder ------------------------------------------------------------------------------------------------------

HOLD = (
    "import sys, time; from pathlib import Path; from demotune.runs.folder import RunFolder\n"
    "with RunFolder(Path(sys.argv[1])).locked():\n    print('held', flush=True)\n    time.sleep(60)"
)


def test_a_second_process_is_refused_by_the_number_of_the_first_until_that_dies(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(DemotuneError, match=rf"{tmp_path} is in use by process {holder.pid}; .*another --output"),
            RunFolder(tmp_path).locked(),
        ):
            raise AssertionError("two processes hold one folder")
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        assert holder.stdout is not None
        holder.stdout.close()
    with RunFolder(tmp_path).locked():
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_a_lock_is_given_back_also_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), RunFolder(tmp_path / "new").locked():
        raise ZeroDivisionError
    with (
        RunFolder(tmp_path / "new").locked(),
        pytest.raises(DemotuneError, match=f"process {os.getpid()}"),
        RunFolder(tmp_path / "new").locked(),
    ):
        raise AssertionError("one folder is held twice")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["manifest.json"], "already holds an unfinished run; continue it with: demotune resume"),
        (["manifest.json", "summary.json"], "already holds a finished run; choose another --output"),
        (["notes.txt"], r"is not empty and holds no run \(found notes.txt\)"),
        (["a", "b", "c", "d"], r"found a, b, c\)"),
        (["run.yaml", "thesis.tex"], r"found thesis.tex\)"),
    ],
)
def test_a_taken_folder_is_refused(tmp_path: Path, files: list[str], message: str) -> None:
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(DemotuneError, match=message):
        RunFolder(tmp_path).refuse_if_taken()
    assert names(tmp_path) == set(files)


@pytest.mark.parametrize(
    "files",
    [
        [],
        [".lock"],
        [".lock", "run.yaml", "quarantine.jsonl", "start-model", "start-data", "start-adapter"],
        ["manifest.json" + UNFINISHED, "start-model" + UNFINISHED],
    ],
)
def test_what_is_left_of_a_run_that_never_began_is_no_run(tmp_path: Path, files: list[str]) -> None:
    for name in files:
        (tmp_path / name).touch()
    RunFolder(tmp_path).refuse_if_taken()
    RunFolder(tmp_path / "never-made").refuse_if_taken()


def test_a_folder_without_a_run_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(DemotuneError, match="holds no run to resume; start one with demotune sft, spin, irft or rft"):
        RunFolder(tmp_path).read_config()


def test_phases_are_done_one_by_one_and_stay_done(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.stage_state(0) == {}
    folder.mark_done(0, "sample", {"seed": 1})
    folder.mark_done(0, "reference", {"pairs": 2})
    assert RunFolder(tmp_path).stage_state(0) == {"sample": {"seed": 1}, "reference": {"pairs": 2}}
    assert list(folder.stage_state(0)) == ["sample", "reference"]
    assert folder.stage_state(1) == {}
    assert folder.stage(1) == tmp_path / "stages" / "01"


def test_a_record_that_changed_is_found(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    write_record(file, {"steps": 12, "of": ("a", "b")})
    assert read_json(file) == {"steps": 12, "of": ["a", "b"]}
    file.write_text(file.read_text().replace("12", "13"))
    with pytest.raises(DemotuneError, match=r"state\.json cannot be read \(it has changed since it was written\)"):
        read_json(file)


def test_an_emptied_gz_file_is_damaged(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl.gz"
    file.write_bytes(b"")
    with pytest.raises(DemotuneError, match=r"rows\.jsonl\.gz cannot be read \(it is empty\)"):
        read_rows(file)
