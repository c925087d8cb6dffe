"""The one prompt renderer: conversation -> token ids, the same for sampling, training and scoring.

Prompt text and response text come from one template; their ids are joined, never decoded and tokenised again. So the
policy is trained on exactly the ids that it is conditioned on when it samples.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Protocol

import jinja2
from transformers import PreTrainedTokenizerBase

from demotune.errors import DemotuneError
from demotune.records import Demonstration, Message, RenderedDemonstration, Response

_PROBE, _ANSWER, _OTHER_ANSWER = "DemotuneProbe", "DemotuneAnswer", "DemotuneReply"

_OWN_TEMPLATE = r'give a prompt template, for example --template "### Instruction: {prompt}\n\n### Response: "'

# Llama 3.1 and 3.2 write this date themselves when they know no other.
_FIXED_DATE = "26 Jul 2024"
_FIXED_DATE_PARTS = {
    "%A": "Friday", "%a": "Fri", "%B": "July", "%b": "Jul", "%-d": "26", "%d": "26", "%e": "26", "%-m": "7", "%m": "07",
    "%Y": "2024", "%y": "24", "%j": "208", "%F": "2024-07-26", "%T": "12:00:00", "%-H": "12", "%H": "12", "%-I": "12",
    "%I": "12", "%-M": "0", "%M": "00", "%S": "00", "%p": "PM", "%Z": "UTC", "%z": "+0000",
}  # fmt: skip


class RenderError(Exception):
    """A row that cannot be rendered: `reason` is a short name to count by, `detail` is for people."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class Renderer:
    """Turns conversations into token ids, by the tokenizer's chat template or by a plain `template` with {prompt}.

    Plain templates: {prompt} becomes the user's text; earlier turns are written the same way, each followed by its
    reply, with blank lines between turns; a system message stands first; the tokenizer's BOS token stands in front
    if the tokenizer adds one to plain text; the response is closed by the EOS token.

    Chat templates that write today's date get 26 Jul 2024 instead, so that a run gives the same ids on any day.

    Raises DemotuneError when neither template is there or the one at hand cannot close a response with a token.
    """

    stop_ids: frozenset[int]
    """Sampling stops on any of these: the end-of-turn token, the EOS token, and `extra_stop_ids`."""
    end_id: int
    """The end-of-turn token, which closes a rendered response."""
    bos_id: int | None
    """The tokenizer's BOS token, where it has one."""
    description: str
    """One line for the screen: which template is used and which token ends a turn."""
    vocabulary: frozenset[int]
    """All ids that stand for a token."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, template: str | None = None, extra_stop_ids: Iterable[int] = ()
    ) -> None:
        self._tokenizer = tokenizer
        self._specials = _special_tokens(tokenizer)
        self._writer: _Writer = (
            _ChatTemplate(tokenizer, self._specials) if template is None else _PlainTemplate(tokenizer, template)
        )
        self.description = self._writer.description
        self.end_id = self._writer.end_id
        self.bos_id = tokenizer.bos_token_id
        self.vocabulary = frozenset(tokenizer.get_vocab().values())
        self.stop_ids = frozenset({self.end_id, *extra_stop_ids, tokenizer.eos_token_id} - {None})
        # A prompt may hold no control token at all. A response may hold those that neither end a turn nor mark a
        # role: tool calls are written with some.
        markers = self._specials.keys() & _encode(tokenizer, self._writer.probe)
        self._forbidden_in_response = self.stop_ids | markers

    def prompt_ids(self, prompt: Sequence[Message]) -> tuple[int, ...]:
        """Token ids up to where the policy starts to write. Raises RenderError."""
        return self._writer.prefix_ids + self._prompt(prompt)[1]

    def render(self, demonstration: Demonstration) -> RenderedDemonstration:
        """Ids of prompt and response; the response ends with `end_id`. Raises RenderError."""
        prompt_text, text_ids = self._prompt(demonstration.prompt)
        prompt_ids = self._writer.prefix_ids + text_ids
        self._refuse_control_tokens(demonstration.response, self._forbidden_in_response, "response")
        response_text = self._writer.response_text(demonstration.prompt, prompt_text, demonstration.response)
        ids = self._continue(prompt_text, text_ids, response_text)
        if ids[-1:] != (self.end_id,):
            raise RenderError("no end token", f"this does not end with the end-of-turn token: {response_text[-40:]!r}")
        if not self.stop_ids.isdisjoint(ids[:-1]):
            raise RenderError("control token in response", "sampling would stop inside this response")
        return RenderedDemonstration(prompt_ids, Response(ids, finished=True), content_key(prompt_ids, ids))

    def reads_ids_of(self, other: "Renderer") -> bool:
        """Whether a response that the other's policy wrote means the same here: one vocabulary, one end of turn."""
        return self.end_id == other.end_id and self._tokenizer.get_vocab() == other._tokenizer.get_vocab()

    def decode(self, ids: Sequence[int]) -> str:
        """Text for people to read, special tokens dropped. Never tokenise it again."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _prompt(self, prompt: Sequence[Message]) -> tuple[str, tuple[int, ...]]:
        for message in prompt:
            self._refuse_control_tokens(message["content"], self._specials.keys(), "prompt")
        text = self._writer.prompt_text(prompt)
        ids = _encode(self._tokenizer, text)
        if not self._writer.prefix_ids + ids:
            raise RenderError("empty prompt", "the rendered prompt has no token, so there is nothing to continue")
        return text, ids

    def _refuse_control_tokens(self, content: str, forbidden: Iterable[int], where: str) -> None:
        for token_id in set(_encode(self._tokenizer, content)).intersection(forbidden):
            token = self._specials.get(token_id, str(token_id))
            # Characters that the tokenizer does not know also become the unknown token: that is not smuggling.
            if token_id != self._tokenizer.unk_token_id or token in content:
                raise RenderError(f"control token in {where}", f"the text holds {token!r}; remove it from the row")

    def _continue(self, prompt_text: str, prompt_ids: tuple[int, ...], text: str) -> tuple[int, ...]:
        """Ids of `text` right after the prompt, whose own ids stay as they are.

        Tokenised on its own, a text gets a space in front from SentencePiece tokenizers. So it is tokenised behind
        the prompt where that leaves the prompt's ids alone, else behind a line break, and only then on its own.
        """
        for before, before_ids in ((prompt_text, prompt_ids), ("\n", _encode(self._tokenizer, "\n"))):
            ids = _encode(self._tokenizer, before + text)
            if ids[: len(before_ids)] == before_ids:
                return ids[len(before_ids) :]
        return _encode(self._tokenizer, text)


def content_key(prompt_ids: Sequence[int], response_ids: Sequence[int]) -> str:
    """16 hex digits of sha256 over both: the name of a rendered demonstration."""
    return hashlib.sha256(json.dumps([list(prompt_ids), list(response_ids)]).encode()).hexdigest()[:16]


class _Writer(Protocol):
    """Writes a conversation as text."""

    end_id: int
    description: str
    probe: str
    """A rendered example conversation, to see which tokens mark roles and turns."""
    prefix_ids: tuple[int, ...]
    """Ids in front of every prompt that are not part of its text."""

    def prompt_text(self, prompt: Sequence[Message]) -> str: ...

    def response_text(self, prompt: Sequence[Message], prompt_text: str, response: str) -> str: ...


class _PlainTemplate:
    """A template with {prompt} in it, closed by the EOS token."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str) -> None:
        if template.count("{prompt}") != 1:
            raise DemotuneError(f"template must contain {{prompt}} once, got {template!r}; {_OWN_TEMPLATE}")
        if tokenizer.eos_token_id is None:
            raise DemotuneError(
                "the tokenizer has no EOS token, so a response could never end; set eos_token in the model's "
                'tokenizer_config.json, for example to "</s>" or "<|endoftext|>", whichever its vocabulary holds'
            )
        self._template = template
        self._eos = str(tokenizer.eos_token)
        self.end_id = tokenizer.eos_token_id
        self.description = f"template: {template!r}; a response ends with {self._eos}"
        self.probe = template.replace("{prompt}", _PROBE) + _ANSWER + self._eos
        bos_id: int | None = tokenizer.bos_token_id
        adds_bos = bos_id is not None and tokenizer.encode(_PROBE)[:1] == [bos_id]
        has_bos = _encode(tokenizer, self.probe)[:1] == (bos_id,)
        self.prefix_ids: tuple[int, ...] = (bos_id,) if bos_id is not None and adds_bos and not has_bos else ()

    def prompt_text(self, prompt: Sequence[Message]) -> str:
        turns: list[str] = []
        last_role = ""
        for message in prompt:
            role, content = message["role"], message["content"]
            if role == "user":
                turns.append(self._template.replace("{prompt}", content))
            elif role == "system" and not last_role:
                turns.append(content)
            elif role == "assistant" and last_role == "user":
                turns[-1] += content
            else:
                raise RenderError("roles out of order", f"a {role} turn after {last_role or 'nothing'}")
            last_role = role
        return "\n\n".join(turns)

    def response_text(self, prompt: Sequence[Message], prompt_text: str, response: str) -> str:
        return response + self._eos


class _ChatTemplate:
    """The tokenizer's own chat template, a Jinja program.

    A probe conversation is rendered once to see where an assistant turn ends. Normally the prompt is what the template
    writes with its generation prompt. Where the template writes an assistant turn in another way than it prompts for
    one (DeepSeek-R1's <think>, or no generation prompt at all), the prompt ends where that turn's text begins.
    """

    prefix_ids: tuple[int, ...] = ()

    def __init__(self, tokenizer: PreTrainedTokenizerBase, specials: dict[int, str]) -> None:
        self._tokenizer = tokenizer
        try:
            template = tokenizer.get_chat_template()
        except ValueError:
            fixes = f"{_OWN_TEMPLATE}, or use a model whose tokenizer has one"
            raise DemotuneError(f"the tokenizer has no chat template; {fixes}") from None
        self._jinja = _with_fixed_date(template)
        question: tuple[Message, ...] = ({"role": "user", "content": _PROBE},)
        try:
            self.probe = self._apply(_answered(question, _ANSWER))
            other = self._apply(_answered(question, _OTHER_ANSWER))
            unprompted, prompted = self._apply(question), self._apply(question, prompt_for_more=True)
        except RenderError as error:
            raise _unusable(f"fails on one question and its answer ({error.detail})") from error
        head, found, tail = self.probe.rpartition(_ANSWER)
        if not found:
            raise _unusable("does not write the assistant's text")
        self.end_id, self._end = _first_token(tail, tokenizer, specials)
        says_nothing = prompted == unprompted and bool(head[len(prompted) :].strip())
        self._has_generation_prompt = head.startswith(prompted) and not says_nothing
        if not self._has_generation_prompt and other != head + _OTHER_ANSWER + tail:
            raise _unusable("writes an assistant turn that does not continue its own generation prompt")
        self.description = (
            f"the tokenizer's chat template; a response ends with {self._end}"
            + ("" if self._has_generation_prompt else "; prompts end where it starts an assistant's text")
            + ("" if template == self._jinja else f"; the date in prompts is fixed to {_FIXED_DATE}")
        )

    def prompt_text(self, prompt: Sequence[Message]) -> str:
        if self._has_generation_prompt:
            text = self._apply(prompt, prompt_for_more=True)
        else:
            text = self._apply(_answered(prompt, _ANSWER)).rpartition(_ANSWER)[0]
        for message in prompt:
            # Earlier assistant turns are left out: templates rightly drop old reasoning from them.
            if message["role"] != "assistant" and _without_spaces(message["content"]) not in _without_spaces(text):
                raise RenderError("message lost", f"the chat template does not write the {message['role']} message")
        return text

    def response_text(self, prompt: Sequence[Message], prompt_text: str, response: str) -> str:
        full = self._apply(_answered(prompt, response))
        if not full.startswith(prompt_text):
            detail = "the chat template writes this prompt differently once the response is there"
            raise RenderError("prompt changed by response", detail)
        text, end, _ = full[len(prompt_text) :].partition(self._end)
        if _without_spaces(response) not in _without_spaces(text):
            raise RenderError("response changed", "the chat template drops part of this response, reasoning perhaps")
        return text + end

    def _apply(self, messages: Sequence[Message], *, prompt_for_more: bool = False) -> str:
        chat = [dict(message) for message in messages]
        try:
            text = self._tokenizer.apply_chat_template(
                chat, chat_template=self._jinja, add_generation_prompt=prompt_for_more, tokenize=False
            )
        except (jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            # A template is somebody's program: whatever it raises says that it cannot write this conversation.
            raise RenderError("chat template refused", str(error) or type(error).__name__) from error
        return str(text)


def _answered(prompt: Sequence[Message], response: str) -> tuple[Message, ...]:
    return (*prompt, {"role": "assistant", "content": response})


def _unusable(what: str) -> DemotuneError:
    return DemotuneError(f"the tokenizer's chat template {what}; {_OWN_TEMPLATE}")


def _first_token(tail: str, tokenizer: PreTrainedTokenizerBase, specials: dict[int, str]) -> tuple[int, str]:
    """The first special token in what the template writes after an answer; else the first other added token."""
    added = {i: t.content for i, t in tokenizer.added_tokens_decoder.items() if not t.content.isspace()}
    for tokens in (specials, added):
        for token_id in _encode(tokenizer, tail):
            if tokens.get(token_id, "\0") in tail:
                return token_id, tokens[token_id]
    raise _unusable(f"closes an assistant turn with {tail!r}, which holds no special token to stop on")


def _with_fixed_date(template: str) -> str:
    """The template with `strftime_now`, where it is used, made a macro that knows one date only."""
    if "strftime_now" not in template:
        return template
    parts = "".join(f"|replace('{directive}','{text}')" for directive, text in _FIXED_DATE_PARTS.items())
    # Jinja drops the line break after the block, so the template itself still begins at the start of a line.
    return "{% macro strftime_now(format) %}{{ format" + parts + " }}{% endmacro %}\n" + template


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Every special token, by id. Llama 3's <|eot_id|> is special only as an added token, so both lists count."""
    named = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    return named | {i: token.content for i, token in tokenizer.added_tokens_decoder.items() if token.special}


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, add_special_tokens=False, verbose=False))


def _without_spaces(text: str) -> str:
    return "".join(text.split())
