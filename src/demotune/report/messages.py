"""The prompt of a row as messages: who said what, from the text that its template made of them.

Run folders keep prompts as the model read them, without special tokens. What is left of a chat template is the names
of the roles, which stand alone in a line or in tags; a text without them is one message of nobody.
"""

import re

ROLES = "system|developer|user|assistant|model|tool"
Message = tuple[str, str]
"""(role, text); the role is empty where it is not known."""

MARKS = (
    re.compile(rf"(?:^|\n)<\|({ROLES})\|>\s*"),  # Zephyr, TinyLlama
    re.compile(rf"(?:^|\n\n)({ROLES}): "),  # rows of an evaluation
    re.compile(rf"(?:^|(?<=\S)\n?)({ROLES})\n\n"),  # Llama 3, whose roles follow the text before them
    re.compile(rf"(?:^|\n)({ROLES})\n"),  # ChatML, Gemma
)
"""How templates say whose turn begins; a kind counts where the text begins with it."""


def messages_of(text: str, template: str | None = None) -> tuple[Message, ...]:
    """Messages of a rendered prompt, without the empty turn that the answer fills; `template` is a run's own."""
    if template is not None:
        return _of_template(text, template)
    for mark in MARKS:
        if mark.match(text):
            _, *parts = mark.split(text)
            turns = zip(parts[::2], parts[1::2], strict=True)
            return tuple(
                ("assistant" if role == "model" else role, said.strip()) for role, said in turns if said.strip()
            )
    return (("", text),)


def _of_template(text: str, template: str) -> tuple[Message, ...]:
    """What stands for {prompt}, where the text is one use of the template."""
    before, _, after = template.partition("{prompt}")
    inside = text.strip().removeprefix(before.strip()).removesuffix(after.strip())
    whole = text.strip() == f"{before.strip()}{inside}{after.strip()}"
    again = before.strip() and before.strip() in inside
    return (("user", inside.strip()),) if whole and not again else (("", text),)
