"""The formats of demonstrations that are in use: recognised by their columns, converted to prompt and response."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from demotune.data.rows import RawRow, RowError, column_list
from demotune.data.turns import (
    Exchange,
    Turns,
    checked_text,
    checked_turns,
    every_exchange,
    last_exchange,
    one_exchange,
    transcript_turns,
)
from demotune.errors import DemotuneError

Columns = Mapping[str, object]

_PROMPT_LIKE = ("prompt", "question", "instruction", "query", "problem", "input", "text")
_RESPONSE_LIKE = ("response", "answer", "output", "completion", "solution", "target", "reply")


@dataclass(frozen=True, slots=True)
class Format:
    """How rows are laid out. `convert` raises RowError for a row that cannot be used."""

    name: str
    needs: tuple[str, ...]
    """Columns without which a row is not of this format."""
    convert: Callable[[Columns], list[Exchange]]
    sides: tuple[str, str] | None = None
    """Columns of the better and of the worse response, where the format knows both; `convert` reads the better."""


def choose_format(name: str, rows: Sequence[RawRow], columns: str | None, every_turn: bool) -> Format:
    """The format that most of these rows have the columns of; the earlier in the list of formats at a tie.

    `rows` are the first good rows of the table called `name`; a column that is null counts as absent. With
    `columns` ("prompt=question,response=answer" or "messages=dialogue") there is only that one format. Raises
    DemotuneError when no row has the columns of any format.
    """
    formats = [_format_of(columns, every_turn)] if columns is not None else _known_formats(every_turn)
    fitting = [sum(not _missing(format, row.columns) for row in rows) for format in formats]
    best = max(fitting)
    if best == 0:
        raise _no_format_fits(name, rows, columns)
    return formats[fitting.index(best)]


def convert_row(format: Format, columns: Columns) -> list[Exchange]:
    """What a row teaches: one exchange, or with every_turn one for each turn. Raises RowError."""
    missing = _missing(format, columns)
    if missing:
        raise RowError("missing column", f"no {' and '.join(missing)}; columns here: {column_list(columns)[:80]}")
    return format.convert(columns)


def convert_pair(format: Format, columns: Columns) -> tuple[Exchange, Exchange]:
    """The better and the worse exchange of a preference row, which share their prompt. Raises RowError."""
    if format.sides is None:
        raise RowError("missing column", f"{format.name} has no column of worse responses")
    better, worse = format.sides
    (chosen,) = convert_row(format, columns)
    if columns.get(worse) is None:
        raise RowError("missing column", f"no {worse}; columns here: {column_list(columns)[:80]}")
    try:
        (rejected,) = format.convert({**columns, better: columns[worse]})
    except RowError as refusal:
        raise RowError(refusal.reason, f"{worse} in the place of {better}: {refusal.detail}") from None
    if chosen.prompt != rejected.prompt:
        raise RowError("prompt mismatch", f"{better} and {worse} answer different prompts")
    if chosen.response == rejected.response:
        raise RowError("duplicate", f"{better} and {worse} are the same response")
    return chosen, rejected


def holds_pairs(format: Format, rows: Sequence[RawRow]) -> bool:
    """Whether most of these rows, of which there is at least one, have a worse response beside the better one."""
    if format.sides is None:
        return False
    worse = format.sides[1]
    return 2 * sum(row.columns.get(worse) is not None for row in rows) > len(rows)


def _missing(format: Format, columns: Columns) -> list[str]:
    return [name for name in format.needs if columns.get(name) is None]


def _known_formats(every_turn: bool) -> list[Format]:
    # A table can have the columns of several, as ultrafeedback_binarized has prompt, chosen and messages; the format
    # that says more about which text to imitate comes first.
    return [
        _prompt_response("prompt and completion", "prompt", "completion"),
        _prompt_response("preference rows: prompt and chosen", "prompt", "chosen", "rejected"),
        replace(_conversation("SPIN pairs: real", "real", every_turn, "generated"), needs=("real", "generated")),
        _conversation("messages", "messages", every_turn),
        _conversation("ShareGPT conversations", "conversations", every_turn),
        Format("preference rows: chosen, whole conversations", ("chosen",), _from_chosen, ("chosen", "rejected")),
        Format("Alpaca: instruction, input, output", ("instruction", "output"), _from_alpaca),
    ]


def _format_of(columns: str, every_turn: bool) -> Format:
    named = dict(part.split("=", 1) for part in columns.split(",") if part.count("=") == 1)
    named = {part.strip(): column.strip() for part, column in named.items()}
    well_formed = len(named) == len(columns.split(",")) and all(named.values())
    worse = named.pop("rejected", None)
    format = None
    if well_formed and named.keys() == {"prompt", "response"}:
        name = f"columns {named['prompt']} and {named['response']}"
        format = _prompt_response(name, named["prompt"], named["response"], worse)
    if well_formed and named.keys() == {"messages"}:
        format = _conversation(f"column {named['messages']}", named["messages"], every_turn, worse)
    if format is not None:
        return replace(format, needs=(*format.needs, worse)) if worse else format
    raise DemotuneError(
        f"columns must name the columns of prompt and response, or of messages, got {columns!r}; "
        "write for example --columns prompt=question,response=answer or --columns messages=dialogue, "
        "and add rejected=COLUMN for preference rows"
    )


def _no_format_fits(name: str, rows: Sequence[RawRow], columns: str | None) -> DemotuneError:
    found = list(dict.fromkeys(column for row in rows for column in row.columns))
    prompt = next((column for column in _PROMPT_LIKE if column in found), found[0] if found else "question")
    response = next((column for column in _RESPONSE_LIKE if column in found), found[-1] if found else "answer")
    problem = "these columns fit no known format" if columns is None else f"no row has the columns of {columns!r}"
    return DemotuneError(
        f"{name}: {problem}; found: {column_list(found) or 'none'}; "
        f"say which hold prompt and response, for example --columns prompt={prompt},response={response}"
    )


def _prompt_response(name: str, prompt: str, response: str, worse: str | None = None) -> Format:
    convert = partial(_from_prompt_response, prompt_column=prompt, response_column=response)
    return Format(name, (prompt, response), convert, (response, worse) if worse else None)


def _from_prompt_response(columns: Columns, prompt_column: str, response_column: str) -> list[Exchange]:
    prompt, from_transcript = _prompt_turns(columns[prompt_column], prompt_column)
    value = columns[response_column]
    if not isinstance(value, list):
        response = checked_text(value, response_column)
        return [one_exchange(prompt, response.strip() if from_transcript else response)]
    reply = checked_turns(value, response_column)
    if not reply:
        raise RowError("empty response", f"{response_column} has no messages")
    if reply[0]["role"] == "assistant":
        return [last_exchange(prompt + reply)]
    # ultrafeedback_binarized repeats the prompt in chosen. Joining the two would ask everything twice.
    if not _contains(reply, prompt):
        raise RowError("prompt mismatch", f"{response_column} is a whole conversation, but not one with this prompt")
    return [last_exchange(reply)]


def _prompt_turns(value: object, column: str) -> tuple[Turns, bool]:
    """Turns of a prompt, and whether it was a Human/Assistant transcript that ends where the assistant should speak."""
    if isinstance(value, list):
        return checked_turns(value, column), False
    text = checked_text(value, column)
    if text.startswith("\n\nHuman:") and text.rstrip().endswith("\n\nAssistant:"):
        return transcript_turns(text)[:-1], True
    return ({"role": "user", "content": text},), False


def _contains(conversation: Turns, part: Turns) -> bool:
    starts = range(len(conversation) - len(part) + 1)
    return any(conversation[start : start + len(part)] == part for start in starts)


def _conversation(name: str, column: str, every_turn: bool, worse: str | None = None) -> Format:
    def convert(columns: Columns) -> list[Exchange]:
        turns = checked_turns(columns[column], column)
        return every_exchange(turns) if every_turn else [last_exchange(turns)]

    which = "every assistant turn" if every_turn else "last assistant turn"
    return Format(f"{name} ({which})", (column,), convert, (column, worse) if worse else None)


def _from_chosen(columns: Columns) -> list[Exchange]:
    value = columns["chosen"]
    if isinstance(value, list):
        return [last_exchange(checked_turns(value, "chosen"))]
    turns = transcript_turns(checked_text(value, "chosen"))
    if not turns:
        raise RowError("no user turn", "chosen is text without a prompt column and without 'Human:' turns")
    return [last_exchange(turns)]


def _from_alpaca(columns: Columns) -> list[Exchange]:
    instruction = checked_text(columns["instruction"], "instruction")
    if not instruction.strip():
        raise RowError("empty prompt", "instruction is empty")
    context = columns.get("input")
    context = "" if context is None else checked_text(context, "input")
    prompt = f"{instruction}\n\n{context}" if context.strip() else instruction
    return [one_exchange(({"role": "user", "content": prompt},), checked_text(columns["output"], "output"))]


def joined_names(formats: Iterable[Format]) -> str:
    """Names of the formats of a source for the screen, each once."""
    return "; ".join(dict.fromkeys(format.name for format in formats)) or "no readable row"
