"""The reference pages, written from the commands, the config fields and the public names themselves."""

import html
import itertools
import re
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import MISSING
from typing import Any

import typer

import demotune
from demotune.cli.help import said_of
from demotune.cli.main import app
from demotune.config.config_files import shipped_configs
from demotune.config.field import Field, field_help, fields_of
from demotune.config.methods import CONFIGS

LARGEST_SHOWN = 1000
"""A larger upper bound only catches slips."""


def commands() -> str:
    """Each command with its flags; the flags of a method are its settings."""
    root: Any = typer.main.get_command(app)
    return "\n\n".join(_command(name, command) for name, command in root.commands.items())


def _command(name: str, command: Any) -> str:
    text = [f"## demotune {name}", _prose(command.help)]
    if name in CONFIGS:
        flags = [one for one in command.params if one.name == "config"]
        text.append(f"Its flags are the [settings](settings.md) that have `{name}` in their column *methods*, and:")
    else:
        flags = command.params
    if flags:
        text.append(_table(("flag", "what it does"), [(_flag(one), _cell(_help(command, one))) for one in flags]))
    return "\n\n".join(text)


def _help(command: Any, parameter: Any) -> str:
    config_class = getattr(command, "config_class", None)
    fields = {} if config_class is None else fields_of(config_class)
    if parameter.name in fields:
        return said_of(fields[parameter.name], field_help(config_class)[parameter.name], whole=True)
    text = str(parameter.help or "")
    return f"{text} [required]" if parameter.required and "[required]" not in text else text


def _flag(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.metavar or parameter.name.upper()}`"
    return ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))


def settings() -> str:
    """Every field of the methods' configs, by panel, with type, bounds, defaults and help."""
    panels: dict[str, dict[str, list[str]]] = {}
    for method, config in CONFIGS.items():
        for name, field in fields_of(config).items():
            panels.setdefault(field.panel or "", {}).setdefault(name, []).append(method)
    text = []
    for panel, methods_of in panels.items():
        rows = [_setting(name, methods) for name, methods in methods_of.items()]
        text += [f"## {panel}", _table(("flag", "values", "default", "methods", "what it does"), rows)]
    return "\n\n".join(text)


def _setting(name: str, methods: list[str]) -> tuple[str, ...]:
    fields = {method: fields_of(CONFIGS[method])[name] for method in methods}
    helps: dict[str, list[str]] = {}
    defaults: dict[str, list[str]] = {}
    for method, field in fields.items():
        defaults.setdefault(_default(field), []).append(method)
        helps.setdefault(field_help(CONFIGS[method])[name], []).append(method)
    flag = f"`--{name.replace('_', '-')}`"
    return flag, _values(fields[methods[0]]), _by_method(defaults), " ".join(methods), _by_method(helps)


def _by_method(texts: dict[str, list[str]]) -> str:
    """One text for all methods, or each with the methods that it holds for."""
    if len(texts) == 1:
        return _cell(next(iter(texts)))
    return "<br>".join(f"{', '.join(methods)}: {_cell(text)}" for text, methods in texts.items())


def _default(field: Field) -> str:
    if field.required or field.default is MISSING:
        return "required"
    if isinstance(field.default, bool):
        return "yes" if field.default else "no"
    if field.default is None or field.default == ():
        return ""
    return " ".join(map(str, field.default)) if isinstance(field.default, tuple) else f"{field.default}"


def _values(field: Field) -> str:
    """What the field takes: names, or a type with its bounds."""
    kind, several = field.kind, ""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        kind = next(one for one in typing.get_args(kind) if one is not type(None))
    if typing.get_origin(kind) is tuple:
        kind, several = typing.get_args(kind)[0], ", several"
    if names := _names(kind):
        return ", ".join(f"`{name}`" for name in names) + several
    bounds = [f"above {field.above:g}"] if field.above is not None else []
    bounds += [f"from {field.minimum:g}"] if field.minimum is not None else []
    bounds += [f"to {field.maximum:g}"] if field.maximum <= LARGEST_SHOWN else []
    named = {bool: "yes or no", int: "whole number", float: "number", str: "text"}[kind]
    return ", ".join([named, *bounds]) + several


def _names(kind: Any) -> list[str]:
    """The names of a Literal, or of a union of them."""
    if typing.get_origin(kind) is typing.Literal:
        return [name for one in typing.get_args(kind) for name in (_names(one) or [str(one)])]
    return []


def configs() -> str:
    """The shipped configs as they are."""
    return "\n\n".join(f"## {name}\n\n```yaml\n{text.strip()}\n```" for name, text in sorted(shipped_configs().items()))


def public_names() -> str:
    """A directive of mkdocstrings for each public name; configs without their fields, which are the settings."""
    text = []
    for name in sorted(demotune.__all__, key=str.lower):
        text.append(f"::: demotune.{name}")
        if name.endswith("Config"):
            text.append("    options:\n      members: false")
        text.append("")
    return "\n".join(text)


WRITTEN: dict[str, Callable[[], str]] = {
    "commands": commands, "settings": settings, "configs": configs, "public names": public_names,
}  # fmt: skip


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _prose(text: str) -> str:
    return "\n\n".join(_cell(part) for part in (text or "").split("\n\n"))


def _cell(text: str) -> str:
    """Text on one line, in which nothing but code is markup."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    plain = (re.sub(r"([\\\[\]*])", r"\\\1", html.escape(part, quote=False)) for part in parts[::2])
    return "".join(itertools.chain(*itertools.zip_longest(plain, parts[1::2], fillvalue=""))).replace("|", "\\|")
