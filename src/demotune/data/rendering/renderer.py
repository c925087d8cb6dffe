"""Conversations to token ids."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence

from transformers import PreTrainedTokenizerBase

from demotune.data.rendering.chat import ChatTemplate
from demotune.data.rendering.marks import Unmarker
from demotune.data.rendering.plain import PlainTemplate
from demotune.data.rendering.thoughts import CLOSE, OPEN, split_thought
from demotune.data.rendering.tokens import encode, ids_of_tokens, special_tokens
from demotune.data.rendering.writer import RenderError, Writer
from demotune.records import NO_CONTEXT, Context, Demonstration, Message, RenderedDemonstration, Response

_TAG_TOKENS = 16
"""More tokens than <think> and the white space behind it have."""


class Renderer:
    """Turns conversations into token ids, by the tokenizer's chat template or by a plain `template` with {prompt}.

    Plain templates: {prompt} becomes the user's text; earlier turns are written the same way, each followed by its
    reply, with blank lines between turns; a system message comes first; the tokenizer's BOS token is put in front
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
        self._specials = special_tokens(tokenizer)
        stop_ids = {*extra_stop_ids, tokenizer.eos_token_id} - {None}
        self._writer: Writer = (
            ChatTemplate(tokenizer, self._specials, stop_ids)
            if template is None
            else PlainTemplate(tokenizer, template)
        )
        self._unmarker = Unmarker(self._writer.marks, self._specials.values())
        self._line_break = encode(tokenizer, "\n")
        self._remarks: Counter[str] = Counter()
        self.description = self._writer.description
        self.end_id = self._writer.end_id
        self.bos_id = tokenizer.bos_token_id
        self.stop_ids = frozenset({self.end_id, *stop_ids})
        self.vocabulary = ids_of_tokens(tokenizer) | self.stop_ids
        # A prompt may hold no control token at all. A response may hold those that neither end a turn nor mark a
        # role: tool calls are written with some.
        markers = self._specials.keys() & encode(tokenizer, self._writer.probe)
        self._forbidden_in_response = self.stop_ids | markers

    def prompt_ids(self, prompt: Sequence[Message], context: Context = NO_CONTEXT) -> tuple[int, ...]:
        """Token ids of what serving sends, up to where the policy starts to write. Raises RenderError."""
        self._refuse_control_tokens_in_prompt(prompt, context)
        asked = self._writer.ask(prompt, context)
        ids = self._ids_of_prompt(asked.prompt)
        self._remarks.update(asked.remarks)
        return ids

    def prompt_forms(self, prompt: Sequence[Message], context: Context = NO_CONTEXT) -> tuple[tuple[int, ...], ...]:
        """Ids of the prompt in each way that rows have it, with and without reasoning; the first is `prompt_ids`.

        Raises RenderError.
        """
        self._refuse_control_tokens_in_prompt(prompt, context)
        return tuple(self._ids_of_prompt(text) for text in self._writer.prompts(prompt, context))

    def render(self, demonstration: Demonstration) -> RenderedDemonstration:
        """Ids of prompt and response; the response ends with `end_id`. Raises RenderError."""
        self._refuse_control_tokens_in_prompt(demonstration.prompt, demonstration.context)
        for text in (demonstration.reasoning, *self._pieces(demonstration.response, self._writer.opens_thought)):
            self._refuse_control_tokens(text, self._forbidden_in_response, "response")
        written = self._writer.write(demonstration)
        prompt_ids = self._ids_of_prompt(written.prompt)
        ids = self._continue(written.prompt, prompt_ids[len(self._writer.prefix_ids) :], written.response)
        if ids[-1:] != (self.end_id,):
            raise RenderError(
                "no end token", f"this does not end with the end-of-turn token: {written.response[-40:]!r}"
            )
        if not self.stop_ids.isdisjoint(ids[:-1]):
            raise RenderError("control token in response", "sampling would stop inside this response")
        self._remarks.update(written.remarks)
        key, response = content_key(prompt_ids, ids), Response(ids, finished=True)
        return RenderedDemonstration(prompt_ids, response, key, encode(self._tokenizer, written.served))

    def remarks(self) -> tuple[str, ...]:
        """Lines for the screen: what was done to conversations rendered so far, each with their number."""
        counts = ((remark, f"{count:,} conversation{'s' * (count > 1)}") for remark, count in self._remarks.items())
        return tuple(f"{remark}: {conversations}" for remark, conversations in counts)

    def reads_ids_of(self, other: "Renderer") -> bool:
        """Whether a response that the other's policy wrote means the same here: one vocabulary, one end of turn."""
        return self.end_id == other.end_id and self._tokenizer.get_vocab() == other._tokenizer.get_vocab()

    def decode(self, ids: Sequence[int]) -> str:
        """Text to read, special tokens dropped. Never tokenise it again.

        A thought in marks of special tokens is written <think>…</think>, as other models write theirs.
        """
        if self._unmarker.is_needed:
            return self._unmarker.text(self._text(ids, skip_special_tokens=False))
        return self._text(ids, skip_special_tokens=True)

    def as_written(self, ids: Sequence[int]) -> str:
        """Text to read, special tokens included."""
        return self._text(ids, skip_special_tokens=False)

    def decode_for_another(self, prompt_ids: Sequence[int], ids: Sequence[int]) -> str:
        """The text for another renderer: a thought has its opening tag, even where that is in the prompt here."""
        text = self.decode(ids)
        prompt_end = self._text(prompt_ids[-_TAG_TOKENS:], skip_special_tokens=False).rstrip()
        opened = CLOSE in text and not text.lstrip().startswith(OPEN) and prompt_end.endswith(OPEN)
        return f"{OPEN}\n{text}" if opened else text

    def _text(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        return str(
            self._tokenizer.decode(
                list(ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
            )
        )

    def _ids_of_prompt(self, text: str) -> tuple[int, ...]:
        ids = self._writer.prefix_ids + encode(self._tokenizer, text)
        if not ids:
            raise RenderError("empty prompt", "the rendered prompt has no token, so there is nothing to continue")
        return ids

    def _refuse_control_tokens_in_prompt(self, prompt: Sequence[Message], context: Context) -> None:
        texts = [json.dumps(dict(entry), ensure_ascii=False) for entry in (*context.tools, *context.documents)]
        for message in prompt:
            content = message["content"]
            texts += self._pieces(content) if message["role"] == "assistant" else [content]
            texts.append(message.get("reasoning_content", ""))
        for text in texts:
            self._refuse_control_tokens(text, self._specials.keys(), "prompt")

    def _pieces(self, text: str, opened: bool = False) -> tuple[str, ...]:
        """An assistant's text without the tags of a thought that it begins with, which may be special tokens."""
        thought, answer = split_thought(text, opened=opened)
        return (thought, answer) if thought or answer != text else (text,)

    def _refuse_control_tokens(self, content: str, forbidden: Iterable[int], where: str) -> None:
        for token_id in set(encode(self._tokenizer, content)).intersection(forbidden):
            token = self._specials.get(token_id, str(token_id))
            # Characters that the tokenizer does not know also become the unknown token: that is not smuggling.
            if token_id != self._tokenizer.unk_token_id or token in content:
                raise RenderError(f"control token in {where}", f"the text holds {token!r}; remove it from the row")

    def _continue(self, prompt_text: str, prompt_ids: tuple[int, ...], text: str) -> tuple[int, ...]:
        """Ids of `text` right after the prompt, whose own ids stay as they are.

        Tokenised on its own, a text gets a space in front from SentencePiece tokenizers. So it is tokenised behind
        the prompt where that leaves the prompt's ids alone, else behind a line break, and only then on its own.
        """
        for before, before_ids in ((prompt_text, prompt_ids), ("\n", self._line_break)):
            ids = encode(self._tokenizer, before + text)
            if ids[: len(before_ids)] == before_ids:
                return ids[len(before_ids) :]
        return encode(self._tokenizer, text)


def content_key(prompt_ids: Sequence[int], response_ids: Sequence[int]) -> str:
    """16 hex digits of sha256 over both: the name of a rendered demonstration."""
    return hashlib.sha256(json.dumps([list(prompt_ids), list(response_ids)]).encode()).hexdigest()[:16]
