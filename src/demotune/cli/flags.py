"""Commands from config classes: a field's name, type, help, default and panel make its flag."""

import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Annotated, Any

import typer

from demotune.cli.help import ALL, ConfigCommand, brief, show_all
from demotune.cli.inputs import refuse_missing_inputs
from demotune.common.errors import DemotuneError
from demotune.common.launches import refuse_several_processes
from demotune.common.messages import errors_as_messages
from demotune.config.config_files import refuse_missing_fields, shipped_configs, unknown_field
from demotune.config.field import Field, field_help, fields_of
from demotune.config.methods import CONFIGS, Method
from demotune.config.values import Config

ONLY = inspect.Parameter.KEYWORD_ONLY
COLLECT_UNKNOWN = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Unknown flags are collected, so that the error can name the nearest field and the methods that have it."""


def command(
    app: typer.Typer, config_class: type[Config], *, shared: bool = False
) -> Callable[[Callable[[Any], None]], None]:
    """Add a command whose flags are the fields of `config_class`; the function acts on the checked config.

    Several processes may give a command that is `shared`; any other one is refused there.
    Flags that must be given come first, then the command's own, then those that it shares with others.
    """

    def add(act: Callable[[Any], None]) -> None:
        def run(**given: Any) -> None:
            with errors_as_messages():
                if not shared:
                    refuse_several_processes(act.__name__.strip("_"))
                fields = _given(given)
                refuse_missing_fields(config_class, fields)
                config = config_class(**fields)
                refuse_missing_inputs(config)
                act(config)

        def place(field: Field) -> int:
            return 0 if field.default is MISSING else 1 if field.name in config_class.__annotations__ else 2

        fields = sorted(fields_of(config_class).values(), key=place)
        _take(run, config_class, _flags(config_class, fields))
        app.command(act.__name__.strip("_"), cls=_command_class(config_class))(run)

    return add


def add_method(app: typer.Typer, method: Method, act: Callable[[str | None, dict[str, Any]], None]) -> None:
    """Add a command whose flags are the fields of the method's config; `act` takes the YAML file and what was given."""

    def run(ctx: typer.Context, **given: Any) -> None:
        with errors_as_messages():
            if ctx.args:
                name = ctx.args[0].split("=")[0].removeprefix("--").removeprefix("no-").replace("-", "_")
                raise DemotuneError(unknown_field(name, method))
            act(given.pop("config"), _given(given))

    context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    text = "YAML file or shipped config; flags override it"
    option = typer.Option("--config", help=text, metavar="FILE", autocompletion=_configs)
    file = inspect.Parameter("config", ONLY, default=None, annotation=Annotated[str | None, option])
    _take(run, CONFIGS[method], [context, file, *_flags(CONFIGS[method], fields_of(CONFIGS[method]).values())])
    app.command(method, cls=_command_class(CONFIGS[method]), context_settings=COLLECT_UNKNOWN)(run)


def _command_class(config_class: type[Config]) -> type[ConfigCommand]:
    return type("Command", (ConfigCommand,), {"config_class": config_class})


def _configs(incomplete: str) -> list[str]:
    """What may follow --config, for the shell: shipped configs, and YAML files of the working folder."""
    names = [*shipped_configs(), *(str(file) for file in Path().glob("*.yaml"))]
    return [name for name in sorted(names) if name.startswith(incomplete)]


def _take(run: Callable[..., None], config_class: type[Config], parameters: Sequence[inspect.Parameter]) -> None:
    """Show typer the parameters of a command, and its help."""
    option = typer.Option(ALL, help="Show every flag, and say more.", is_eager=True, callback=show_all)
    every = inspect.Parameter("help_all", ONLY, default=False, annotation=Annotated[bool, option])
    run.__signature__ = inspect.Signature([*parameters, every])  # type: ignore[attr-defined]
    run.__doc__ = config_class.__doc__


def _flags(config_class: type[Config], fields: Iterable[Field]) -> list[inspect.Parameter]:
    helps = field_help(config_class)
    return [_parameter(field, helps[field.name]) for field in fields]


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were on the command line."""
    return {name: value for name, value in options.items() if value not in (None, []) and name != "help_all"}


def _parameter(field: Field, text: str) -> inspect.Parameter:
    """A flag or positional argument; one that is not given is None or an empty list, and the config's default holds."""
    needed = field.default is MISSING
    kind = _flag_type(field.kind)
    if field.argument:
        option = typer.Argument(help=text)
    else:
        flag = "--" + field.name.replace("_", "-")
        option = typer.Option(
            f"{flag}/--no-{flag[2:]}" if kind is bool else flag,
            help=brief(text),
        )
    return inspect.Parameter(
        field.name,
        ONLY,
        default=inspect.Parameter.empty if needed else None,
        annotation=Annotated[kind if needed else kind | None, option],
    )


def _flag_type(kind: Any) -> Any:
    """A field's type as a flag takes it: a tuple is a repeated flag, `X | None` is X."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return next(argument for argument in typing.get_args(kind) if argument is not type(None))
    if typing.get_origin(kind) is tuple:
        if typing.get_origin(typing.get_args(kind)[0]) is typing.Literal:
            return list[str]  # names may be joined by commas
        return list[typing.get_args(kind)[0]]  # type: ignore[misc]
    return kind
