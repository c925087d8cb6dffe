"""The cache of tokenised rows: keyed by what changes rows, not trusted when damaged, made by one process at a time."""

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.tiny import CHATML, tiny_tokenizer, write_rows

from demotune.common.errors import DemotuneError
from demotune.config.methods import SFTConfig
from demotune.data import intake_cache, tokenising
from demotune.data.intake import Intake, prepare
from demotune.data.rendering import Renderer


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(intake_cache, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "intake"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The first source of each time that rows were read and tokenised."""
    found: list[str] = []
    tokenise = tokenising.tokenise

    def counted(request: Any, renderer: Any, folder: Path) -> list[Path]:
        found.append(request.sources[0])
        return tokenise(request, renderer, folder)

    monkeypatch.setattr(intake_cache, "tokenise", counted)
    return found


@pytest.fixture
def source(tmp_path: Path) -> str:
    return write_rows(tmp_path / "rows.jsonl", 40)


def config(*sources: str, **options: Any) -> SFTConfig:
    return SFTConfig(**{"model": "m", "output": "o", "data": sources} | options)


def read(*sources: str, template: str | None = None, **options: Any) -> Intake:
    return prepare(config(*sources, **options), Renderer(tiny_tokenizer(), template))


def content(intake: Intake) -> tuple[object, ...]:
    return tuple(intake.train), tuple(intake.heldout), intake.bad_rows, intake.notes, intake.data_hashes


def test_rows_are_tokenised_once(cache: Path, made: list[str], source: str, capsys: pytest.CaptureFixture[str]) -> None:
    first = content(read(source))
    assert "from cache" not in capsys.readouterr().out
    assert content(read(source)) == first
    assert made == [source]
    assert "40 rows from cache" in capsys.readouterr().out
    (entry,) = cache.iterdir()
    assert sorted(file.name for file in entry.iterdir()) == [
        "bad_rows.jsonl",
        "counts.json",
        "hashes.json",
        "rows.arrow",
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"max_length": 500},
        {"overlong": "truncate-prompt"},
        {"max_rows": 39},
        {"every_turn": True},
        {"columns": "prompt=prompt,response=completion"},
        {"data_weights": (1.0,)},
        {"template": "{prompt}="},
    ],
)
def test_settings_that_change_rows_make_other_rows(
    options: dict[str, Any], cache: Path, made: list[str], source: str
) -> None:
    read(source)
    read(source, **options)
    assert len(made) == 2
    read(source, **options)
    read(source)
    assert len(made) == 2


@pytest.mark.parametrize(
    "options",
    [{"eval_share": 0.4}, {"max_eval_rows": 2}, {"max_bad_share": 0.5}, {"seed": 5}, {"learning_rate": 1e-3}],
)
def test_other_settings_do_not(options: dict[str, Any], cache: Path, made: list[str], source: str) -> None:
    read(source)
    read(source, **options)
    assert len(made) == 1


def test_the_seed_counts_where_it_mixes_sources(cache: Path, made: list[str], source: str, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "c", "completion": "d"}\n')
    for seed in (0, 1, 0):
        read(source, str(other), data_weights=(2.0, 1.0), seed=seed, eval_share=0.0)
    assert len(made) == 2


def test_held_out_data_have_an_entry_of_their_own(cache: Path, made: list[str], source: str, tmp_path: Path) -> None:
    held = write_rows(tmp_path / "held.jsonl", 3)
    read(source, eval_data=(held,))
    read(source)
    assert made == [source, held]


@pytest.mark.parametrize("change", ["rows", "name", "template", "tokenizer", "stop"])
def test_data_and_tokenizer_count_by_content(
    change: str, cache: Path, made: list[str], source: str, tmp_path: Path
) -> None:
    read(source)
    tokenizer, stops, name = tiny_tokenizer(), (), source
    if change == "rows":
        write_rows(Path(source), 41)
    elif change == "name":
        name = str(Path(source).rename(tmp_path / "renamed.jsonl"))
    elif change == "template":
        tokenizer.chat_template = CHATML.replace("assistant", "bot")
    elif change == "tokenizer":
        tokenizer.add_tokens(["please"])
    else:
        stops = (7,)
    prepare(config(name), Renderer(tokenizer, None, stops))
    assert len(made) == 2


def test_other_code_makes_other_rows(
    cache: Path, made: list[str], source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(source)
    monkeypatch.setattr(intake_cache, "hash_of_code", lambda: "newer")
    read(source)
    assert len(made) == 2


@pytest.mark.parametrize("name", ["rows.arrow", "bad_rows.jsonl", "counts.json", "hashes.json"])
@pytest.mark.parametrize("how", ["lost", "cut", "changed", "empty"])
def test_damaged_entries_are_made_anew(name: str, how: str, cache: Path, made: list[str], source: str) -> None:
    Path(source).write_text(Path(source).read_text() + "{broken\n")  # a bad row
    first = content(read(source, max_bad_share=0.5))
    (entry,) = cache.iterdir()
    file = entry / name
    data = file.read_bytes()
    file.unlink()
    if how != "lost":
        file.write_bytes({"cut": data[:-3], "changed": data[:-9] + b"#" + data[-8:], "empty": b""}[how])
    assert content(read(source, max_bad_share=0.5)) == first
    assert len(made) == 2
    assert content(read(source, max_bad_share=0.5)) == first
    assert len(made) == 2


def test_rows_stay_readable_when_their_entry_is_removed(cache: Path, source: str) -> None:
    import shutil

    intake = read(source)
    expected = content(intake)
    shutil.rmtree(cache)
    assert content(intake) == expected
    assert content(read(source)) == expected


def test_entries_that_nobody_used_for_a_month_are_removed(cache: Path, source: str, tmp_path: Path) -> None:
    read(source)
    (old,) = cache.iterdir()
    os.utime(old, (0, time.time() - 31 * 24 * 3600))
    other = write_rows(tmp_path / "other.jsonl", 5)
    read(other)
    assert not old.exists()
    assert len([*cache.iterdir()]) == 1


def test_a_cache_that_cannot_be_written_costs_only_the_cache(
    cache: Path, made: list[str], source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cache.parent.mkdir()
    cache.write_text("a file in its place")
    first = content(read(source))
    assert "rows cannot be kept" in " ".join(capsys.readouterr().out.split())
    assert content(read(source)) == first
    assert len(made) == 2


def test_data_that_change_while_they_are_read_are_refused(
    cache: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenise = tokenising.tokenise

    def changed(request: Any, renderer: Any, folder: Path) -> list[Path]:
        write_rows(Path(source), 41)
        return tokenise(request, renderer, folder)

    monkeypatch.setattr(intake_cache, "tokenise", changed)
    with pytest.raises(DemotuneError, match="changed while it was read"):
        read(source)
    monkeypatch.undo()


def test_an_error_leaves_nothing_that_is_trusted(
    cache: Path, made: list[str], source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(tokenising, "write_records", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            read(source)
    assert len(read(source).train) > 0
    assert len(made) == 2


CHILD = """
    import psutil, sys
    from pathlib import Path
    from demotune.data import intake_cache
    from demotune.config.methods import SFTConfig
    from demotune.data.intake import prepare
    from demotune.data.rendering import Renderer
    from helpers.tiny import tiny_tokenizer

    cache, source, how = sys.argv[1:]
    intake_cache.cache_folder = lambda: Path(cache)
    tokenise, memory = intake_cache.tokenise, psutil.Process().memory_info

    def watched(request, renderer, folder):
        before = memory().rss
        files = tokenise(request, renderer, folder)
        print("MB", (memory().rss - before) // 10**6)
        print("made", flush=True)
        if how == "wait":
            sys.stdin.readline()
        return files

    intake_cache.tokenise = watched
    if how == "warmed up":  # libraries and buffers take memory once
        prepare(SFTConfig(model="m", output="o", data=(source,), max_rows=3000), Renderer(tiny_tokenizer()))
    intake = prepare(SFTConfig(model="m", output="o", data=(source,)), Renderer(tiny_tokenizer()))
    print("rows", len(intake.train) + len(intake.heldout))
"""


def maker(cache: Path, source: str, how: str) -> subprocess.Popen[str]:
    """A process that reads these rows. When they are made it says so, and may wait for a line before it seals them."""
    command = [sys.executable, "-c", textwrap.dedent(CHILD), str(cache.parent), source, how]
    path = os.pathsep.join(filter(None, sys.path))
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path}
    )


def wait_until_made(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert any(line == "made\n" for line in process.stdout)


def test_one_process_makes_rows_and_another_waits_for_them(
    cache: Path, made: list[str], source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    with maker(cache, source, "wait") as process:
        wait_until_made(process)

        def say(text: str) -> None:
            said.append(text)
            if "waiting for another run" in text:
                assert not (next(cache.iterdir()) / "hashes.json").exists()
                process.stdin.write("go on\n")  # type: ignore[union-attr]
                process.stdin.flush()  # type: ignore[union-attr]

        monkeypatch.setattr(intake_cache, "say", say)
        intake = read(source)
        process.communicate()
    assert process.returncode == 0
    assert made == []
    assert len(intake.train) + len(intake.heldout) == 40
    assert [text.split(" (")[0] for text in said] == [
        "  waiting for another run, which reads the same rows",
        "  40 rows from cache",
    ]


def test_a_process_that_is_killed_while_it_makes_rows_costs_nothing(cache: Path, made: list[str], source: str) -> None:
    with maker(cache, source, "wait") as process:
        wait_until_made(process)
        process.kill()
    (entry,) = cache.iterdir()
    assert not (entry / "hashes.json").exists()
    (entry / "rows.arrow.unfinished").write_bytes(b"torn")
    found = read(source)
    assert made == [source]
    assert len(found.train) + len(found.heldout) == 40


def test_memory_of_many_rows_is_bounded(cache: Path, tmp_path: Path) -> None:
    """In records 50,000 rows of 80 tokens are 60 MB more: 8 bytes a token, and the objects around them."""
    file = tmp_path / "many.jsonl"
    with file.open("w") as lines:
        for number in range(50_000):
            lines.write(json.dumps({"prompt": f"say {number:030}", "completion": f"{number:030}"}) + "\n")
    with maker(cache, str(file), "warmed up") as process:
        said = process.communicate()[0].splitlines()
    facts = dict(line.split() for line in said if line.startswith(("rows ", "MB ")))
    assert facts["rows"] == "50000"
    assert int(facts["MB"]) < 60
