"""Conversations: from the value of a column to checked turns, and from turns to prompt and response."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from demotune.data.raw_rows import RowError, shown
from demotune.records import NO_CONTEXT, Context, Message

_ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "bot": "assistant",
    "ai": "assistant",
}  # fmt: skip
_USUAL_ROLES = frozenset({"system", "user", "human", "assistant", "gpt"})
_TOOL_ROLES = frozenset({"tool", "function", "function_call", "function_response", "observation", "ipython"})
_TOOL_KEYS = ("tool_calls", "function_call", "tool_call_id", "tools", "functions")
THOUGHT_NAMES = ("reasoning_content", "reasoning", "thinking")
"""Keys of an assistant turn, and columns, that hold the reasoning before the response."""
MEDIA_NAMES = ("image", "images", "audio", "audios", "video", "videos", "files", "image_url")
"""Keys of a turn, and columns, that hold what is not text."""
_WEIGHT_KEYS = ("weight", "train", "training", "loss")
_TEXT_KEYS = frozenset({"role", "content", "from", "value"})
_MEANT_KEYS = frozenset({*_TOOL_KEYS, *THOUGHT_NAMES, *MEDIA_NAMES, *_WEIGHT_KEYS})
_TEXT_PARTS = ("text", "input_text", "output_text")
_SWITCHES = ("on", "off", "true", "false", "yes", "no", "none")
_SPEAKER = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")

Remarks = Counter[tuple[str, str]]
"""Remarks that many rows share, each shown once: (heading, item) -> number of turns or rows."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One checked turn."""

    role: str
    content: str
    reasoning: str = ""
    learn: bool = field(default=True, compare=False)
    """False for an assistant turn of weight 0: it may be in a prompt and is never a target."""

    def message(self) -> Message:
        """The turn as a message of a prompt."""
        thought = {"reasoning_content": self.reasoning} if self.reasoning else {}
        return {"role": self.role, "content": self.content, **thought}


Turns = tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Exchange:
    """What a row teaches: the conversation up to a user turn, and the response to it."""

    prompt: tuple[Message, ...]
    response: str
    reasoning: str = ""
    context: Context = NO_CONTEXT
    ends_row: bool = field(default=True, compare=False)
    """False where turns of weight 0 follow the response in its row."""


def checked_text(value: object, place: str) -> str:
    """The value, which must be text that can be written as UTF-8. `place` names it in the refusal."""
    if not isinstance(value, str):
        raise RowError("wrong type", f"{place} is {shown(value)}, expected text")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise invalid_utf8(place, error) from None
    return value


def invalid_utf8(place: str, error: UnicodeEncodeError) -> RowError:
    """The refusal of a text that cannot be written as UTF-8."""
    detail = f"{place} has no valid character at position {error.start}; save the file as UTF-8"
    return RowError("invalid UTF-8", detail)


def checked_turns(value: object, place: str, remarks: Remarks) -> Turns:
    """The value, which must be a list of messages: objects with role and content, or with from and value."""
    if not isinstance(value, list):
        raise RowError("wrong type", f"{place} is {shown(value)}, expected a list of messages")
    return tuple(_checked_turn(item, f"{place}[{index}]", remarks) for index, item in enumerate(value))


def _checked_turn(item: object, place: str, remarks: Remarks) -> Turn:
    if not isinstance(item, dict):
        raise RowError("wrong type", f"{place} is {shown(item)}, expected an object with role and content")
    role_key, content_key = ("from", "value") if item.get("role") is None else ("role", "content")
    more = {} if item.keys() <= _TEXT_KEYS else _more_keys(item, place)
    role = _role(item.get(role_key), place, remarks)
    content = _content(item.get(content_key), f"the {content_key} of {place}")
    if not more:
        return Turn(role, content)
    thought = one_thought([(name, more.get(name)) for name in THOUGHT_NAMES], place, remarks)
    if thought and role != "assistant":
        raise RowError("wrong type", f"{place} is by the {role} and has a thought; only assistant turns have one")
    for key in more.keys() - _MEANT_KEYS:
        if more[key]:
            remarks["turn keys not used", str(key)] += 1
    return Turn(role, content, thought, _is_learned(more, place))


def _more_keys(item: Mapping[str, object], place: str) -> dict[str, object]:
    """The keys of a turn besides its text. Refuses tools and content that is not text."""
    # Keys that only other messages have are null there in some formats: those do not count.
    more = {key: item[key] for key in item.keys() - _TEXT_KEYS if item[key] is not None}
    for key, value in more.items():
        if key in _TOOL_KEYS and value:
            raise RowError("tool call", f"{place} has {key}; only text turns can be learned")
        if key in MEDIA_NAMES and value:
            raise RowError("non-text content", f"{place} has {key}; only text can be learned")
    return more


def _role(role: object, place: str, remarks: Remarks) -> str:
    name = role.strip().lower() if isinstance(role, str) else ""
    if name in _TOOL_ROLES:
        raise RowError("tool call", f"{place} has the role {name}; only text turns can be learned")
    if name not in _ROLES:
        raise RowError("unknown role", f"{place} has the role {shown(role)}, expected system, user or assistant")
    if role not in _USUAL_ROLES:
        remarks["roles read as", f"{role} → {_ROLES[name]}"] += 1
    return _ROLES[name]


def _content(value: object, place: str) -> str:
    """Text, or a list of parts that are all text."""
    if isinstance(value, list):
        return "".join(_part(part, f"part {number} of {place}") for number, part in enumerate(value, start=1))
    if not isinstance(value, str):
        raise RowError("non-text content", f"{place} is {shown(value)}, expected text")
    return checked_text(value, place)


def _part(part: object, place: str) -> str:
    if not isinstance(part, dict) or part.get("type", "text") not in _TEXT_PARTS:
        kind = part.get("type") if isinstance(part, dict) else part
        raise RowError("non-text content", f"{place} is {shown(kind)}, expected an object of type text")
    more = [key for key, value in part.items() if key in MEDIA_NAMES and value]
    if more or not isinstance(part.get("text"), str):
        what = f"has {more[0]}" if more else f"holds {shown(part.get('text'))}"
        raise RowError("non-text content", f"{place} {what}, expected text")
    return checked_text(part["text"], place)


def one_thought(found: Sequence[tuple[str, object]], place: str, remarks: Remarks) -> str:
    """The one text among values under several names; null and empty ones are absent. Refuses two that differ.

    Some datasets have a switch of this name, on or off, which is no thought.
    """
    thoughts = {name: checked_text(value, f"{name} of {place}") for name, value in found if value not in (None, "", [])}
    for name in [name for name, text in thoughts.items() if text.strip().lower() in _SWITCHES]:
        del thoughts[name]
        remarks["on or off where a thought is expected, not used", name] += 1
    if len(set(thoughts.values())) > 1:
        raise RowError("two thoughts", f"{place} has {' and '.join(thoughts)}, which differ")
    thought = next(iter(thoughts.values()), "")
    return thought if thought.strip() else ""


def _is_learned(more: Mapping[str, object], place: str) -> bool:
    """False where a weight of 0, or train, training or loss: false, says so. Refuses other weights than 0 and 1."""
    weights = {key: more[key] for key in _WEIGHT_KEYS if key in more}
    for key, weight in weights.items():
        if not isinstance(weight, int | float) or weight not in (0, 1):
            raise RowError("turn weight", f"{key} of {place} is {shown(weight)}; a turn is learned (1) or not (0)")
    return all(weights.values())


def transcript_turns(text: str) -> Turns:
    """Turns of `\\n\\nHuman: ... \\n\\nAssistant: ...` (Anthropic HH), white space around each turn removed.

    Empty when the text does not begin with a Human turn.
    """
    before, *pieces = _SPEAKER.split(text)
    if before or not pieces or pieces[0] != "Human":
        return ()
    roles = {"Human": "user", "Assistant": "assistant"}
    return tuple(
        Turn(roles[speaker], content.strip()) for speaker, content in zip(pieces[::2], pieces[1::2], strict=True)
    )


def one_exchange(prompt: Turns, target: Turn, ends_row: bool = True) -> Exchange:
    """Prompt and response, checked: the prompt must end with a user turn, and neither may be blank."""
    check_prompt(prompt)
    if not target.content.strip():
        raise RowError("empty response", f"the response is {shown(target.content)}")
    messages = tuple(turn.message() for turn in prompt)
    return Exchange(messages, target.content, target.reasoning, ends_row=ends_row)


def check_prompt(prompt: Turns) -> None:
    """Refuse turns that do not end with something that the user says."""
    if not prompt:
        raise RowError("empty prompt", "the prompt has no messages")
    if all(turn.role != "user" for turn in prompt):
        raise RowError("no user turn", f"the prompt has {len(prompt)} turns, none of them by the user")
    if prompt[-1].role != "user":
        raise RowError("no final user turn", f"the turn before the response is by the {prompt[-1].role}")
    if not prompt[-1].content.strip():
        raise RowError("empty prompt", f"the user turn is {shown(prompt[-1].content)}")


def last_exchange(turns: Turns, remarks: Remarks, start: int = 0) -> Exchange:
    """The last turn to learn, at `start` or later, as response to everything before it.

    Refuses a conversation that the assistant does not end. What follows the last turn to learn is cut.
    """
    _require_final_assistant_turn(turns)
    ends = [end for end in range(start, len(turns)) if turns[end].role == "assistant" and turns[end].learn]
    if not ends:
        raise RowError("no turn to learn", "every assistant turn has weight 0")
    _count_weights(turns, ends[-1], remarks)
    return one_exchange(turns[: ends[-1]], turns[ends[-1]], ends_row=ends[-1] + 1 == len(turns))


def every_exchange(turns: Turns, remarks: Remarks) -> list[Exchange]:
    """Each assistant turn to learn that follows a user turn, as response to everything before it."""
    _require_final_assistant_turn(turns)
    for index, turn in enumerate(turns):
        if turn.role == "assistant" and turn.learn and not turn.content.strip():
            raise RowError("empty response", f"assistant turn {index + 1} of {len(turns)} is {shown(turn.content)}")
    answers = [end for end in range(1, len(turns)) if turns[end].role == "assistant" and turns[end - 1].role == "user"]
    if not answers:
        raise RowError("no user turn", f"none of the {len(turns)} turns is an assistant turn after a user turn")
    ends = [end for end in answers if turns[end].learn]
    if not ends:
        raise RowError("no turn to learn", "every assistant turn after a user turn has weight 0")
    _count_weights(turns, ends[-1], remarks)
    return [one_exchange(turns[:end], turns[end], ends_row=end + 1 == len(turns)) for end in ends]


def _count_weights(turns: Turns, end: int, remarks: Remarks) -> None:
    if end + 1 < len(turns):
        remarks["rows cut after the last turn to learn (the rest has weight 0)", ""] += 1
    if context := sum(turn.role == "assistant" and not turn.learn for turn in turns[:end]):
        remarks["assistant turns of weight 0 that are context only", ""] += context


def _require_final_assistant_turn(turns: Turns) -> None:
    if not turns:
        raise RowError("empty prompt", "the conversation has no messages")
    if turns[-1].role != "assistant":
        raise RowError("no final assistant turn", f"the last of {len(turns)} turns is by the {turns[-1].role}")
