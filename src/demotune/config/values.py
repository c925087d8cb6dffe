"""Values of fields: each is brought to the field's type and checked against its bounds, or refused by name."""

import math
import os
import types
import typing
from pathlib import Path
from typing import Any

from demotune.common.errors import DemotuneError
from demotune.config.field import Field, fields_of


class Config:
    """Base of all configs. What a user writes is brought to its type: a path or one text stands for a list of one."""

    def __post_init__(self) -> None:
        """Raises DemotuneError for a value of a wrong type, one out of bounds, and fields that contradict."""
        for field in fields_of(type(self)).values():
            object.__setattr__(self, field.name, checked(field, getattr(self, field.name)))
        self._check()

    def _check(self) -> None:
        """What several fields must hold together."""


def checked(field: Field, value: object) -> object:
    """The value in the field's type. Raises DemotuneError that names field, value and fix."""
    converted = _convert(field, value, field.kind)
    for number in converted if isinstance(converted, tuple) else (converted,):
        if isinstance(number, int | float) and not isinstance(number, bool):
            _check_bounds(field, number)
    return converted


def _convert(field: Field, value: object, wanted: Any) -> object:
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _convert(field, value, next(a for a in arguments if a is not type(None)))
    if origin is tuple:
        items = [value] if isinstance(value, str | int | float | os.PathLike) else value
        if isinstance(items, list | tuple):
            if any(isinstance(item, str) and not item for item in items):
                raise DemotuneError(f"{field.name} holds an empty text; leave it out")
            if typing.get_origin(arguments[0]) is typing.Literal:  # names without commas: `a,b` is two of them
                items = [part for item in items for part in (item.split(",") if isinstance(item, str) else [item])]
            return tuple(_convert(field, item, arguments[0]) for item in items)
    elif origin is typing.Literal:
        if value in arguments:
            return value
        raise DemotuneError(f"{field.name} must be one of {', '.join(map(str, arguments))}, got {shown(value)}")
    elif wanted is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 5e-7 as text
        except (ValueError, OverflowError):  # OverflowError: an integer beyond the largest float
            pass
    elif wanted in (str, Path) and isinstance(value, str | os.PathLike):
        return wanted(os.fspath(value))
    elif type(value) is wanted:
        return value
    raise DemotuneError(
        f"{field.name} must be {_type_name(wanted)}, got {shown(value)} ({type(value).__name__}); {_fix(field)}"
    )


def _type_name(wanted: Any) -> str:
    if typing.get_origin(wanted) is typing.Literal:
        return ", ".join(map(str, typing.get_args(wanted)))
    if typing.get_origin(wanted) is tuple:
        name = _type_name(typing.get_args(wanted)[0])
        return f"{name} or a list of {name}"
    return str(wanted.__name__)


def _fix(field: Field) -> str:
    if field.names == "rows":
        argument = "eval_dataset" if field.name == "eval_data" else "train_dataset"
        return f"name files, folders or hub ids, and pass rows in memory to run() as {argument}="
    return "give one"


def _check_bounds(field: Field, number: float) -> None:
    if isinstance(number, float) and not math.isfinite(number):
        raise DemotuneError(f"{field.name} must be a finite number, got {number}; give a number")
    too_low = (field.above is not None and number <= field.above) or (
        field.minimum is not None and number < field.minimum
    )
    if too_low or number > field.maximum:
        usual = f"the default is {field.default}" if isinstance(field.default, int | float) else "or leave it out"
        fix = usual if too_low else "give a smaller number"
        raise DemotuneError(f"{field.name} must be {_bounds(field, too_low)}, got {shown(number)}; {fix}")


def _bounds(field: Field, too_low: bool) -> str:
    if field.maximum <= 1:  # a share
        return f"{field.minimum} to {field.maximum}" if field.above is None else f"above {field.above}, at most 1"
    if not too_low:
        return f"at most {field.maximum}"
    if field.above is not None:
        return f"> {field.above}"
    return f"at least {field.minimum}" if field.minimum else f">= {field.minimum}"


def shown(value: object) -> str:
    """A value for a message: on one line, cut where it is long. Python writes no integers of thousands of digits."""
    if isinstance(value, int) and value.bit_length() > 1000:
        return f"an integer of {value.bit_length()} bits"
    try:
        text = repr(value)
        text = " ".join(text.split()) if "\n" in text else text  # a table, for instance
    except ValueError:  # a list that holds such an integer
        return f"a {type(value).__name__} of values"
    return text if len(text) <= 200 else f"{text[:200]}..."
