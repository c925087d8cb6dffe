"""Help of a command from its config: --help names the most used flags on one screen, --help-all says everything."""

import re
import typing
from collections.abc import Iterable
from dataclasses import MISSING
from pathlib import Path
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand

from demotune.config.field import Field, field_help, fields_of
from demotune.config.values import Config

ALL = "--help-all"
OTHER = "Options"
_WANTED = re.compile(r"Input should be a valid (\w+)")
"""As pydantic, which typer asks, refuses a value."""
_BRIEF = re.compile(r"(.+?)(?:[.:;](?:\s|$)|\s\()", re.DOTALL)


class PlainCommand(TyperCommand):
    """A command whose refusals of a value name the value, in our words."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words = list(args)
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            given, _, _ = self.make_parser(ctx).parse_args(words)
            kind = _WANTED.match(error.message)
            value = given.get(error.param.name) if error.param else None
            error.message = f"{value!r} is no {kind[1]}" if kind else error.message.removeprefix("Value error, ")
            raise


class ConfigCommand(PlainCommand):
    """A command whose flags are the fields of a config class; the other parameters have their help from typer."""

    config_class: ClassVar[type[Config]]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As typer's, but each required option that is not given is named; typer names the first one."""
        given, _, _ = self.make_parser(ctx).parse_args(list(args))
        missing = [option.opts[0] for option in self.params if option.required and option.name not in given]
        if len(missing) > 1 and not given.get("help") and not given.get("help_all"):
            ctx.fail(f"Missing options {', '.join(missing)}")
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Usage, what the command does and its flags: the most used, or with --help-all each by its panel."""
        whole = bool(ctx.meta.get(ALL))
        self.format_usage(ctx, formatter)
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text((self.help or "") if whole else (self.help or "").split("\n\n")[0])
        for panel, records in self._panels(ctx, whole).items():
            with formatter.section(typer.style(panel, bold=True)):
                formatter.write_dl(records)

    def _panels(self, ctx: Any, whole: bool) -> dict[str, list[tuple[str, str]]]:
        """Heading -> (flag, text) of each parameter below it."""
        fields, texts = fields_of(self.config_class), field_help(self.config_class)
        shown = fields if whole else shown_on_one_screen(fields.values())
        panels: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            field = fields.get(param.name)
            if field is None:
                if (record := param.get_help_record(ctx)) is not None:
                    panels.setdefault(OTHER, []).append(record)
            elif field.name in shown:
                panel = "Arguments" if field.argument else (whole and field.panel) or OTHER
                panels.setdefault(panel, []).append((_names(field), said_of(field, texts[field.name], whole)))
        return panels


def shown_on_one_screen(fields: Iterable[Field]) -> set[str]:
    """Names of the fields that are said to be the most used, and of those that must be given; else all."""
    every = list(fields)
    if not any(field.basic for field in every):
        return {field.name for field in every}
    return {field.name for field in every if field.basic or field.required or field.default is MISSING}


def brief(text: str) -> str:
    """What a text says before it goes into detail."""
    found = _BRIEF.match(text)
    return " ".join((found[1] if found else text).split())


def show_all(ctx: typer.Context, value: bool) -> None:
    """The callback of --help-all."""
    if value and not ctx.resilient_parsing:
        ctx.meta[ALL] = True
        typer.echo(ctx.get_help())
        raise typer.Exit


def _names(field: Field) -> str:
    """The flag as it is written, with what follows it: --max-rows NUMBER."""
    if field.argument:
        return typer.style(field.name.upper(), fg="cyan")
    flag = "--" + field.name.replace("_", "-")
    kind = _plain_kind(field.kind)
    if kind is bool:
        return typer.style(f"{flag}, --no-{flag[2:]}", fg="cyan")
    choices = "|".join(typing.get_args(kind))
    word = choices or {int: "NUMBER", float: "NUMBER", Path: "PATH"}.get(kind, (field.names or "text").upper())
    return f"{typer.style(flag, fg='cyan')} {word}"


def _plain_kind(kind: Any) -> Any:
    """X of `X | None`, and of a tuple of them."""
    while typing.get_origin(kind) not in (None, typing.Literal):
        kind = next(one for one in typing.get_args(kind) if one is not type(None))
    return kind


def said_of(field: Field, text: str, whole: bool) -> str:
    """Help of a field whose docstring is `text`, with its default."""
    said = " ".join(text.split()) if whole else brief(text)
    if field.argument:
        return said
    if field.default is MISSING or field.required:
        return f"{said} [required]"
    if whole:
        return f"{said} [{_default(field.default)}]"
    return said if field.default in (None, (), False) else f"{said} [{_plain(field.default)}]"


def _default(default: Any) -> str:
    return "default: not given" if default is None or default == () else f"default: {_plain(default)}"


def _plain(default: Any) -> str:
    if isinstance(default, tuple):
        return " ".join(map(str, default))
    if isinstance(default, bool):
        return "yes" if default else "no"
    return str(default)
