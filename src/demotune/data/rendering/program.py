"""Run the tokenizer's chat template, a Jinja program from a model folder, within bounds and with a fixed date."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from demotune.common.errors import DemotuneError
from demotune.data.rendering import limits
from demotune.data.rendering.writer import OWN_TEMPLATE, RenderError
from demotune.records import NO_CONTEXT, Context, Message

# Llama 3.1 and 3.2 write this date themselves when they know no other.
FIXED_DATE = "26 Jul 2024"
_FIXED_DATE_PARTS = {
    "%A": "Friday", "%a": "Fri", "%B": "July", "%b": "Jul", "%-d": "26", "%d": "26", "%e": "26", "%-m": "7", "%m": "07",
    "%Y": "2024", "%y": "24", "%j": "208", "%F": "2024-07-26", "%T": "12:00:00", "%-H": "12", "%H": "12", "%-I": "12",
    "%I": "12", "%-M": "0", "%M": "00", "%S": "00", "%p": "PM", "%Z": "UTC", "%z": "+0000",
}  # fmt: skip

Settings = Mapping[str, bool]
"""Variables that a template reads beside the conversation, such as enable_thinking."""


class TemplateProgram:
    """Renders conversations. Templates that write today's date get FIXED_DATE, so that any day gives the same text.

    Raises DemotuneError where the tokenizer has no chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        try:
            # Tokenizers may have a second template for conversations with tools.
            plain, with_tools = tokenizer.get_chat_template(), tokenizer.get_chat_template(tools=[{}])
        except ValueError:
            fixes = f"{OWN_TEMPLATE}, or use a model whose tokenizer has one"
            raise DemotuneError(f"the tokenizer has no chat template; {fixes}") from None
        self._plain, self._with_tools = _with_fixed_date(plain), _with_fixed_date(with_tools)
        self.has_date = self._plain != plain

    def write(
        self,
        messages: Sequence[Message],
        *,
        context: Context = NO_CONTEXT,
        settings: Settings | None = None,
        prompt_for_more: bool = False,
    ) -> str:
        """The conversation as text; with `prompt_for_more` up to where the assistant is to write.

        Raises RenderError where the template refuses it, and DemotuneError where the template exceeds its bounds.
        """
        chat: list[Any] = [dict(message) for message in messages]
        documents: list[Any] = [dict(document) for document in context.documents]
        more: dict[str, Any] = dict(settings or {})
        try:
            with limits.bounded():
                text = self._tokenizer.apply_chat_template(
                    chat,
                    tools=[dict(tool) for tool in context.tools] or None,
                    documents=documents or None,
                    chat_template=self._with_tools if context.tools else self._plain,
                    add_generation_prompt=prompt_for_more,
                    tokenize=False,
                    **more,
                )
        except limits.TooSlow:
            raise unusable(f"has not ended after {limits.SECONDS:g} s on one conversation") from None
        except MemoryError:
            raise unusable(f"needs more than {limits.MEMORY >> 30} GiB for one conversation") from None
        except Exception as error:  # any error means that it cannot write this conversation
            raise RenderError("chat template refused", str(error) or type(error).__name__) from error
        if not isinstance(text, str):
            raise unusable(f"gives {type(text).__name__}, not text")
        if len(text) > limits.LONGEST:
            detail = f"the chat template writes {len(text):,} characters, at most {limits.LONGEST:,} are read"
            raise RenderError("rendering too long", detail)
        return text


def unusable(what: str) -> DemotuneError:
    """The error for a chat template that cannot be used, with the fix."""
    return DemotuneError(f"the tokenizer's chat template {what}; {OWN_TEMPLATE}")


def _with_fixed_date(template: str) -> str:
    """The template with `strftime_now`, where it is used, made a macro that knows one date only."""
    if "strftime_now" not in template:
        return template
    parts = "".join(f"|replace('{directive}','{text}')" for directive, text in _FIXED_DATE_PARTS.items())
    # Jinja drops the line break after the block, so the template itself still begins at the start of a line.
    return "{% macro strftime_now(format) %}{{ format" + parts + " }}{% endmacro %}\n" + template
