"""Columns that the user named with `--columns`, and those that an error message proposes."""

import re
from collections.abc import Mapping, Sequence
from statistics import fmean

from demotune.common.errors import DemotuneError
from demotune.data.extra_columns import PARTS
from demotune.data.raw_rows import RawRow, column_list

_TEXT_PARTS = ("prompt", "response", "messages", "rejected")
_PROMPT_LIKE = (
    "prompt", "question", "instruction", "query", "problem", "input", "request", "ask", "user", "customer", "human",
    "client", "text", "message",
)  # fmt: skip
_RESPONSE_LIKE = (
    "response", "answer", "output", "completion", "solution", "target", "reply", "assistant", "agent", "bot", "support",
)  # fmt: skip
_REPLY_MARKS = (
    "<|im_start|>assistant", "<|start_header_id|>assistant", "<|assistant|>", "<start_of_turn>model", "[/INST]",
    "### Response:", "### Assistant:", "ASSISTANT:", "\nAssistant:",
)  # fmt: skip
"""With which templates begin a response in a text that holds a whole conversation."""
_EXAMPLE = (
    "write for example --columns prompt=question,response=answer or --columns messages=dialogue, "
    "and add rejected=COLUMN for preference rows"
)


def parse_columns(columns: str | None) -> dict[str, str]:
    """Part -> column of "prompt=question,response=answer"; empty without it.

    Parts are prompt and response, or messages, each perhaps with rejected; and the extra columns, alone too:
    system, history, tools, documents, reasoning. Raises DemotuneError for other parts, and for a column named twice.
    """
    if columns is None:
        return {}
    pieces = [piece.partition("=") for piece in columns.split(",")]
    named = {part.strip(): column.strip() for part, _, column in pieces}
    text_parts = named.keys() - set(PARTS)
    whole = text_parts - {"rejected"} in ({"prompt", "response"}, {"messages"}) or not text_parts
    if len(named) < len(pieces) or not all(named.values()) or not whole:
        raise DemotuneError(
            f"columns must name the columns of prompt and response, or of messages, got {columns!r}; {_EXAMPLE}"
            f"; beside the text, {', '.join(PARTS)} can be named too"
        )
    for column in named.values():
        parts = [part for part, other in named.items() if other == column]
        if len(parts) > 1:
            raise DemotuneError(
                f"columns name {column} as {' and as '.join(parts)}, got {columns!r}; one column cannot be both, "
                "name another column for one of them"
            )
    return named


class NoFormatError(DemotuneError):
    """A table's columns fit no format. `proposed` is what `--columns` may say, where there is something to propose."""

    def __init__(self, message: str, proposed: str | None) -> None:
        super().__init__(message)
        self.proposed = proposed


def no_format_fits(name: str, rows: Sequence[RawRow], columns: str | None) -> NoFormatError:
    """The error for a table whose columns fit no format: the columns found, and what to write."""
    found = list(dict.fromkeys(column for row in rows for column in (*row.columns, *row.unread)))
    problem = "these columns fit no known format" if columns is None else f"no row has the columns of {columns!r}"
    advice, proposed = _advice(rows, found)
    if proposed is not None:
        advice += f", for example --columns {proposed}"
    return NoFormatError(f"{name}: {problem}; found: {column_list(found) or 'none'}; {advice}", proposed)


def _advice(rows: Sequence[RawRow], found: Sequence[str]) -> tuple[str, str | None]:
    """What to do, and what `--columns` may say."""
    dialogues = [column for column in found if any(_is_dialogue(row.columns.get(column)) for row in rows)]
    if dialogues:
        return "say which holds the conversation", f"messages={column_list(dialogues[:1])}"
    texts = [column for column in found if column and "," not in column and _length(column, rows) > 0]
    rendered = texts if len(texts) == 1 else [column for column in texts if column == "text"]
    if mark := next((mark for column in rendered for mark in _REPLY_MARKS if _has_mark(column, rows, mark)), None):
        return (
            f"{column_list(rendered)} holds whole conversations that a chat template wrote (found {mark.strip()!r}); "
            "demotune writes them itself, with the model's template; cut each text before its last "
            f"{mark.strip()!r} into two columns, prompt and completion, and leave the template's marks out"
        ), None
    if len(texts) < 2:
        have = f"only {column_list(texts)} holds text" if texts else "no column holds text"
        return f"demonstrations need a prompt and a response, and {have}; write each to a column of its own", None
    # A column that is named like one of the two comes first; of the others, the longest texts.
    by_length = sorted(texts, key=lambda column: -_length(column, rows))
    response = min(by_length, key=lambda column: _rank(column, _RESPONSE_LIKE))
    if _rank(response, _RESPONSE_LIKE) == len(_RESPONSE_LIKE):
        named = min(by_length, key=lambda column: _rank(column, _PROMPT_LIKE))
        likely = by_length[:2] if _rank(named, _PROMPT_LIKE) == len(_PROMPT_LIKE) else [named]
        prompt = min(likely, key=texts.index)  # the question is usually the first column
        response = next(column for column in by_length if column != prompt)
    else:
        others = [column for column in by_length if column != response]
        prompt = min(others, key=lambda column: _rank(column, _PROMPT_LIKE))
    return "say which hold prompt and response", f"prompt={column_list([prompt])},response={column_list([response])}"


def _rank(column: str, words: Sequence[str]) -> int:
    """Place of the first of these words in the column's name, their number where it has none."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", column).lower()
    parts = re.split(r"[^a-z]+", name)
    return next((place for place, word in enumerate(words) if word in parts or f"{word}s" in parts), len(words))


def _length(column: str, rows: Sequence[RawRow]) -> float:
    """Mean length of a column's texts, 0 where most of its values are none."""
    values = [row.columns.get(column) for row in rows]
    texts = [value for value in values if isinstance(value, str) and value.strip()]
    return fmean(map(len, texts)) if 2 * len(texts) > len(values) else 0.0


def _has_mark(column: str, rows: Sequence[RawRow], mark: str) -> bool:
    """Whether most texts of a column hold the mark."""
    texts = [str(row.columns.get(column)) for row in rows]
    return 2 * sum(mark in text for text in texts) > len(texts)


def _is_dialogue(value: object) -> bool:
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(turn, Mapping) and ("role" in turn or "from" in turn) for turn in value)
