"""--help fits a screen, --help-all says everything, and the shell completes names."""

import re
import typing

import pytest
import typer
from helpers.command import app, call
from typer.testing import CliRunner

from demotune.cli.help import brief
from demotune.cli.overview import COMMANDS
from demotune.config.field import fields_of
from demotune.config.methods import CONFIGS

ROOT: typing.Any = typer.main.get_command(app)
LINES, COLUMNS = 30, 80


@pytest.mark.parametrize("name", ROOT.commands)
def test_help_fits_a_screen_and_cuts_nothing(name: str) -> None:
    code, shown = call(name, "--help", columns=COLUMNS)
    assert code == 0
    lines = shown.splitlines()
    assert len(lines) <= LINES
    assert max(map(len, lines)) <= COLUMNS
    assert "…" not in shown
    flags = {flag for option in ROOT.commands[name].params for flag in (*option.opts, *option.secondary_opts)}
    assert set(re.findall(r"^ +(--[\w-]+)", shown, re.MULTILINE)) <= flags | {"--help"}


def test_each_command_has_a_line_of_the_overview() -> None:
    code, shown = call("--help", columns=COLUMNS)
    assert code == 0
    lines = shown.splitlines()
    assert max(map(len, lines)) <= COLUMNS
    assert len(lines) <= 48  # 24 commands in four groups, and the options
    listed = [name for commands in COMMANDS.values() for name in commands]
    assert sorted(listed) == sorted(ROOT.commands)
    for commands in COMMANDS.values():
        for name, text in commands.items():
            assert re.search(rf"^  {name} +{re.escape(text)}$", shown, re.MULTILINE), name


@pytest.mark.parametrize("name", sorted(set(ROOT.commands) - {"estimate"}))
def test_help_all_names_every_field(name: str) -> None:
    code, shown = call(name, "--help-all", columns=COLUMNS)
    assert code == 0
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= COLUMNS + 60  # a flag with many choices is longer, and not broken
    for field in fields_of(ROOT.commands[name].config_class).values():
        word = field.name.upper() if field.argument else f"--{field.name.replace('_', '-')}"
        assert re.search(rf"(?<![\w-]){word}(?![\w-])", shown), word


@pytest.mark.parametrize("method", CONFIGS)
def test_help_shows_what_must_be_given_and_the_most_used(method: str) -> None:
    shown = call(method, "--help", columns=COLUMNS)[1]
    for name in ("model", "data", "output", "learning-rate", "config", "help-all"):
        assert f"--{name} " in shown
    assert "--max-grad-norm" not in shown
    assert shown.count("[required]") == 3
    assert call("inspect", "--help")[1].count("[required]") == 2


def test_help_shows_defaults() -> None:
    shown = call("sft", "--help")[1]
    assert re.search(r"--learning-rate NUMBER +Peak learning rate \[2e-05\]", shown)
    every = call("sft", "--help-all")[1]
    assert "[default: 2e-05]" in every
    assert "[default: not given]" in every
    assert re.search(r"^.*Benchmark tasks.*$|^.*LoRA.*$", every, re.MULTILINE)


def test_help_all_needs_no_other_flag() -> None:
    code, shown = call("annotate", "--help-all")
    assert code == 0
    assert "Each rater has a journal of votes" in shown


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        ("estimate --help-all", 0, "Whose flags follow"),
        ("estimate --method sft --help-all", 0, "estimate --method sft [OPTIONS]"),
        ("estimate", 2, "Missing option --method"),
        ("estimate --method ppo", 2, "'ppo' is not one of 'sft'"),
        ("sft --learning-rate fast", 2, "'--learning-rate': 'fast' is no number"),
    ],
)
def test_what_is_asked_wrongly_is_named(words: str, code: int, part: str) -> None:
    ended, shown = call(*words.split())
    assert ended == code
    assert part in shown
    assert "Value error" not in shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Start model: a hub id, a folder.", "Start model"),
        ("Peak learning rate.", "Peak learning rate"),
        ("Share of the data (0 to 0.5), chosen.", "Share of the data"),
        ("Use 2.5 of it; more is worse.", "Use 2.5 of it"),
        ("One\n    line", "One line"),
    ],
)
def test_brief_stops_before_the_detail(text: str, expected: str) -> None:
    assert brief(text) == expected


def completed(line: str) -> list[str]:
    """What bash offers after this line."""
    env = {"_ROOT_COMPLETE": "complete_bash", "COMP_WORDS": f"root {line}", "COMP_CWORD": str(len(line.split(" ")))}
    return CliRunner().invoke(app, [], env=env, prog_name="root").output.split()


def test_the_shell_completes_commands_flags_methods_configs_and_choices() -> None:
    assert {"annotate", "advise"} <= set(completed("a"))
    assert completed("estimate --method i") == ["irft"]
    assert {"quickstart", "quickstart-sft"} <= set(completed("irft --config quick"))
    assert completed("irft --link ns") == []
    assert completed("irft --link n") == ["nce"]
    assert "--learning-rate" in completed("irft --learn")
    assert completed("rft --reward-kind l") == ["linear"]


def test_completion_can_be_installed() -> None:
    shown = call("--help")[1]
    assert "--install-completion" in shown
    assert "--show-completion" in shown
