"""The configs of the smaller commands, and the flags that are made of them."""

import typing
from pathlib import Path
from typing import Any

import pytest
from helpers.command import call

from demotune.common.errors import DemotuneError
from demotune.common.suggestions import did_you_mean
from demotune.config.commands import (
    AdviseConfig,
    CompareConfig,
    QuickstartConfig,
    ReportConfig,
    ResumeConfig,
    ScoreConfig,
    SelectConfig,
)
from demotune.config.drawing import DistillConfig, SampleConfig
from demotune.config.field import field_help, fields_of

COMMANDS: dict[str, type[Any]] = {
    "advise": AdviseConfig,
    "sample": SampleConfig,
    "distill": DistillConfig,
    "score": ScoreConfig,
    "select": SelectConfig,
    "compare": CompareConfig,
    "report": ReportConfig,
    "resume": ResumeConfig,
    "quickstart": QuickstartConfig,
}
UNBOUNDED = {"threshold"}
"""A reward may be any number."""


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_every_field(name: str) -> None:
    code, shown = call(name, "--help-all")
    assert code == 0
    texts = field_help(COMMANDS[name])
    for field in fields_of(COMMANDS[name]).values():
        flag = field.name.upper() if field.argument else f"--{field.name.replace('_', '-')}"
        assert flag in shown
        assert texts[field.name].split()[0] in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_every_number_has_bounds(name: str) -> None:
    for field in fields_of(COMMANDS[name]).values():
        if field.name not in UNBOUNDED and any(k in (int, float) for k in (field.kind, *typing.get_args(field.kind))):
            assert (field.above is None) != (field.minimum is None), field.name


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["sample", "--model", "m", "--prompt", "p", "--max-new-tokens", "0"],
            "max_new_tokens must be at least 1, got 0",
        ),
        (["sample", "--model", "m", "--prompt", "p", "--temperature", "-1"], "temperature must be >= 0, got -1.0"),
        (["sample", "--model", "m", "--prompt", ""], "prompt holds an empty text; leave it out"),
        (["score", "--reward", "m", "--data", "d/d", "--max-length", "1"], "max_length must be at least 2, got 1"),
        (
            ["select", "--reward", "m", "--data", "d", "--output", "o", "--threshold", "nan"],
            "threshold must be a finite",
        ),
        (["compare", "gone", "--batch-size", "0"], "batch_size must be at least 1, got 0; the default is 16"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_number_out_of_bounds_is_refused_like_one_of_a_method(arguments: list[str], expected: str) -> None:
    code, shown = call(*arguments)
    assert (code, f"error: {expected}" in shown) == (1, True), shown


def test_flags_that_must_be_given_stand_first_then_the_own_then_the_shared() -> None:
    shown = call("select", "--help")[1]
    order = [shown.index(f"--{name}") for name in ("reward", "data", "output", "top", "threshold", "columns")]
    assert order == sorted(order)


def test_a_config_in_python_is_checked_like_the_flags() -> None:
    config = ReportConfig(runs="runs/one", evaluation=["e"])  # type: ignore[arg-type]
    assert (config.runs, config.evaluation, config.output) == ((Path("runs/one"),), (Path("e"),), None)
    with pytest.raises(DemotuneError, match="--data needs --output"):
        CompareConfig(runs=(Path("a"),), data=("rows.jsonl",))


@pytest.mark.parametrize(
    ("name", "known", "most", "expected"),
    [
        ("betta", ["beta", "data"], 1, "did you mean beta?"),
        ("adam", ["adalomo", "sgd"], 1, ""),
        ("arc_chalenge", ["arc_challenge", "arc_challenge_chat", "arc_easy"], 2,
         "did you mean arc_challenge, arc_challenge_chat?"),
    ],
)  # fmt: skip
def test_the_nearest_names_are_suggested(name: str, known: list[str], most: int, expected: str) -> None:
    assert did_you_mean(name, known, most=most) == expected
