"""Names that may be published: hub ids unchanged, of a path its last part only."""

import re
from collections.abc import Container
from pathlib import Path, PurePosixPath

from demotune.data.readers.by_suffix import is_data_file

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_LEADING_FOLDERS = re.compile(r"(?<![\w.])(?:[A-Za-z]:|~|\.{1,2})?[/\\](?:[^\s/\\]+[/\\])+(?=[^\s/\\])")
"""All of a path from the root, from home or from here but its last part."""


def looks_like_hub_id(name: str) -> bool:
    """OWNER/NAME that is no file or folder here and does not end as data or GGUF files do."""
    is_file_name = is_data_file(Path(name)) or name.endswith(".gguf")
    return _HUB_ID.fullmatch(name) is not None and not is_file_name and not Path(name).exists()


def base_name(path: str) -> str:
    """The last part of a path; of a name without slashes, all of it."""
    return PurePosixPath(path.replace("\\", "/")).name


def public_name(name: str) -> str:
    """A hub id, or the last part of a path."""
    return name if looks_like_hub_id(name) else base_name(name)


def without_paths(text: str) -> str:
    """A sentence in which paths from the root, from home or from here are their last parts."""
    return _LEADING_FOLDERS.sub("", text)


def public_command(command: str, hub_ids: Container[str]) -> str:
    """A command as it was typed, each path in it as its last part; `hub_ids` are no paths.

    Commands are kept without quotes, so all text between two flags counts as one value.
    """

    def shown(value: str) -> str:
        return value if value in hub_ids else base_name(value)

    first, *flags = re.split(r"\s+(?=--)", command)
    words = first.split(" ", 2)
    parts = [re.split(r"([ =])", flag, maxsplit=1) for flag in flags]
    return " ".join([*words[:2], *map(shown, words[2:]), *("".join([*part[:-1], shown(part[-1])]) for part in parts)])
