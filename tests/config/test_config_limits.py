"""Values that no run could honour: absurd numbers in every field, and YAML that is no plain list of fields."""

import itertools
import time
import typing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from demotune.common.errors import DemotuneError
from demotune.config.config_files import build_config
from demotune.config.evaluation import EvaluationConfig
from demotune.config.field import Field, fields_of
from demotune.config.loggers import LOGGERS, loggers_of, refuse_unknown_loggers
from demotune.config.methods import CONFIGS, IRFTConfig
from demotune.config.yaml_fields import MOST_BYTES, read_yaml_file

CLASSES: list[type[Any]] = [*CONFIGS.values(), EvaluationConfig]
GIVEN: dict[str, object] = {"model": "some/model", "data": ["rows.jsonl"], "output": "runs/one"}
ODD: list[object] = [
    10**12, 10**308, 10**400, -(10**400), 10**5000, -1, 0, 0.5, float("nan"), float("inf"), -float("inf"), 1e308,
    "1e999", "nan", "", "x", "x" * 10**5, [], {}, [[]], ["", "a"], {"a": 1}, [10**5000], [float("nan")], None, True,
    False, b"x",
]  # fmt: skip


@pytest.mark.parametrize("config_class", CLASSES)
def test_every_number_has_a_smallest_and_a_largest_value(config_class: type[Any]) -> None:
    numbers = [field for field in fields_of(config_class).values() if is_number(field)]
    assert {field.name for field in numbers} >= {"seed", "max_rows"}
    for field in numbers:
        assert (field.above is None) != (field.minimum is None), field.name
        assert field.maximum <= 2**32 - 1


def is_number(field: Field) -> bool:
    return any(kind in (int, float) for kind in (field.kind, *typing.get_args(field.kind)))


@pytest.mark.parametrize("config_class", CLASSES)
def test_an_odd_value_is_refused_by_the_name_of_its_field_or_kept(config_class: type[Any]) -> None:
    for name, field in fields_of(config_class).items():
        for value in ODD:
            try:
                kept = getattr(config_class(**{**GIVEN, name: value}), name)
            except DemotuneError as refusal:
                named = "judge" if name.startswith("judge") else name  # an address without a model names the other
                assert named in str(refusal), (name, value)
                assert len(str(refusal)) < 1000, (name, value)
            else:
                numbers = [number for number in (kept if isinstance(kept, tuple) else (kept,)) if is_number(field)]
                assert all(number is None or abs(number) <= field.maximum for number in numbers), (name, value)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("steps_per_stage", 10**12, "steps_per_stage must be at most 1000000000, got 1000000000000; give a smaller"),
        ("beta", 1e308, "beta must be at most 1000000, got 1e+308; give a smaller number"),
        ("beta", 10**400, "beta must be float, got an integer of 1329 bits (int); give one"),
        ("seed", -1, "seed must be >= 0, got -1; the default is 42"),
        ("max_rows", 10**5000, "max_rows must be at most 1000000000, got an integer of 16610 bits; give a smaller"),
        ("report_to", ["", "wandb"], "report_to holds an empty text; leave it out"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else type(value).__name__,
)
def test_absurd_values_say_what_is_wrong(field: str, value: object, message: str) -> None:
    with pytest.raises(DemotuneError) as refusal:
        IRFTConfig(**{**GIVEN, field: value})
    assert str(refusal.value).startswith(message)


def test_a_number_of_python_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(DemotuneError, match=r"beta must be float, got 'x' \(str\); give one"):
        IRFTConfig(output="x", beta="x")  # type: ignore[arg-type]


def test_largest_values_are_allowed() -> None:
    config = IRFTConfig(**{**GIVEN, "save_steps": 10**9, "seed": 2**32 - 1, "learning_rate": 1000})
    assert (config.save_steps, config.seed, config.learning_rate) == (10**9, 2**32 - 1, 1000.0)


# YAML ----------------------------------------------------------------------------------------------------------------

BOMB = "a: &a [x, x, x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}]\n" for a, b in itertools.pairwise("abcdefghi")
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOMB, "line 1 has an anchor (& or *); write the value out"),
        ("beta: *x", "line 1 has an anchor"),
        ("a: 1\nbeta: !!python/object/apply:os.system [ls]", "line 2 has the tag 'tag:yaml.org,2002:python/object"),
        ("beta: !!float x", "line 1 has the tag"),
        ("beta: 1\nseed: 2\nbeta: 3", "gives 'beta' twice, in lines 1 and 3; keep the one that you mean"),
        ("beta: " + "9" * 100_000, "line 1 has a number of 100000 digits; write a smaller one"),
        ("seed: 0x" + "f" * 100_000, "line 1 has a number of 100002 digits"),
        ("data: " + "[" * 9, "line 1 is nested more than 8 levels deep"),
        ("data: " + "[" * 100_000, "is not valid YAML"),
        ("- " * 50_000, "line 1 is nested more than 8 levels deep"),
        ("? [a]\n: 1", "line 1: the name of a field is no text; write name: value"),
        ("beta: 1\n---\nbeta: 2", "is not valid YAML: expected a single document"),
        ("beta: \x1b[2J", "is not valid YAML: unacceptable character #x001b"),
        (b"beta: \xe9", "is not UTF-8 (byte 6); save it as UTF-8"),
        ("beta: 0.1".encode("utf-16"), "is not UTF-8 (byte 0); save it as UTF-8"),
        (b"#" * (MOST_BYTES + 1), "has more than 1 MiB"),
        ("stages: 2024-01-02", "stages must be int, got '2024-01-02' (str)"),
        ("stages: 2024-13-45", "stages must be int, got '2024-13-45' (str)"),
        ("method: [irft]", "is a config for ['irft'], which is no method; write method: irft"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_yaml_that_no_config_needs_is_refused_at_once(content: str | bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    started = time.monotonic()
    with pytest.raises(DemotuneError) as refusal:
        build_config("irft", str(file), GIVEN)
    assert time.monotonic() - started < 1
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_values_of_yaml(tmp_path: Path) -> None:
    """A date is the text that it is written as; what only looks like a number is text."""
    file = tmp_path / "mine.yaml"
    text = "a: 2024-01-02\nb: yes\nc: ~\nd: 1_0\ne: .inf\nf: [1, two, 3.5]\ng: 0x_\nh: '1'\ni: =\n"
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_yaml_file(file) == {
        "a": "2024-01-02", "b": True, "c": None, "d": 10, "e": float("inf"), "f": [1, "two", 3.5], "g": "0x_", "h": "1",
        "i": "=",
    }  # fmt: skip


def test_a_folder_of_a_thousand_files_fits(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    names = [f"/data/some/long/folder/of/shards/part-{number:05d}.jsonl" for number in range(1000)]
    file.write_text("data:\n" + "".join(f"- {name}\n" for name in names))
    assert read_yaml_file(file) == {"data": names}


# Loggers -------------------------------------------------------------------------------------------------------------


def test_none_and_all_are_no_packages() -> None:
    for names in ((), ("none",), ("all",)):
        refuse_unknown_loggers(names)
    assert loggers_of(()) == loggers_of(("none",)) == ()
    assert loggers_of(("all",)) == tuple(name for name in LOGGERS if find_spec(name))
    assert {"tensorboard", "trackio"} <= set(loggers_of(("all",)))
