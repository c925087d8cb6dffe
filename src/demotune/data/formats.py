"""The formats of demonstrations that are in use: recognised by their columns, converted to prompt and response.

Kinds of files are another matter: `readers/by_suffix.py`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from demotune.common.errors import DemotuneError
from demotune.data.columns_flag import no_format_fits, parse_columns
from demotune.data.extra_columns import PARTS, Columns, ExtraColumns, with_extra_columns
from demotune.data.raw_rows import RawRow, RowError, column_list
from demotune.data.turns import (
    MEDIA_NAMES,
    Exchange,
    Remarks,
    Turn,
    Turns,
    checked_text,
    checked_turns,
    every_exchange,
    last_exchange,
    one_exchange,
    transcript_turns,
)

_INPUTS = ("input", "context")
"""Columns with the text that an instruction or question is about."""


@dataclass(frozen=True, slots=True)
class Format:
    """How rows are laid out. `convert` raises RowError for a row that cannot be used."""

    name: str
    needs: tuple[str, ...]
    """Columns without which a row is not of this format."""
    convert: Callable[[Columns, Remarks], list[Exchange]]
    sides: tuple[str, str] | None = None
    """Columns of the better and of the worse response, where the format knows both; `convert` reads the better."""
    inputs: tuple[str, ...] = ()
    """Columns whose text joins the prompt where a row has them."""
    extra: ExtraColumns = field(default_factory=ExtraColumns)
    reads: tuple[str, ...] = ()
    """Every column that the demonstration depends on."""


def column_reader(columns: str | None) -> Callable[[str], bool]:
    """Whether some format reads a column, or the user named it: the others need not be read."""
    known = {*MEDIA_NAMES, *parse_columns(columns).values()}
    for format in _formats({}, every_turn=False):
        known.update(format.reads, format.needs, format.sides or ())
    return known.__contains__


def choose_format(name: str, rows: Sequence[RawRow], columns: str | None, every_turn: bool) -> Format:
    """The format that most of these rows have the columns of; the earlier in the list of formats at a tie.

    `rows` are the first good rows of the table called `name`; a column that is null counts as absent. With
    `columns` ("prompt=question,response=answer" or "messages=dialogue") there is only that one format. Raises
    DemotuneError when no row has the columns of any format.
    """
    named = parse_columns(columns)
    formats = _formats(named, every_turn)
    fitting = [sum(not _missing(format, row.columns) for row in rows) for format in formats]
    best = max(fitting)
    if best == 0:
        raise no_format_fits(name, rows, columns)
    chosen = formats[fitting.index(best)]
    text = {*chosen.needs, *(chosen.sides or ()), *chosen.inputs}
    if twice := [f"{part}={column}" for part, column in named.items() if part in PARTS and column in text]:
        raise DemotuneError(
            f"{name}: --columns {twice[0]} names a column that is read as {chosen.name}; one column cannot be two of "
            "them: name another, or say with prompt= and response= which columns hold the text"
        )
    return chosen


def convert_row(format: Format, columns: Columns, remarks: Remarks) -> list[Exchange]:
    """What a row teaches: one exchange, or with every_turn one for each turn. Raises RowError."""
    missing = _missing(format, columns)
    if missing:
        if all(name in columns for name in missing):
            raise RowError("missing column", f"{' and '.join(missing)} is null")
        raise RowError("missing column", f"no {' and '.join(missing)}; columns here: {column_list(columns)[:80]}")
    return with_extra_columns(format.convert(columns, remarks), format.extra, columns, remarks)


def convert_pair(format: Format, columns: Columns, remarks: Remarks) -> tuple[Exchange, Exchange]:
    """The better and the worse exchange of a preference row, which share their prompt. Raises RowError."""
    if format.sides is None:
        raise RowError("missing column", f"{format.name} has no column of worse responses")
    better, worse = format.sides
    (chosen,) = convert_row(format, columns, remarks)
    if columns.get(worse) is None:
        raise RowError("missing column", f"no {worse}; columns here: {column_list(columns)[:80]}")
    other_side = replace(format, extra=replace(format.extra, reasoning=()))
    try:
        (rejected,) = convert_row(other_side, {**columns, better: columns[worse]}, Remarks())
    except RowError as refusal:
        raise RowError(refusal.reason, f"{worse} in the place of {better}: {refusal.detail}") from None
    if chosen.prompt != rejected.prompt:
        raise RowError("prompt mismatch", f"{better} and {worse} answer different prompts")
    if (chosen.response, chosen.reasoning) == (rejected.response, rejected.reasoning):
        raise RowError("duplicate", f"{better} and {worse} are the same response")
    return chosen, rejected


def holds_pairs(format: Format, rows: Sequence[RawRow]) -> bool:
    """Whether most of these rows, of which there is at least one, have a worse response besides the better one."""
    if format.sides is None:
        return False
    worse = format.sides[1]
    return 2 * sum(row.columns.get(worse) is not None for row in rows) > len(rows)


def _missing(format: Format, columns: Columns) -> list[str]:
    return [name for name in format.needs if columns.get(name) is None]


def _formats(named: dict[str, str], every_turn: bool) -> list[Format]:
    """The formats to choose from, each with the columns that the user named."""
    worse = named.get("rejected")
    if "messages" in named:
        formats = [_conversation(f"column {named['messages']}", named["messages"], every_turn, worse)]
    elif "prompt" in named:
        name = f"columns {named['prompt']} and {named['response']}"
        formats = [_prompt_response(name, named["prompt"], named["response"], worse)]
    else:
        formats = _known_formats(every_turn)
    if worse:
        formats = [replace(format, needs=(*format.needs, worse)) for format in formats]
    return [_with_extra_columns(format, named) for format in formats]


def _with_extra_columns(format: Format, named: dict[str, str]) -> Format:
    """The format with the columns that it reads besides its text: a column has one meaning only."""
    sides = format.sides or ()
    # With two responses a column of reasoning does not say whose thought it is.
    extra = ExtraColumns(reasoning=()) if sides else ExtraColumns()
    extra = extra.without({*format.needs, *sides, *format.inputs, *named.values()})
    extra = replace(extra, **{part: (column,) for part, column in named.items() if part in PARTS})
    text = (name for name in format.needs if name not in sides[1:])
    return replace(format, extra=extra, reads=(*text, *format.inputs, *extra.names))


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
        _instruction("Alpaca: instruction, input, output", "instruction", "output"),
        _prompt_response("prompt and response", "prompt", "response"),
        _instruction("instruction and response", "instruction", "response"),
        _instruction("question and answer", "question", "answer"),
        _instruction("question and response", "question", "response"),
        _instruction("query and response", "query", "response"),
    ]


def _prompt_response(name: str, prompt: str, response: str, worse: str | None = None) -> Format:
    convert = partial(_from_prompt_response, prompt_column=prompt, response_column=response)
    return Format(name, (prompt, response), convert, (response, worse) if worse else None)


def _from_prompt_response(
    columns: Columns, remarks: Remarks, prompt_column: str, response_column: str
) -> list[Exchange]:
    prompt, from_transcript = prompt_turns(columns[prompt_column], prompt_column, remarks)
    value = columns[response_column]
    if not isinstance(value, list):
        response = checked_text(value, response_column)
        return [one_exchange(prompt, Turn("assistant", response.strip() if from_transcript else response))]
    reply = checked_turns(value, response_column, remarks)
    if not reply:
        raise RowError("empty response", f"{response_column} has no messages")
    if reply[0].role == "assistant":
        return [last_exchange(prompt + reply, remarks, start=len(prompt))]
    # ultrafeedback_binarized repeats the prompt in chosen. Joining the two would ask everything twice.
    if all(reply[start : start + len(prompt)] != prompt for start in range(len(reply))):
        raise RowError("prompt mismatch", f"{response_column} is a whole conversation, but not one with this prompt")
    return [last_exchange(reply, remarks)]


def prompt_turns(value: object, column: str, remarks: Remarks) -> tuple[Turns, bool]:
    """Turns of a prompt, and whether it was a Human/Assistant transcript that ends where the assistant should speak."""
    if isinstance(value, list):
        return checked_turns(value, column, remarks), False
    text = checked_text(value, column)
    if text.startswith("\n\nHuman:") and text.rstrip().endswith("\n\nAssistant:"):
        return transcript_turns(text)[:-1], True
    return (Turn("user", text),), False


def _conversation(name: str, column: str, every_turn: bool, worse: str | None = None) -> Format:
    def convert(columns: Columns, remarks: Remarks) -> list[Exchange]:
        turns = checked_turns(columns[column], column, remarks)
        return every_exchange(turns, remarks) if every_turn else [last_exchange(turns, remarks)]

    which = "every assistant turn" if every_turn else "last assistant turn"
    return Format(f"{name} ({which})", (column,), convert, (column, worse) if worse else None)


def _from_chosen(columns: Columns, remarks: Remarks) -> list[Exchange]:
    value = columns["chosen"]
    if isinstance(value, list):
        return [last_exchange(checked_turns(value, "chosen", remarks), remarks)]
    turns = transcript_turns(checked_text(value, "chosen"))
    if not turns:
        raise RowError("no user turn", "chosen is text without a prompt column and without 'Human:' turns")
    return [last_exchange(turns, remarks)]


def _instruction(name: str, prompt: str, response: str) -> Format:
    def convert(columns: Columns, remarks: Remarks) -> list[Exchange]:
        joined = {**columns, prompt: instruction_text(columns, prompt)}
        return _from_prompt_response(joined, remarks, prompt, response)

    return Format(name, (prompt, response), convert, inputs=_INPUTS)


def instruction_text(columns: Columns, column: str) -> object:
    """The instruction or question, and under it the text that it is about, where there is one."""
    inputs = {name: checked_text(columns[name], name) for name in _INPUTS if columns.get(name) is not None}
    texts = [text for text in inputs.values() if text.strip()]
    if not texts and isinstance(columns[column], list):
        return columns[column]
    instruction = checked_text(columns[column], column)
    if not instruction.strip():
        raise RowError("empty prompt", f"{column} is empty")
    return "\n\n".join((instruction, *texts))


def joined_names(formats: Iterable[Format]) -> str:
    """Names of the formats of a source for the screen, each once."""
    return "; ".join(dict.fromkeys(format.name for format in formats)) or "no readable row"
