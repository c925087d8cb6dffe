"""JSON in which no object has a key twice: of two values one would be lost."""

import json
from collections import Counter

from demotune.data.raw_rows import RowError


class _WithKeyTwice(dict[str, object]):
    """An object that gave `key` twice, inside a document of which other rows are good."""

    key: str = ""


def parse_json(text: str, place: str = "") -> object:
    """The value. Raises RowError for text that is not JSON and for a key given twice; `place` names it there."""
    try:
        value: object = json.loads(text, object_pairs_hook=_object)
    except RowError as refusal:
        raise RowError(refusal.reason, f"{place}: {refusal.detail}" if place else refusal.detail) from None
    except (ValueError, RecursionError) as error:  # RecursionError: thousands of opening brackets
        raise RowError("broken JSON", f"{place} is text that is not JSON ({error})" if place else str(error)) from None
    return value


def parse_document(text: str) -> object:
    """The value; objects that give a key twice are kept, for `key_twice` to find. Raises as `json.loads` does."""
    value: object = json.loads(text, object_pairs_hook=_marked_object)
    return value


def key_twice(value: object) -> str | None:
    """A key that some object inside a parsed document gives twice."""
    if isinstance(value, _WithKeyTwice):
        return value.key
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((key for key in map(key_twice, parts) if key is not None), None)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = _marked_object(pairs)
    if isinstance(found, _WithKeyTwice):
        raise RowError("key given twice", f"the key {found.key!r} is given twice in one object")
    return found


def _marked_object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    marked = _WithKeyTwice(found)
    marked.key = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
    return marked
