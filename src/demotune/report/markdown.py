"""Markdown in which users' text is shown literally and never becomes markup."""

import re
from collections.abc import Iterable, Sequence


def bullets(lines: Iterable[str]) -> str:
    """A list; each line is Markdown already."""
    return "\n".join(f"* {line}" for line in lines)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; each cell is Markdown already."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def plain(text: str) -> str:
    """Text as Markdown that shows it literally, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&$])", r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """Text as a code span, whatever it holds, on one line."""
    line = " ".join(text.split()) or "–"
    fence = "`" * (longest_backticks(line) + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def longest_backticks(text: str) -> int:
    """A fence around `text` must be longer."""
    return max((len(run) for run in re.findall(r"`+", text)), default=0)


def _cell(text: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", text)
