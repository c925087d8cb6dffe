"""Configs as YAML files and as fields to fill in: shipped ones, loading with overrides, saving, help texts."""

import ast
import dataclasses
import difflib
import inspect
import itertools
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml

from demotune.common.errors import DemotuneError
from demotune.common.files import publish_file
from demotune.config.limits import shown
from demotune.config.methods import CONFIGS, AnyConfig, Method, as_dict
from demotune.config.yaml_fields import parse_fields, read_yaml_file

Config = TypeVar("Config")


def shipped_configs() -> dict[str, str]:
    """Name -> text of the configs that come with the package."""
    folder = resources.files("demotune.config") / "shipped"
    return {f.name.removesuffix(".yaml"): f.read_text() for f in folder.iterdir() if f.name.endswith(".yaml")}


def build_config(method: Method, file: str | None, overrides: Mapping[str, object]) -> AnyConfig:
    """The config of a run: defaults, then the YAML file (a path or a shipped name), then `overrides`.

    Raises DemotuneError for a field that the method does not have, and for a value of the wrong type.
    """
    values = _read_yaml(file) if file else {}
    wanted = values.pop("method", method)
    if wanted not in tuple(CONFIGS):
        raise DemotuneError(f"{file} is a config for {shown(wanted)}, which is no method; write method: {method}")
    if wanted != method:
        raise DemotuneError(f"{file} is a config for {wanted}, not {method}; run demotune {wanted} --config {file}")
    values = values | dict(overrides)
    _refuse_unknown_fields(method, values)
    refuse_missing_fields(CONFIGS[method], values)
    return from_dict(method, values)


def refuse_missing_fields(config_class: type[Any], values: Mapping[str, object]) -> None:
    """Raise DemotuneError that names every field that a command cannot do without and that is not given."""
    missing = [name for name in field_types(config_class) if name in config_class.required and not values.get(name)]
    if missing:
        flags = " ".join(f"--{name.replace('_', '-')} {name.upper()}" for name in missing)
        raise DemotuneError(f"{_listed(missing)} {'is' if len(missing) == 1 else 'are'} missing; add {flags}")


def from_dict(method: Method, values: Mapping[str, object]) -> AnyConfig:
    """Plain values (as from YAML) to a checked config. Raises DemotuneError."""
    _refuse_unknown_fields(method, values)
    return from_fields(CONFIGS[method], values)


def _refuse_unknown_fields(method: Method, values: Mapping[str, object]) -> None:
    known = field_types(CONFIGS[method])
    for name in values:
        if name not in known:
            raise DemotuneError(unknown_field(name, method))


def from_fields(config_class: type[Config], values: Mapping[str, object]) -> Config:
    """A config of its own fields, each brought to its type. Raises DemotuneError."""
    types_of = field_types(config_class)
    return config_class(**{name: _convert(name, value, types_of[name]) for name, value in values.items()})


def load_config(file: Path) -> AnyConfig:
    """Read a run.yaml that `save_config` wrote."""
    values = _read_yaml(str(file))
    method = values.pop("method", None)
    if method not in tuple(CONFIGS):
        raise DemotuneError(
            f"{file} names no known method (found {shown(method)}); it should be one of {', '.join(CONFIGS)}"
        )
    return from_dict(method, values)


def save_config(config: AnyConfig, file: Path) -> None:
    """Write the whole config, defaults filled in."""
    with publish_file(file) as unfinished:
        unfinished.write_text(yaml.safe_dump(as_dict(config), sort_keys=False, allow_unicode=True), encoding="utf-8")


def unknown_field(name: str, method: Method) -> str:
    """What to write instead of a field that `method` does not have."""
    owners = [other for other, config_class in CONFIGS.items() if name in field_types(config_class)]
    near = difflib.get_close_matches(name, field_types(CONFIGS[method]), n=1)
    advice = f"; did you mean {near[0]}?" if near else ""
    if owners:
        return f"{name} is a field of {_listed(owners)}, which {method} does not use{advice}"
    return f"{method} has no field {name}{advice or f'; see demotune {method} --help'}"


def _listed(names: Sequence[str]) -> str:
    """a; a and b; a, b and c."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def field_types(config_class: type[Any]) -> dict[str, Any]:
    """Field name -> type."""
    hints = typing.get_type_hints(config_class)
    return {field.name: hints[field.name] for field in dataclasses.fields(config_class)}


def field_help(config_class: type[Any]) -> dict[str, str]:
    """Field name -> the docstring that stands under it in the source."""
    texts: dict[str, str] = {}
    for owner in reversed(config_class.__mro__[:-1]):
        texts |= _docstrings(owner.__module__).get(owner.__name__, {})
    return texts


@cache
def _docstrings(module: str) -> dict[str, dict[str, str]]:
    """Class -> field -> docstring, of the classes at the top of a module; it is parsed once, for all commands."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(sys.modules[module])).body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = {
                cast(ast.Name, line.target).id: str(cast(ast.Constant, following.value).value)
                for line, following in itertools.pairwise(node.body)
                if isinstance(line, ast.AnnAssign) and isinstance(following, ast.Expr)
            }
    return found


def _read_yaml(file: str) -> dict[str, object]:
    shipped = shipped_configs()
    if not Path(file).is_file() and file not in shipped:
        raise DemotuneError(
            f"config {file} is neither a file nor a shipped config ({', '.join(sorted(shipped))}); check the path"
        )
    return read_yaml_file(Path(file)) if Path(file).is_file() else parse_fields(shipped[file], file)


def _convert(name: str, value: object, wanted: Any) -> object:
    """Bring a YAML or command-line value to the field's type, or say what was expected."""
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _convert(name, value, next(a for a in arguments if a is not type(None)))
    if origin is tuple:
        items = [value] if isinstance(value, str | int | float) else value
        if isinstance(items, list | tuple):
            if "" in items:
                raise DemotuneError(f"{name} holds an empty text; leave it out")
            return tuple(_convert(name, item, arguments[0]) for item in items)
    elif origin is typing.Literal:
        if value in arguments:
            return value
        raise DemotuneError(f"{name} must be one of {', '.join(map(str, arguments))}, got {shown(value)}")
    elif wanted is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 5e-7 as text
        except (ValueError, OverflowError):  # OverflowError: an integer beyond the largest float
            pass
    elif type(value) is wanted:
        return value
    expected = getattr(wanted, "__name__", wanted)
    raise DemotuneError(f"{name} must be {expected}, got {shown(value)} ({type(value).__name__}); give one")
