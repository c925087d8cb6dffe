"""Names that a user may have meant."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str], *, most: int = 1) -> str:
    """`did you mean NAME?` with the nearest of the known names; empty where none is near: adam is not adalomo."""
    near = difflib.get_close_matches(name, list(known), n=most, cutoff=0.75)
    return f"did you mean {', '.join(near)}?" if near else ""
