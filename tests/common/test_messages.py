"""Errors of system and libraries as messages; what reaches a terminal; closed pipes and exit codes."""

import errno
import gzip
import io
import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import torch
from rich.table import Table
from safetensors.torch import load_file, save_file

import demotune
from demotune.common.errors import DemotuneError
from demotune.common.messages import BUG, CLOSED_PIPE, USER_ERROR, explain
from demotune.common.progress import console, say, track, warn
from demotune.common.screen import Screen, Verbatim, printable
from demotune.rewards.answers import Answer, show_answers

HOSTILE = "a\x1b[2Jb\x07c\x9bd\u202ee\rf\x00g\udc80h\u2028i"
SHOWN = r"a\x1b[2Jb\x07c\x9bd\u202ee\rf\x00g\udc80h\u2028i"
COMMANDS = set(HOSTILE) - set("abcdefghi[2J")


# Messages ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "runs/x: the disk is full; free some space, then give the command again"),
        (errno.EDQUOT, "runs/x: the disk quota is used up; free some space"),
        (errno.EROFS, "runs/x: the disk is read-only; name a folder that can be written"),
        (errno.EACCES, "runs/x: permission denied; change its permissions or name another path"),
        (errno.ENAMETOOLONG, "runs/x: the name is too long; choose a shorter one"),
        (errno.EMFILE, "runs/x: too many files are open; raise the limit (ulimit -n 4096)"),
        (errno.EIO, "runs/x: input/output error of the disk; check the disk or use another one"),
        (errno.ENOTDIR, "runs/x: there is a file where a folder is expected; move it away"),
        (errno.ENOTCONN, "runs/x: Transport endpoint is not connected; correct that"),
    ],
)
def test_an_error_of_the_system_names_path_cause_and_fix(number: int, words: str) -> None:
    message, code = explain(OSError(number, os.strerror(number), "runs/x"))
    assert message.startswith(words)
    assert code == USER_ERROR


def test_a_run_that_can_be_resumed_says_how(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "full", "f")
    run = tmp_path / "my run"
    run.mkdir()
    assert explain(full, run)[0].endswith("then give the command again")  # it had not begun
    (run / "manifest.json").write_text("{}")
    assert explain(full, run)[0].endswith(f"free some space, then demotune resume '{run}'")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
    ],
)
def test_out_of_memory(error: Exception) -> None:
    message, code = explain(error)
    assert message.startswith("memory is used up (")
    assert "close other programs or choose smaller batches" in message
    assert code == USER_ERROR


def _gzip(file: Path) -> None:
    file.write_bytes(gzip.compress(b"0123456789" * 100)[:30])
    gzip.GzipFile(file).read()


def _no_gzip(file: Path) -> None:
    file.write_bytes(b"plain")
    gzip.GzipFile(file).read()


def _zlib(file: Path) -> None:
    file.write_bytes(b"plain")
    zlib.decompress(file.read_bytes())


def _json(file: Path) -> None:
    file.write_text('{"a": ')
    json.loads(file.read_text())


def _text(file: Path) -> None:
    file.write_bytes(b"\xff\xfe")
    file.read_text(encoding="utf-8")


def _safetensors(file: Path) -> None:
    save_file({"a": torch.zeros(100)}, file)
    file.write_bytes(file.read_bytes()[:90])
    load_file(file)


def _checkpoint(file: Path) -> None:
    torch.save({"a": torch.zeros(100)}, file)
    file.write_bytes(file.read_bytes()[:300])
    torch.load(file)


@pytest.mark.parametrize("read", [_gzip, _no_gzip, _zlib, _json, _text, _safetensors, _checkpoint])
def test_a_torn_file_is_named_though_its_library_does_not_name_it(read, tmp_path: Path) -> None:
    with pytest.raises(Exception) as caught:
        read(tmp_path / "torn")
    message, code = explain(caught.value)
    assert message.startswith(f"{tmp_path / 'torn'} is cut off or damaged (")
    assert "; write or copy it again, then " in message
    assert code == USER_ERROR


def test_of_a_folder_in_hand_a_file_is_torn(tmp_path: Path) -> None:
    def read(folder: Path) -> None:
        json.loads(f"{{{folder.name}")

    with pytest.raises(ValueError, match="Expecting") as caught:
        read(tmp_path)
    assert explain(caught.value)[0].startswith(f"a file in {tmp_path} is cut off or damaged (JSONDecodeError")


def test_a_full_disk_as_safetensors_says_it() -> None:
    class SafetensorError(Exception):
        pass

    error = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert explain(error)[0].startswith("the disk is full (SafetensorError: ")


def test_other_errors() -> None:
    assert explain(DemotuneError("beta; fix")) == ("beta; fix", USER_ERROR)
    assert explain(ModuleNotFoundError("No module named 'x'"))[0].startswith("a package is missing or broken (")
    with pytest.raises(KeyError) as caught:
        _ = {}["a"]
    message, code = explain(caught.value)
    assert message.startswith("this is a bug in demotune: KeyError: 'a' (test_messages.py:")
    assert message.endswith("DEMOTUNE_DEBUG=1 shows the traceback")
    assert code == BUG


# The screen ----------------------------------------------------------------------------------------------------------


def test_printable_escapes_what_commands_a_terminal_and_nothing_else() -> None:
    assert printable(HOSTILE) == SHOWN
    good = "tabs\tand\nlines, é ☃ 漢字 👩‍👩‍👧 עברית [bold] :smile:"
    assert printable(good) == good


def test_nothing_that_is_shown_commands_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say(HOSTILE)
    warn(HOSTILE)
    show_answers([[{"role": "user", "content": HOSTILE}]], [Answer(HOSTILE, True)], None)
    with track(HOSTILE, 1, "rows") as tracker:
        tracker.advance()
    table = Table(title=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    console.print(table)
    shown = "".join(capsys.readouterr())
    assert COMMANDS & set(shown) == set()
    assert shown.count(r"\x1b[2J") >= 7


def test_text_is_no_markup_and_an_answer_keeps_tabs_and_lines(capsys: pytest.CaptureFixture[str]) -> None:
    answer = "all:\n\tcc [bold]x[/bold] :smile: [/nothing]\n" + "long " * 60
    say(answer)
    table = Table()
    table.add_row("[red]a[/red] [/b] :smile:")
    console.print(table)
    shown = capsys.readouterr().out
    assert shown.startswith(f"{answer}\n")
    assert "[red]a[/red] [/b] :smile:" in shown


def test_on_a_terminal_colours_are_ours_alone() -> None:
    stream = io.StringIO()
    screen = Screen()
    screen._force_terminal, screen._color_system, screen.file = True, None, stream
    screen.print(Verbatim("\x1b[31mred"), style="bold")
    assert r"\x1b[31mred" in stream.getvalue()


# Whole commands ------------------------------------------------------------------------------------------------------

TALKS = """
import sys, typer
from demotune.common.messages import errors_as_messages
from demotune.common.screen import Screen, Verbatim
app = typer.Typer()
@app.command()
def talk() -> None:
    with errors_as_messages():
        for _ in range(2000):
            Screen().print(Verbatim("x" * 1000))
app()
"""
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(demotune.__file__).parents[1]), "NO_COLOR": "1", "TERM": "dumb"}


def test_a_closed_pipe_ends_the_command_quietly() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", TALKS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == CLOSED_PIPE


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_output_that_cannot_be_written_is_an_error_with_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", TALKS], stdout=full, stderr=subprocess.PIPE, env=ENVIRONMENT, text=True, check=False
        )
    assert done.returncode == USER_ERROR
    assert done.stderr.startswith("error: the disk is full (OSError: ")
    assert done.stderr.count("\n") == 1


def command(*arguments: str, folder: Path, **environment: str) -> tuple[int, str]:
    """A command in a process of its own, without torch: exit code and what it shows."""
    code = (
        "import sys\nfrom demotune.cli.main import main\n"
        "class Heavy:\n def find_spec(self, name, *_):\n"
        "  assert name not in ('torch', 'transformers', 'datasets'), name\n"
        "sys.meta_path.insert(0, Heavy())\nmain()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env=ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_missing_file_is_named_before_torch_is_imported(tmp_path: Path) -> None:
    name = "gone\x1b[2J\u202e.jsonl"
    code, shown = command("sft", "--model", "m", "--data", name, "--output", "x", folder=tmp_path)
    assert code == USER_ERROR
    assert shown.startswith(r"error: gone\x1b[2J\u202e.jsonl does not exist")
    assert COMMANDS & set(shown) == set()
    assert list(tmp_path.iterdir()) == []
    long = f"{'n' * 300}.jsonl"
    code, shown = command("sft", "--model", "m", "--data", long, "--output", "x", folder=tmp_path)
    assert (code, shown) == (
        USER_ERROR,
        f"error: {long}: the name is too long; choose a shorter one, then give the command again\n",
    )


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    arguments = ["sft", "--model", "m", "--data", "gone.jsonl", "--output", "x"]
    for given, environment in ((["--debug", *arguments], {}), (arguments, {"DEMOTUNE_DEBUG": "1"})):
        code, shown = command(*given, folder=tmp_path, **environment)
        assert code == USER_ERROR
        assert shown.startswith("Traceback (most recent call last)")
        assert "\nerror: gone.jsonl does not exist" in shown


def test_speaking_and_describing_the_command_load_no_torch():
    code = """
import sys
from demotune.common.journals import Journal
from demotune.common.machine import command_line, package_versions
from demotune.common.profiling import profiled
from demotune.common.progress import say

with profiled(True):
    say(command_line() + package_versions()["torch"])
print("torch" in sys.modules)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.splitlines()[-1] == "False"
