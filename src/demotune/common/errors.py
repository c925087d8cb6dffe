"""The one exception for what the user can fix; see `messages` for how the command line shows it and others."""

from collections.abc import Mapping
from pathlib import Path


class DemotuneError(Exception):
    """Something the user can fix: the message says what happened, the value, and the fix."""


def no_such_model(source: str) -> DemotuneError:
    """The error for a name that is neither here nor possible as a hub id."""
    return DemotuneError(
        f"model {source!r} is no folder or GGUF file here ({Path.cwd()}), and no possible hub id; check the path "
        "or the hub id"
    )


def first_line(error: BaseException) -> str:
    """The first line of an error's message: libraries add pages of advice."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def changes(begun: Mapping[str, object], wanted: Mapping[str, object]) -> str:
    """seed was 1, is 2: the settings that differ from those that something was begun with; empty where none does."""
    return "; ".join(
        f"{name} was {begun.get(name)}, is {value}" for name, value in wanted.items() if begun.get(name) != value
    )


def one_line(error: BaseException, longest: int = 300) -> str:
    """Kind and text of another library's error on one line, for a message."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:longest]


def shown_error(error: BaseException) -> str:
    """Kind of an error and the first line of what it says."""
    return f"{type(error).__name__}: {error}".partition("\n")[0][:200]
