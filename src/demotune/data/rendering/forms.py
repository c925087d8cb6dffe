"""How a chat template writes an assistant's turn after it asked for one: found out by probe conversations.

Templates of models that reason prompt in one way and write a finished turn in another. What a row must teach is what
the model has to write after the prompt, so the two are compared once, for turns with reasoning and for turns without.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from demotune.data.rendering.marks import Marks
from demotune.data.rendering.program import Settings, TemplateProgram
from demotune.data.rendering.thoughts import CLOSE, OPEN
from demotune.data.rendering.writer import ANSWER, OTHER_ANSWER, PROBE, THOUGHT, RenderError, answered
from demotune.records import NO_CONTEXT, Context, Message

SWITCHES = ("enable_thinking", "thinking")
"""Variables by which templates in use turn reasoning on and off."""

QUESTION: tuple[Message, ...] = ({"role": "user", "content": PROBE},)

Start = Literal["generation prompt", "turn", "open thought"]


@dataclass(frozen=True, slots=True)
class Form:
    """How rows of one kind, those with reasoning or those without, are written."""

    start: Start = "generation prompt"
    """Where prompts end: with the template's generation prompt, which its written turn continues; with what it writes
    before an assistant's text; with a generation prompt that opens a thought, which none of its written turns has."""
    settings: Settings = field(default_factory=dict)
    head: str = ""
    """What the model writes between the prompt and the answer; rows with reasoning have THOUGHT in it."""

    @property
    def switches(self) -> str:
        """The settings as text."""
        return ", ".join(f"{name}={value}" for name, value in self.settings.items())


@dataclass(frozen=True, slots=True)
class Forms:
    """The forms of one template."""

    serving: Form
    """What is sent where nothing says how to answer."""
    without_reasoning: Form
    with_reasoning: Form | None
    """None where the template does not write reasoning."""

    @property
    def marks(self) -> Marks:
        head = self.with_reasoning.head if self.with_reasoning is not None else ""
        thought, _, between = head.partition(THOUGHT)
        return Marks(self.without_reasoning.head, thought.strip(), between.strip())


def find_forms(program: TemplateProgram) -> Forms | None:
    """None where the template writes an assistant's turn in no way that a prompt can end before.

    Raises RenderError where it refuses a plain question with its answer.
    """
    usual = prompt_of(program, QUESTION)
    if usual is None:
        return None
    changes = [
        {name: value}
        for name in SWITCHES
        for value in (True, False)
        if prompt_of(program, QUESTION, {name: value}) not in {None, usual}
    ]
    without = _without_reasoning(program, [{}, *(change for change in changes if not any(change.values()))])
    if without is None:
        return None
    serving = without if without.start == "turn" and _says_nothing(program) else Form()
    return Forms(
        serving, without, _with_reasoning(program, [*(change for change in changes if any(change.values())), {}])
    )


def write_prompt(
    program: TemplateProgram, form: Form, messages: Sequence[Message], context: Context = NO_CONTEXT
) -> str:
    """The prompt of a row of this form. Raises RenderError."""
    if form.start == "turn":
        written = program.write(answered(messages, ANSWER), context=context, settings=form.settings)
        return written.rpartition(ANSWER)[0]
    return program.write(messages, context=context, settings=form.settings, prompt_for_more=True)


def prompt_of(program: TemplateProgram, messages: Sequence[Message], settings: Settings | None = None) -> str | None:
    """What the template sends before an answer; None where it refuses these messages."""
    try:
        return program.write(messages, settings=settings, prompt_for_more=True)
    except RenderError:
        return None


def _without_reasoning(program: TemplateProgram, candidates: Sequence[Settings]) -> Form | None:
    """The first way whose turns are the text alone; else the first whose turns continue the prompt at all.

    Not with an empty thought where a switch of the template puts that into the prompt: a model that reasons would
    unlearn it.
    """
    heads = [(settings, _head(program, settings)) for settings in candidates]
    continuing = [(settings, head) for settings, head in heads if head is not None]
    if continuing and not _says_nothing(program):
        bare = [(settings, head) for settings, head in continuing if not head.strip()]
        settings, head = bare[0] if bare else continuing[0]
        return Form(settings=settings, head=head)
    written, other = (program.write(answered(QUESTION, answer)) for answer in (ANSWER, OTHER_ANSWER))
    head, _, tail = written.rpartition(ANSWER)
    return Form("turn") if other == head + OTHER_ANSWER + tail else None


def _with_reasoning(program: TemplateProgram, candidates: Sequence[Settings]) -> Form | None:
    """As the template writes it; else, where its generation prompt opens a thought, behind that."""
    for settings in candidates:
        head = _head(program, settings, THOUGHT) or ""
        if THOUGHT in head:
            return Form(settings=settings, head=head)
    for settings in candidates:
        if (prompt_of(program, QUESTION, settings) or "").rstrip().endswith(OPEN):
            return Form("open thought", settings, THOUGHT + CLOSE)
    return None


def _head(program: TemplateProgram, settings: Settings, reasoning: str = "") -> str | None:
    """What the template writes between its generation prompt and the answer; None where the turn does not continue."""
    prompt = prompt_of(program, QUESTION, settings)
    try:
        written = program.write(answered(QUESTION, ANSWER, reasoning), settings=settings)
    except RenderError:
        return None
    return written[len(prompt) :].rpartition(ANSWER)[0] if prompt is not None and written.startswith(prompt) else None


def _says_nothing(program: TemplateProgram) -> bool:
    """Whether the template marks an assistant's turn but does not prompt for one."""
    return bool((_head(program, {}) or "").strip()) and prompt_of(program, QUESTION) == program.write(QUESTION)
