"""Columns besides prompt and response: system, history, tools, documents and reasoning."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from demotune.data.raw_rows import RowError, shown
from demotune.data.readers.json_text import parse_json
from demotune.data.turns import (
    MEDIA_NAMES,
    THOUGHT_NAMES,
    Exchange,
    Remarks,
    Turn,
    checked_text,
    checked_turns,
    invalid_utf8,
    one_thought,
)
from demotune.records import Context, Message

Columns = Mapping[str, object]
_EMPTY: tuple[object, ...] = (None, "", [], {})


@dataclass(frozen=True, slots=True)
class ExtraColumns:
    """The names under which each part is looked for; a row may have none of them."""

    system: tuple[str, ...] = ("system", "system_prompt")
    history: tuple[str, ...] = ("history",)
    tools: tuple[str, ...] = ("tools",)
    documents: tuple[str, ...] = ("documents",)
    reasoning: tuple[str, ...] = THOUGHT_NAMES

    @property
    def names(self) -> tuple[str, ...]:
        """Of all parts."""
        return (*self.system, *self.history, *self.tools, *self.documents, *self.reasoning)

    def without(self, taken: Iterable[str]) -> "ExtraColumns":
        """The names that no other part of the row has."""
        left = {part: tuple(name for name in getattr(self, part) if name not in taken) for part in PARTS}
        return ExtraColumns(**left)


PARTS = ("system", "history", "tools", "documents", "reasoning")
"""What `--columns` can name besides prompt and response."""


def is_given(value: object) -> bool:
    """Whether a column holds something; null and empty do not count."""
    return value not in _EMPTY


def with_extra_columns(
    exchanges: list[Exchange], extra: ExtraColumns, columns: Columns, remarks: Remarks
) -> list[Exchange]:
    """The exchanges with the row's other columns. Raises RowError for what cannot be read or is not text.

    The system text comes first and the history after it, before the turns that the text itself has. Reasoning is that
    of the last response.
    """
    if not any(is_given(columns[name]) for name in columns.keys() & {*extra.names, *MEDIA_NAMES}):
        return exchanges
    context, start, earlier = read_context(extra, columns, remarks)
    found = [replace(one, prompt=with_start(one.prompt, start, earlier), context=context) for one in exchanges]
    if thought := one_thought([(name, columns.get(name)) for name in extra.reasoning], "the row", remarks):
        if not found[-1].ends_row:
            raise RowError("turn weight", "the row has a thought of its last turn, which has weight 0")
        if found[-1].reasoning not in ("", thought):
            raise RowError("two thoughts", "the response has a thought of its own and a column has another")
        found[-1] = replace(found[-1], reasoning=thought)
    return found


def read_context(extra: ExtraColumns, columns: Columns, remarks: Remarks) -> tuple[Context, str, tuple[Message, ...]]:
    """Tools and documents, the system text, and the earlier turns that the columns of a row hold."""
    for name in MEDIA_NAMES:
        if is_given(columns.get(name)):
            raise RowError("non-text content", f"{name} is {shown(columns[name])}; only text can be learned")
    context = Context(_objects(extra.tools, columns), _objects(extra.documents, columns))
    earlier = tuple(turn.message() for turn in _history(extra.history, columns, remarks))
    return context, _system(extra.system, columns), earlier


def with_start(prompt: tuple[Message, ...], system: str, earlier: tuple[Message, ...]) -> tuple[Message, ...]:
    """The prompt behind the system text and the earlier turns. Refuses a second system text that differs."""
    own = prompt[:1] if prompt and prompt[0]["role"] == "system" else ()
    first = ({"role": "system", "content": system},) if system else own
    if own and own != first:
        raise RowError("two system texts", "the conversation begins with a system turn, and the system column differs")
    if first and earlier and earlier[0]["role"] == "system":
        if earlier[0] != first[0]:
            raise RowError("two system texts", "the history begins with a system turn, and the row has another")
        earlier = earlier[1:]
    return (*first, *earlier, *prompt[len(own) :])


def _system(names: tuple[str, ...], columns: Columns) -> str:
    texts = {name: checked_text(columns[name], name) for name in names if is_given(columns.get(name))}
    texts = {name: text for name, text in texts.items() if text.strip()}
    if len(set(texts.values())) > 1:
        raise RowError("two system texts", f"{' and '.join(texts)} differ")
    return next(iter(texts.values()), "")


def _history(names: tuple[str, ...], columns: Columns, remarks: Remarks) -> tuple[Turn, ...]:
    found: tuple[Turn, ...] = ()
    for name, value in _lists(names, columns, "[user, assistant] or of messages"):
        if isinstance(value[0], list):
            found += tuple(turn for index, pair in enumerate(value) for turn in _pair(pair, f"{name}[{index}]"))
        else:
            found += checked_turns(value, name, remarks)
    return found


def _pair(pair: object, place: str) -> tuple[Turn, Turn]:
    if not isinstance(pair, list) or len(pair) != 2:
        raise RowError("wrong type", f"{place} is {shown(pair)}, expected [user, assistant]")
    user, assistant = (checked_text(text, place) for text in pair)
    return Turn("user", user), Turn("assistant", assistant)


def _objects(names: tuple[str, ...], columns: Columns) -> tuple[Mapping[str, object], ...]:
    lists = _lists(names, columns, "objects")
    return tuple(_object(item, f"{name}[{index}]") for name, items in lists for index, item in enumerate(items))


def _lists(names: tuple[str, ...], columns: Columns, of: str) -> Iterator[tuple[str, list[object]]]:
    """(column, its list) of the columns that hold something. Raises RowError for one that is no list."""
    for name in names:
        value = _parsed(columns.get(name), name)
        if not is_given(value):
            continue
        if not isinstance(value, list):
            raise RowError("wrong type", f"{name} is {shown(value)}, expected a list of {of}")
        yield name, value


def _object(item: object, place: str) -> Mapping[str, object]:
    value = _parsed(item, place)
    if not isinstance(value, dict):
        raise RowError("wrong type", f"{place} is {shown(value)}, expected an object")
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise invalid_utf8(f"a text in {place}", error) from None
    except (TypeError, ValueError) as error:
        raise RowError("wrong type", f"{place} cannot be written as JSON ({error})") from None
    return value


def _parsed(value: object, place: str) -> object:
    """The value itself, or its text parsed as JSON: columns of some file formats can hold text only."""
    if not isinstance(value, str) or not value.strip():
        return None if isinstance(value, str) else value
    return parse_json(value, place)
