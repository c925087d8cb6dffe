"""Fields of a config: each gives its default, bounds and help panel; the docstring under it is its help text."""

import ast
import dataclasses
import inspect
import itertools
import sys
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, replace
from functools import cache
from typing import Any, Literal, cast

Named = Literal["loggers", "columns", "rows", "prompts", "model", "run", "evaluation"]
"""What a field names: it is looked for before torch is imported."""

INPUTS = "Model, data, output"
READING = "Reading the data"
STAGES = "Stages and objective"
OPTIMISATION = "Optimisation and precision"
LORA = "LoRA"
SAMPLING = "Sampling"
REWARD = "Reward steps"
POLICY = "Policy steps"
GUARDS = "Guard rails"
JUDGES = "Judges"
TASKS = "Benchmark tasks"
BOOKKEEPING = "Bookkeeping"


@dataclass(frozen=True, kw_only=True)
class Field:
    """One field of a config class, with what is declared at it."""

    name: str = ""
    kind: Any = None
    """Its type."""
    default: Any = None
    """MISSING where it has none."""
    panel: str | None = None
    """Of `--help`."""
    above: float | None = None
    """A number, or each of several, is larger than this."""
    minimum: float | None = None
    maximum: float = 10**9
    """A larger number is a slip, and would fail hours later."""
    required: bool = False
    """On the command line or in the YAML file; in Python an object may be passed instead."""
    argument: bool = False
    """Stands on the command line without a flag."""
    names: Named | None = None
    basic: bool = False
    """Among the most used of its command, which `--help` shows; a command without any shows all."""


def field(default: Any = MISSING, panel: str | None = None, **about: Any) -> Any:
    """A dataclass field with what `Field` says about it. A subclass that gives another default keeps the rest."""
    return dataclasses.field(default=default, metadata={"about": Field(panel=panel, **about)})


def fields_of(config_class: type[Any]) -> Mapping[str, Field]:
    """Name -> field, in the order of run.yaml and of the flags."""
    types = typing.get_type_hints(config_class)
    about: dict[str, Field] = {}
    for owner in reversed(config_class.__mro__):
        for name, own in owner.__dict__.get("__dataclass_fields__", {}).items():
            about[name] = own.metadata.get("about") or about.get(name, Field())
    return {
        one.name: replace(about[one.name], name=one.name, kind=types[one.name], default=one.default)
        for one in dataclasses.fields(config_class)
    }


def field_types(config_class: type[Any]) -> dict[str, Any]:
    """Field name -> type."""
    return {name: found.kind for name, found in fields_of(config_class).items()}


def field_help(config_class: type[Any]) -> dict[str, str]:
    """Field name -> the docstring under it in the source."""
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
