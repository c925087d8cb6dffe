"""Prompts without demonstrations: a text file with one a line, or any data file with a column of prompts."""

from collections.abc import Iterator
from pathlib import Path

from demotune.common.errors import DemotuneError
from demotune.data.extra_columns import Columns, ExtraColumns, read_context, with_start
from demotune.data.formats import instruction_text, prompt_turns
from demotune.data.raw_rows import RawRow, RowError, invalid_utf8
from demotune.data.readers.by_suffix import file_rows, is_data_file
from demotune.data.readers.streams import opened, text_lines, unreadable
from demotune.data.turns import MEDIA_NAMES, Remarks, Turn, Turns, check_prompt, checked_text, checked_turns
from demotune.records import NO_CONTEXT, BadRow, Message

_CONVERSATIONS = ("messages", "conversations")
_INSTRUCTIONS = ("instruction", "question", "query")
_READ = frozenset({"prompt", *_CONVERSATIONS, *_INSTRUCTIONS, "input", "context", *MEDIA_NAMES, *ExtraColumns().names})


def read_prompt_file(file: Path) -> list[tuple[str, tuple[Message, ...]]]:
    """(`FILE:LINE`, conversation) of each prompt. Raises DemotuneError, naming the line of one that cannot be used.

    A .txt file has one prompt a line; every other file is read as data is, from the columns prompt, messages,
    conversations, instruction (with input), question or query, and from system and history.
    """
    try:
        exists = file.is_file()
    except OSError as error:
        raise unreadable(file, error) from error
    if not exists:
        raise DemotuneError(f"prompts file {file} does not exist; give a .txt or .jsonl file with --prompts")
    is_text = file.name.lower().removesuffix(".gz").endswith(".txt")
    if not is_text and not is_data_file(file):
        raise DemotuneError(f"prompts file {file} is neither text nor data; give a .txt, .jsonl, .csv or .parquet file")
    found = list(_lines(file) if is_text else map(_prompt_of, file_rows(file, _READ.__contains__)))
    if not found:
        raise DemotuneError(f"prompts file {file} is empty; write one prompt a line")
    return found


def as_prompt(text: str) -> tuple[Message, ...]:
    """A user's single turn."""
    return ({"role": "user", "content": text},)


def checked_prompt(value: object, place: str) -> tuple[Message, ...]:
    """A prompt that was passed at `place`: text, or messages that end with the user's turn. Raises DemotuneError."""
    try:
        if isinstance(value, str):
            turns: Turns = (Turn("user", checked_text(value, place)),)
        else:
            turns = checked_turns(list(value) if isinstance(value, tuple) else value, place, Remarks())
        check_prompt(turns)
    except RowError as refusal:
        raise DemotuneError(
            f"{place} is no prompt ({refusal.detail}); give text, or a list of messages with role and content that "
            "ends with the user's turn"
        ) from None
    return tuple(turn.message() for turn in turns)


def _lines(file: Path) -> Iterator[tuple[str, tuple[Message, ...]]]:
    with opened(file) as stream:
        for number, line in enumerate(text_lines(stream, str(file)), start=1):
            where = f"{file}:{number}"
            try:
                text = line.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise DemotuneError(f"{where} is not UTF-8: {invalid_utf8(line[error.start], error.start)}") from error
            if text.strip():
                yield where, as_prompt(text)


def _prompt_of(row: RawRow | BadRow) -> tuple[str, tuple[Message, ...]]:
    try:
        if isinstance(row, BadRow):
            raise RowError("wrong type", f"{row.reason}, {row.detail}")
        return row.source, _conversation(row.columns)
    except RowError as refusal:
        raise DemotuneError(
            f'{row.source} is no prompt; write {{"prompt": "text"}}, or under "messages" a list of '
            f'{{"role", "content"}} that ends with the user\'s turn ({refusal.detail})'
        ) from None


def _conversation(columns: Columns) -> tuple[Message, ...]:
    remarks = Remarks()
    prompt = _own_turns(columns, remarks)
    check_prompt(prompt)
    context, system, earlier = read_context(ExtraColumns(), columns, remarks)
    if context != NO_CONTEXT:
        raise RowError("wrong type", "it has tools or documents, which prompts without demonstrations cannot have yet")
    return with_start(tuple(turn.message() for turn in prompt), system, earlier)


def _own_turns(columns: Columns, remarks: Remarks) -> Turns:
    if columns.get("prompt") is not None:
        return prompt_turns(columns["prompt"], "prompt", remarks)[0]
    for name in _CONVERSATIONS:
        if columns.get(name) is not None:
            return checked_turns(columns[name], name, remarks)
    for name in _INSTRUCTIONS:
        if columns.get(name) is not None:
            return (Turn("user", checked_text(instruction_text(columns, name), name)),)
    raise RowError("missing column", "it has none of prompt, messages, conversations, instruction, question, query")
