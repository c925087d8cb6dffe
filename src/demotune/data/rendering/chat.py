"""The tokenizer's own chat template."""

import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from demotune.data.rendering.forms import QUESTION, Form, find_forms, prompt_of, write_prompt
from demotune.data.rendering.program import FIXED_DATE, TemplateProgram, unusable
from demotune.data.rendering.stop_tokens import end_of_turn
from demotune.data.rendering.thoughts import CLOSE, OPEN, split_thought
from demotune.data.rendering.writer import (
    ANSWER,
    PROBE,
    REASONING_LEFT_OUT,
    THOUGHT,
    RenderError,
    Written,
    answered,
    without_spaces,
)
from demotune.records import Context, Demonstration, Message

_SYSTEM_MERGED = "the chat template has no system turn, so the system text is put in front of the first user turn"

_NO_GENERATION_PROMPT = (
    "; it has no generation prompt, so prompts end where it starts an assistant's text, which serving does not send"
)

_READ_AS_THOUGHT = "the chat template takes what comes before </think> in this text for reasoning"


class ChatTemplate:
    """The prompt is what the template sends before an answer, the response everything that the model must then write.

    Reasoning is written where the template writes it. Rows without are not taught an empty thought where the template
    has a switch that puts it into the prompt. A template without a system turn gets the system text in front of the
    first user turn. Where prompts are not those of serving, a remark says so.
    """

    prefix_ids: tuple[int, ...] = ()

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, specials: Mapping[int, str], stop_ids: Container[int]
    ) -> None:
        self._program = TemplateProgram(tokenizer)
        try:
            self.probe = self._program.write(answered(QUESTION, ANSWER))
            if ANSWER not in self.probe:
                raise unusable("does not write the assistant's text")
            self._end = end_of_turn(self._program, self.probe, tokenizer, specials, stop_ids)
            self.end_id = self._end.id
            forms = find_forms(self._program)
        except RenderError as error:
            raise unusable(f"fails on one question and its answer ({error.detail})") from error
        if forms is None:
            raise unusable("writes an assistant turn that does not continue its own generation prompt")
        self._serving, self._without, self._with = forms.serving, forms.without_reasoning, forms.with_reasoning
        if self._with is not None and self._with.start == "generation prompt":
            self.probe += self._program.write(answered(QUESTION, ANSWER, THOUGHT), settings=self._with.settings)
        prompt = write_prompt(self._program, self._with, QUESTION) if self._with is not None else ""
        self.opens_thought = prompt.rstrip().endswith(OPEN)
        self.marks = forms.marks
        self._remarks_without = self._unlike_serving(self._without, "without")
        self._remarks_with = self._unlike_serving(self._with, "with") if self._with is not None else ()
        self._merges_system = prompt_of(self._program, ({"role": "system", "content": PROBE}, *QUESTION)) is None
        self.description = (
            f"the tokenizer's chat template; a response ends with {self._end.text}"
            + (_NO_GENERATION_PROMPT if self._serving.start == "turn" else "")
            + (f"; the date in prompts is fixed to {FIXED_DATE}" if self._program.has_date else "")
        )

    def ask(self, prompt: Sequence[Message], context: Context) -> Written:
        messages, remarks = self._prepare(prompt)
        return Written(self._prompt(self._serving, messages, context), remarks=remarks)

    def prompts(self, prompt: Sequence[Message], context: Context) -> tuple[str, ...]:
        messages, _ = self._prepare(prompt)
        forms = [form for form in (self._serving, self._without, self._with) if form is not None]
        return tuple(dict.fromkeys(self._prompt(form, messages, context) for form in forms))

    def write(self, demonstration: Demonstration) -> Written:
        messages, remarks = self._prepare(demonstration.prompt)
        thought, answer = self._thought_and_answer(demonstration)
        form = self._with if thought and self._with is not None else self._without
        prompt = self._prompt(form, messages, demonstration.context)
        if form.start == "open thought":
            response = self._close_thought(prompt, thought, answer)
        else:
            reply = answered((), answer, thought)[0]
            response = self._continue(form, messages, prompt, reply, demonstration.context)
        if not _in_order((thought, answer), response):
            raise RenderError("response changed", "the chat template drops part of this response, reasoning perhaps")
        if _made_a_thought(answer, without_spaces(prompt + response)):
            raise RenderError("response changed", _READ_AS_THOUGHT)
        if demonstration.reasoning and self._with is None:
            remarks = (*dict.fromkeys((*remarks, REASONING_LEFT_OUT)),)
        unlike = self._remarks_with if thought else self._remarks_without
        served = write_prompt(self._program, self._serving, messages, demonstration.context) if unlike else ""
        return Written(prompt, response, (*remarks, *unlike), served)

    def _prepare(self, prompt: Sequence[Message]) -> tuple[tuple[Message, ...], tuple[str, ...]]:
        """The messages as this template takes them, and remarks on what was done to them."""
        remarks: list[str] = []
        messages = tuple(prompt)
        if self._merges_system and messages and messages[0]["role"] == "system":
            messages = _merged(messages)
            remarks.append(_SYSTEM_MERGED)
        if self._with is None and any(message.get("reasoning_content") for message in messages):
            remarks.append(REASONING_LEFT_OUT)
        if self._with is not None and self._with.start == "generation prompt":
            messages = tuple(_with_own_thought(message) for message in messages)
        return messages, tuple(remarks)

    def _thought_and_answer(self, demonstration: Demonstration) -> tuple[str, str]:
        """A thought is empty where there is none, and where this template would not write it."""
        if self._with is None:
            return "", demonstration.response
        given = demonstration.reasoning.strip()
        thought, answer = split_thought(demonstration.response, opened=self.opens_thought)
        if given and thought and given != thought:
            raise RenderError("reasoning twice", "the row has reasoning in its field, and other in its response")
        if (given or thought) and not answer.strip():
            raise RenderError("no answer", "nothing follows the reasoning of this response")
        return given or thought, answer

    def _prompt(self, form: Form, messages: Sequence[Message], context: Context) -> str:
        """The prompt with everything in it that the row has. Raises RenderError."""
        text = write_prompt(self._program, form, messages, context)
        visible = without_spaces(text)
        for message in messages:
            # Templates rightly drop old reasoning.
            content = message["content"] if message["role"] != "assistant" else split_thought(message["content"])[1]
            if without_spaces(content) not in visible:
                raise RenderError("message lost", f"the chat template does not write the {message['role']} message")
            if _made_a_thought(content, visible):
                raise RenderError("message lost", _READ_AS_THOUGHT)
        for name in ("tools", "documents"):
            if getattr(context, name):
                without = write_prompt(self._program, form, messages, replace(context, **{name: ()}))
                if text == without or not _holds(text, context, name):
                    fix = f"use a model whose template takes them, or remove the {name} from the row"
                    raise RenderError(f"{name} not written", f"the chat template does not write the {name}; {fix}")
        return text

    def _continue(self, form: Form, messages: Sequence[Message], prompt: str, reply: Message, context: Context) -> str:
        """What the template writes for the reply after the prompt.

        Some Mistral templates write the system text into the last user turn only while that turn is the last message.
        Their answers are taken from how they answer that turn alone.
        """
        text = self._program.write((*messages, reply), context=context, settings=form.settings)
        if not text.startswith(prompt):
            last = messages[-1:]
            prompt = write_prompt(self._program, form, last, context)
            text = self._program.write((*last, reply), context=context, settings=form.settings)
        if not text.startswith(prompt):
            detail = "the chat template writes this prompt differently once the response is there"
            raise RenderError("prompt changed by response", detail)
        response, end, _ = text[len(prompt) :].partition(self._end.text)
        return response + (end if self._end.written else self._end.text)

    def _close_thought(self, prompt: str, thought: str, answer: str) -> str:
        """The response after a prompt that ends with an opening tag; templates like DeepSeek-R1's write none such."""
        gap = prompt[len(prompt.rstrip()) :]
        return thought + gap + CLOSE + gap * 2 + answer + self._end.tail

    def _unlike_serving(self, form: Form, rows: str) -> tuple[str, ...]:
        """A remark where the prompts of these rows are not those that serving sends."""
        served, trained = (write_prompt(self._program, kind, QUESTION) for kind in (self._serving, form))
        if served == trained:
            return ()
        if form.settings:
            return (f"the prompt of rows {rows} reasoning is what serving sends with {form.switches}",)
        ends = f"ends before the {served.removeprefix(trained)!r} that serving sends"
        if not served.startswith(trained):
            ends = f"ends with {trained.rpartition(PROBE)[2]!r}, where serving sends {served.rpartition(PROBE)[2]!r}"
        return (f"the prompt of rows {rows} reasoning {ends}",)


def _merged(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The system texts at the beginning put in front of the first user turn."""
    count = next((at for at, message in enumerate(messages) if message["role"] != "system"), len(messages))
    if count == len(messages) or messages[count]["role"] != "user":
        raise RenderError(
            "roles out of order", "no user turn follows the system turn, which this template cannot write"
        )
    texts = [message["content"] for message in messages[: count + 1]]
    return ({**messages[count], "content": "\n\n".join(texts)}, *messages[count + 1 :])


def _with_own_thought(message: Message) -> Message:
    """An assistant's turn with the reasoning in its text, if any, in the field where templates look for it."""
    thought, answer = split_thought(message["content"])
    if message["role"] != "assistant" or not thought or message.get("reasoning_content"):
        return message
    return {**message, "content": answer, "reasoning_content": thought}


def _in_order(parts: Sequence[str], text: str) -> bool:
    """Whether the parts are in the text one after the other, white space aside."""
    rest = without_spaces(text)
    for part in filter(None, map(without_spaces, parts)):
        _, found, rest = rest.partition(part)
        if not found:
            return False
    return True


def _made_a_thought(text: str, visible: str) -> bool:
    """Whether a template put what only mentions </think> behind a <think> of its own."""
    return CLOSE in text and OPEN + without_spaces(text) in visible


def _holds(text: str, context: Context, name: str) -> bool:
    """Whether the text holds the name of every tool, or of every document its longest text."""
    if name == "tools":
        return all(_name(tool) in text for tool in context.tools)
    visible = without_spaces(text)
    return all(_holds_document(visible, document) for document in context.documents)


def _holds_document(visible: str, document: Mapping[str, object]) -> bool:
    longest = max((value for value in document.values() if isinstance(value, str)), key=len, default="")
    # Templates write documents as JSON, too.
    as_json = (json.dumps(longest, ensure_ascii=ascii_only)[1:-1] for ascii_only in (False, True))
    return any(without_spaces(written) in visible for written in (longest, *as_json))


def _name(tool: Mapping[str, object]) -> str:
    function = tool.get("function")
    return str((function if isinstance(function, Mapping) else tool).get("name", ""))
