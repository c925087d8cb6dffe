"""Conversations: from whatever a column holds to checked turns, and from turns to prompt and response."""

import re
from dataclasses import dataclass

from demotune.data.rows import RowError, shown
from demotune.records import Message

Turns = tuple[Message, ...]

_ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
_TOOL_ROLES = frozenset({"tool", "function", "function_call", "function_response", "observation", "ipython"})
_TOOL_KEYS = ("tool_calls", "function_call", "tool_call_id")
_SPEAKER = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")


@dataclass(frozen=True, slots=True)
class Exchange:
    """What a row teaches: the conversation up to a user turn, and the response to it."""

    prompt: Turns
    response: str


def checked_text(value: object, place: str) -> str:
    """The value, which must be text that can be written as UTF-8. `place` names it in the refusal."""
    if not isinstance(value, str):
        raise RowError("wrong type", f"{place} is {shown(value)}, expected text")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise RowError("invalid UTF-8", f"{place} has no valid character at position {error.start}") from None
    return value


def checked_turns(value: object, place: str) -> Turns:
    """The value, which must be a list of messages: objects with role and content, or with from and value."""
    if not isinstance(value, list):
        raise RowError("wrong type", f"{place} is {shown(value)}, expected a list of messages")
    return tuple(_checked_turn(item, f"{place}[{index}]") for index, item in enumerate(value))


def _checked_turn(item: object, place: str) -> Message:
    if not isinstance(item, dict):
        raise RowError("wrong type", f"{place} is {shown(item)}, expected an object with role and content")
    role_key, content_key = ("from", "value") if item.get("role") is None else ("role", "content")
    role, content = item.get(role_key), item.get(content_key)
    if isinstance(role, str) and role in _TOOL_ROLES:
        raise RowError("tool call", f"{place} has the role {role}; only text turns can be learned")
    # Parquet fills in the keys that only other messages have, with null: those do not count.
    for key in _TOOL_KEYS:
        if item.get(key):
            raise RowError("tool call", f"{place} has {key}; only text turns can be learned")
    if not isinstance(role, str) or role not in _ROLES:
        raise RowError("unknown role", f"{place} has the role {shown(role)}, expected system, user or assistant")
    if not isinstance(content, str):
        raise RowError("non-text content", f"the {content_key} of {place} is {shown(content)}, expected text")
    return {"role": _ROLES[role], "content": checked_text(content, f"the {content_key} of {place}")}


def transcript_turns(text: str) -> Turns:
    """Turns of `\\n\\nHuman: ... \\n\\nAssistant: ...` (Anthropic HH), white space around each turn removed.

    Empty when the text does not begin with a Human turn.
    """
    before, *pieces = _SPEAKER.split(text)
    if before or not pieces or pieces[0] != "Human":
        return ()
    roles = {"Human": "user", "Assistant": "assistant"}
    return tuple(
        {"role": roles[speaker], "content": content.strip()}
        for speaker, content in zip(pieces[::2], pieces[1::2], strict=True)
    )


def one_exchange(prompt: Turns, response: str) -> Exchange:
    """Prompt and response, checked: the prompt must end with a user turn, and neither may be blank."""
    if not prompt:
        raise RowError("empty prompt", "the prompt has no messages")
    if all(turn["role"] != "user" for turn in prompt):
        raise RowError("no user turn", f"the prompt has {len(prompt)} turns, none of them by the user")
    if prompt[-1]["role"] != "user":
        raise RowError("no final user turn", f"the turn before the response is by the {prompt[-1]['role']}")
    if not prompt[-1]["content"].strip():
        raise RowError("empty prompt", f"the user turn is {shown(prompt[-1]['content'])}")
    if not response.strip():
        raise RowError("empty response", f"the response is {shown(response)}")
    return Exchange(prompt, response)


def last_exchange(turns: Turns) -> Exchange:
    """The last turn as response to everything before it. Refuses a conversation that the assistant does not end."""
    _require_final_assistant_turn(turns)
    return one_exchange(turns[:-1], turns[-1]["content"])


def every_exchange(turns: Turns) -> list[Exchange]:
    """Each assistant turn that follows a user turn, as response to everything before it."""
    _require_final_assistant_turn(turns)
    for index, turn in enumerate(turns):
        if turn["role"] == "assistant" and not turn["content"].strip():
            raise RowError("empty response", f"assistant turn {index + 1} of {len(turns)} is {shown(turn['content'])}")
    ends = [
        end for end in range(1, len(turns)) if turns[end]["role"] == "assistant" and turns[end - 1]["role"] == "user"
    ]
    if not ends:
        raise RowError("no user turn", f"none of the {len(turns)} turns is an assistant turn after a user turn")
    return [one_exchange(turns[:end], turns[end]["content"]) for end in ends]


def _require_final_assistant_turn(turns: Turns) -> None:
    if not turns:
        raise RowError("empty prompt", "the conversation has no messages")
    if turns[-1]["role"] != "assistant":
        raise RowError("no final assistant turn", f"the last of {len(turns)} turns is by the {turns[-1]['role']}")
