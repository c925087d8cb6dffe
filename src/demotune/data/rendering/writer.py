"""The `Writer` protocol, which chat and plain templates implement: conversations as text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from demotune.data.rendering.marks import Marks
from demotune.records import Context, Demonstration, Message

PROBE, ANSWER, OTHER_ANSWER, THOUGHT = "DemotuneProbe", "DemotuneAnswer", "DemotuneReply", "DemotuneThought"
"""Texts that no template holds, to see where a template puts a user's text, an assistant's text and its reasoning."""

OWN_TEMPLATE = r"give a prompt template, for example --template $'### Instruction: {prompt}\n\n### Response: '"

REASONING_LEFT_OUT = "the template does not write reasoning, so it is left out"


class RenderError(Exception):
    """A row that cannot be rendered: `reason` is a short name to count by, `detail` the explanation."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Written:
    """A prompt and, where there is one, the response up to its end-of-turn token."""

    prompt: str
    response: str = ""
    remarks: tuple[str, ...] = ()
    """What was changed in this conversation, for the screen."""
    served: str = ""
    """The prompt as serving sends it, where that is another text."""


class Writer(Protocol):
    """Writes a conversation as text. Every method raises RenderError for a conversation that it cannot write."""

    end_id: int
    description: str
    probe: str
    """A rendered example conversation, to see which tokens mark roles and turns."""
    prefix_ids: tuple[int, ...]
    """Ids in front of every prompt that are not part of its text."""
    opens_thought: bool
    """Whether prompts of rows with reasoning end with <think>, so that a response may hold the closing tag alone."""
    marks: Marks
    """What is written around the thought and the answer of a response."""

    def ask(self, prompt: Sequence[Message], context: Context) -> Written:
        """The prompt as serving sends it."""

    def prompts(self, prompt: Sequence[Message], context: Context) -> tuple[str, ...]:
        """Every text that stands for this prompt in front of some response; the one of serving first."""

    def write(self, demonstration: Demonstration) -> Written:
        """Prompt and response, which ends with the end-of-turn token."""


def answered(prompt: Sequence[Message], response: str, reasoning: str = "") -> tuple[Message, ...]:
    """The conversation with the assistant's turn behind it."""
    turn = {"role": "assistant", "content": response}
    return (*prompt, turn | {"reasoning_content": reasoning} if reasoning else turn)


def without_spaces(text: str) -> str:
    """The text's visible characters: templates may strip and add white space."""
    return "".join(text.split())
