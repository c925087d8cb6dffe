"""Mutated data, configs and flags: one message or a right reading; no row is lost on the way."""

import contextlib
import io
import json
import random
import signal
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow
import yaml
from helpers.tiny import tiny_tokenizer
from pyarrow import parquet
from typer.testing import CliRunner

from campaign.trials import Trial
from demotune.cli.main import app
from demotune.common.errors import DemotuneError
from demotune.config.config_files import build_config
from demotune.config.field import field_types
from demotune.config.methods import CONFIGS, SFTConfig, as_dict
from demotune.data import load_demonstrations, load_preferences, read_prompt_file
from demotune.data.intake import prepare
from demotune.data.rendering import Renderer

SECONDS = 20

ODD_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 10**400, 1e308, float("nan"), "", " ", "\x00", "\x1b[2J", "\u202e", "\ud800", "<|im_end|>", [],
    {}, [[]], [None], {"role": "user"}, [{"role": "robot", "content": "x"}],
    [{"role": "user", "content": [{"type": "image"}]}],
    "x" * 5000, [{"type": "text", "text": "part"}], "null", "[1", {"a": {"b": {"c": []}}},
)  # fmt: skip
ROWS: tuple[dict[str, Any], ...] = (
    {"prompt": "Name a colour.", "completion": "Red.", "id": 7},
    {"instruction": "Add.", "input": "1 and 2", "output": "3", "system": "Be brief.", "history": [["Hi", "Hello"]]},
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello", "weight": 1}]},
    {"messages": [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": "Hi"},
                  {"role": "assistant", "content": "Hello", "reasoning_content": "A greeting."}], "tools": []},
    {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}], "system": "Be brief."},
    {"prompt": "Name a colour.", "chosen": "Red.", "rejected": "Seven."},
    {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: Go away"},
    {"question": "1 + 1?", "answer": "2", "created": "2024-01-01"},
)  # fmt: skip


def input_trials(place: Path, count: int, seed: int) -> Iterator[Trial]:
    """Six in ten inputs are data, two configs, two flags."""
    place.mkdir(parents=True, exist_ok=True)
    kinds: tuple[tuple[str, int, Callable[[random.Random, Path], None]], ...] = (
        ("mutated data", 6 * count // 10, _data),
        ("mutated configs", 2 * count // 10, _config),
        ("mutated flags", 2 * count // 10, _flags),
    )
    for what, number, try_one in kinds:
        for index in range(number):
            name = f"{seed}/{what}/{index}"
            yield Trial(what, name, lambda t=try_one, n=name: _tried(t, n, place))


def _tried(try_one: Callable[[random.Random, Path], None], name: str, place: Path) -> str | None:
    """Anything but a `DemotuneError` or a right result is wrong, and so is what takes long."""

    def too_long(*_: object) -> None:
        raise TimeoutError(f"longer than {SECONDS} s")

    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            try_one(random.Random(name), place / name.replace("/", "-").replace(" ", "-"))
    except DemotuneError:
        return None
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:300]}"
    finally:
        signal.alarm(0)
    return None


def _data(rng: random.Random, path: Path) -> None:
    """A few rows, some with odd values, in some format and encoding, some bytes changed."""
    template = rng.choice(ROWS)
    rows = [{**template, "id": number, next(iter(template)): _first(template, number)} for number in range(8)]
    for _ in range(rng.randrange(4)):
        _spoil(rng.choice(rows), rng)
    suffix, data = _written(rows, rng)
    file = path.with_suffix(suffix)
    intact = rng.random() < 0.5
    file.write_bytes(data if intact else _mutated(data, rng))
    try:
        _read(file, rng, expected=len(rows) if intact else None)
    finally:
        file.unlink()


def _first(template: dict[str, Any], number: int) -> Any:
    value = next(iter(template.values()))
    return f"{value} {number}" if isinstance(value, str) and not value.startswith("\n\nHuman") else value


def _spoil(row: dict[str, Any], rng: random.Random) -> None:
    """An odd value for a column or, inside messages, for a key of a turn."""
    column = rng.choice(list(row))
    value = row[column]
    if isinstance(value, list) and value and isinstance(value[0], dict) and rng.random() < 0.7:
        turns = [dict(turn) for turn in value]
        turn = rng.choice(turns)
        turn[rng.choice(list(turn))] = rng.choice(ODD_VALUES)
        row[column] = turns
    else:
        row[column] = rng.choice(ODD_VALUES)


def _written(rows: list[dict[str, Any]], rng: random.Random) -> tuple[str, bytes]:
    kind = rng.choice((".jsonl", ".jsonl", ".json", ".csv", ".parquet"))
    if kind == ".parquet":
        with contextlib.suppress(Exception):  # values that Arrow has no column for
            sink = io.BytesIO()
            parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
            return kind, sink.getvalue()
        kind = ".jsonl"
    if kind == ".csv":
        delimiter = rng.choice(",;\t")
        quoted = [[json.dumps(str(row.get(name, ""))) for name in rows[0]] for row in rows]
        text = "".join(delimiter.join(cells) + "\r\n" for cells in [list(rows[0]), *quoted])
    elif kind == ".json":
        text = json.dumps(rows)
    else:
        text = "".join(json.dumps(row) + rng.choice(("\n", "\r\n")) for row in rows)
    encoding = rng.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1", "utf-32"))
    return kind, text.encode(encoding, "replace")


def _mutated(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        start = rng.randrange(len(changed) + 1)
        end = min(len(changed), start + rng.choice((1, 1, 4, 50)))
        action = rng.randrange(4)
        if action == 0:
            changed[start:end] = b""
        elif action == 1:
            changed[start:start] = rng.choice(
                (b"\x00", b"\xff", b'"', b"{", b"}", b"\n", b",", b"[" * 3000, b"\\ud800")
            )
        elif action == 2:
            changed[start:end] = rng.randbytes(end - start)
        else:
            changed[start:start] = changed[start:end]
    return bytes(changed)


def _read(file: Path, rng: random.Random, expected: int | None) -> None:
    """Every row is a demonstration or is named; of a file that was written well, as many as were written."""
    how = rng.randrange(5)
    if how == 0:
        read_prompt_file(file)
        return
    if how == 4:
        _prepare(file)
        return
    every_turn = how == 1
    loaded = load_preferences([str(file)]) if how == 2 else load_demonstrations([str(file)], every_turn=every_turn)
    good = loaded.rows
    accounted = len(good) + len(loaded.bad_rows)
    if accounted < loaded.rows_read or (accounted > loaded.rows_read and not every_turn):
        raise AssertionError(f"{loaded.rows_read} rows read, {len(good)} good and {len(loaded.bad_rows)} named")
    if expected is not None and loaded.rows_read != expected and not _is_half_read(file):
        raise AssertionError(f"{expected} rows written, {loaded.rows_read} read")


def _prepare(file: Path) -> None:
    """As a run reads it, rendered; each row is trained on, held out or named."""
    config = SFTConfig(model="m", data=(str(file),), output="o", max_bad_share=1.0, max_eval_rows=100)
    found = prepare(config, _renderer())
    read = len(load_demonstrations([str(file)]).rows) + len(load_demonstrations([str(file)]).bad_rows)
    if len(found.train) + len(found.heldout) + len(found.bad_rows) < read:
        raise AssertionError(f"{read} rows read, {len(found.train)} train, {len(found.heldout)} held out")


@cache
def _renderer() -> Renderer:
    return Renderer(tiny_tokenizer())


def _is_half_read(file: Path) -> bool:
    """Whether the file is in an encoding that its bytes do not name: what a line is there is anybody's guess."""
    return b"\x00" in file.read_bytes()[2:200] and not file.read_bytes().startswith((b"\xff\xfe", b"\xfe\xff"))


def _config(rng: random.Random, path: Path) -> None:
    """A shipped kind of config with odd values or changed bytes."""
    method = rng.choice(list(CONFIGS))
    values = as_dict(CONFIGS[method](model="m", data=("d",), output="o"))
    for _ in range(rng.randrange(1, 4)):
        values[rng.choice(list(values))] = rng.choice(
            (*ODD_VALUES[:9], *ODD_VALUES[14:16], 10**12, "1e999", 0.5, "none")
        )
    if rng.random() < 0.3:
        values[rng.choice(("lerning_rate", "", "stages ", "\x1b[2J"))] = 1
    text = yaml.safe_dump(values, allow_unicode=True, sort_keys=False).encode("utf-8", "replace")
    file = path.with_suffix(".yaml")
    file.write_bytes(text if rng.random() < 0.6 else _mutated(text, rng))
    try:
        build_config(method, str(file), {})
    finally:
        file.unlink()


def _flags(rng: random.Random, path: Path) -> None:
    """Flags with odd values; nothing is ever run, as the model is nowhere."""
    method = rng.choice(list(CONFIGS))
    names = [f"--{name.replace('_', '-')}" for name in field_types(CONFIGS[method])]
    arguments = [f"--model={path / 'nowhere'}", f"--data={path / 'nothing.jsonl'}", f"--output={path / 'run'}"]
    for _ in range(rng.randrange(1, 4)):
        value = rng.choice(("", "-1", "0", "1e12", "nan", "x", "\x1b[2J", "9" * 400, "true", "1,2", "a=b", "--seed"))
        arguments.append(rng.choice((f"{rng.choice(names)}={value}", f"--{value}", f"-{value}", value)))
    if rng.random() < 0.2:
        arguments = arguments[rng.randrange(1, 4) :]
    found = CliRunner().invoke(
        app, [rng.choice((method, method, method, "estimate", "evaluate", "select")), *arguments]
    )
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    if found.exit_code not in (1, 2):
        raise AssertionError(f"exit {found.exit_code} for {arguments}")
    if "\x1b[2J" in found.output:
        raise AssertionError(f"a control character on the screen for {arguments}")
