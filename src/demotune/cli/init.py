"""`demotune init`: from a model and data to a run.yaml, with a look at what is read and what the run will cost."""

import shlex
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import typer
import yaml

from demotune.cli.inputs import refuse_missing_inputs
from demotune.cli.inspect import read_data, readable_length, show_rows
from demotune.common.errors import DemotuneError
from demotune.common.files import publish_file
from demotune.common.progress import say
from demotune.config.config_files import build_config
from demotune.config.field import field_help, fields_of
from demotune.config.interactive import InitConfig
from demotune.config.methods import CONFIGS, AnyConfig, Method
from demotune.data import NoFormatError, parse_columns
from demotune.estimation.estimate import estimate
from demotune.models.policy import resolve_model
from demotune.runs.folder import RunFolder, run_of

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""What is offered where nobody names a model: small enough for any machine."""
DATA_FILES = ("*.jsonl", "*.json", "*.csv", "*.parquet")
SHOWN_ROWS = 3

Value = TypeVar("Value")


def init(given: InitConfig) -> None:
    """Ask for what is not given, show rows, write the config, estimate the run and say what comes next.

    Raises DemotuneError for what cannot be used and is not asked for, and where the input ends.
    """
    if given.yes and given.file.exists():
        raise DemotuneError(f"{given.file} is there already; give another --file, or remove it")
    model = _asked("model", given.model, MODEL, given, _model)
    data = given.data or _asked("data", None, _only_data_file(), given, _data)
    fields: dict[str, Any] = {"model": model, "data": data, "max_length": readable_length(resolve_model(model))}
    columns = _show_data(build_config("sft", None, fields | {"output": "not written"}), given)
    suggested, why = _suggestion(model)
    if given.method is None:
        say(f"\n{suggested} is suggested: {why}")
    method = _asked("method", given.method, suggested, given, _method)
    output = _asked("run folder", given.output, f"runs/{method}", given, _output)
    fields |= {"output": output} | ({} if columns is None else {"columns": columns})
    config = build_config(method, None, fields)
    _write(config, given.file)
    say("what the run will cost here:")
    try:
        estimate(config, None)
    finally:
        _say_what_is_next(config, given.file)


def as_yaml(config: AnyConfig, file: Path) -> str:
    """The most used fields of the config, each with its help as a comment; defaults hold for the others."""
    lines = [
        f"# Start with: {shlex.join(['demotune', config.method, '--config', str(file)])}",
        f"# Flags override what stands here. Every other field: demotune {config.method} --help-all",
        f"method: {config.method}",
    ]
    texts = field_help(type(config))
    for field in fields_of(type(config)).values():
        value = getattr(config, field.name)
        if field.basic and value is not None:
            comment = textwrap.wrap(" ".join(texts[field.name].split()), 100, break_on_hyphens=False)
            plain = list(value) if isinstance(value, tuple) else value
            text = yaml.safe_dump({field.name: plain}, allow_unicode=True, width=10_000).strip()
            lines += ["", *(f"# {line}" for line in comment), text]
    return "\n".join(lines) + "\n"


def _asked(
    what: str, value: str | None, default: str | None, given: InitConfig, check: Callable[[str], Value]
) -> Value:
    """What was given, with --yes the default, else what the user types: again, until it can be used."""
    if value is None and given.yes:
        value = default
    if value is not None:
        return check(value)
    while True:
        try:
            return check(typer.prompt(what, default=default))
        except DemotuneError as error:
            say(str(error), style="yellow")
        except typer.Abort:
            raise DemotuneError(
                f"the input ended before the {what} was given; answer, or give flags and --yes"
            ) from None


def _model(text: str) -> str:
    refuse_missing_inputs(InitConfig(model=text))
    resolve_model(text)
    return text


def _data(text: str) -> tuple[str, ...]:
    try:
        sources = tuple(shlex.split(text))
    except ValueError as error:
        raise DemotuneError(f"data {text!r} cannot be read: {error}; close the quotation") from None
    refuse_missing_inputs(InitConfig(data=sources))
    return sources


def _columns(text: str) -> str:
    columns = text.removeprefix("--columns").strip()
    parse_columns(columns)
    return columns


def _method(text: str) -> Method:
    found = next((method for method in CONFIGS if method == text), None)
    if found is None:
        raise DemotuneError(f"{text!r} is no method; write one of {', '.join(CONFIGS)}")
    return found


def _output(text: str) -> str:
    RunFolder(Path(text)).refuse_if_taken()
    return text


def _only_data_file() -> str | None:
    """The data file of the working folder, where there is one only."""
    files = [file for pattern in DATA_FILES for file in Path().glob(pattern)]
    return shlex.quote(str(files[0])) if len(files) == 1 else None


def _show_data(reading: AnyConfig, given: InitConfig) -> str | None:
    """Show what is read; where the columns fit no format, ask for them. Returns the columns that were named."""
    columns = given.columns
    while True:
        try:
            found, renderer = read_data(replace(reading, columns=columns))
        except NoFormatError as error:
            if given.yes or given.columns is not None or error.proposed is None:
                raise
            say(str(error), style="yellow")
            columns = _asked("columns", None, error.proposed, given, _columns)
        else:
            show_rows(found, renderer, SHOWN_ROWS)
            return columns


def _suggestion(model: str) -> tuple[Method, str]:
    """Which method comes first, and why, by what is known without measuring."""
    if run_of(resolve_model(model)) is not None:
        return "irft", "the model comes from a run of demotune, and inverse RL goes on where SFT ends"
    return "sft", "inverse RL begins with a model that was fine-tuned on such demonstrations"


def _write(config: AnyConfig, file: Path) -> None:
    if file.exists() and not _asked(f"replace {file}? yes or no", None, "no", InitConfig(), _yes_or_no):
        raise DemotuneError(f"{file} is there already and was kept; give another --file")
    with publish_file(file) as unfinished:
        unfinished.write_text(as_yaml(config, file), encoding="utf-8")
    say(f"\n{file} is written: read it, and change what you like")


def _yes_or_no(text: str) -> bool:
    if text.lower() not in ("yes", "y", "no", "n"):
        raise DemotuneError(f"{text!r} is neither yes nor no")
    return text.lower().startswith("y")


def _say_what_is_next(config: AnyConfig, file: Path) -> None:
    asked: list[Any] = ["--model", config.model, *(word for source in config.data for word in ("--data", source))]
    columns = [] if config.columns is None else ["--columns", config.columns]
    advise = shlex.join(["demotune", "advise", *asked, *columns])
    say()
    say(f"first, in minutes, which method is worth it:  {advise}")
    say(f"the run:  {shlex.join(['demotune', config.method, '--config', str(file)])}")
