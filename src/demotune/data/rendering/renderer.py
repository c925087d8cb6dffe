"""Conversations to token ids."""

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from importlib.metadata import version
from pathlib import Path
from typing import cast

from transformers import PreTrainedTokenizerBase

from demotune.common.errors import DemotuneError
from demotune.common.files import folder_hash, hash_of
from demotune.data.rendering import limits
from demotune.data.rendering.batch_tokenizer import BatchTokenizer
from demotune.data.rendering.chat import ChatTemplate
from demotune.data.rendering.marks import Unmarker
from demotune.data.rendering.plain import PlainTemplate
from demotune.data.rendering.stop_tokens import named_stop_ids
from demotune.data.rendering.thoughts import CLOSE, OPEN, split_thought
from demotune.data.rendering.tokens import ids_of_tokens, special_tokens
from demotune.data.rendering.writer import RenderError, Writer, Written
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
        stop_ids = named_stop_ids(tokenizer, extra_stop_ids)
        self._writer: Writer = (
            ChatTemplate(tokenizer, self._specials, stop_ids)
            if template is None
            else PlainTemplate(tokenizer, template)
        )
        self._unmarker = Unmarker(self._writer.marks, self._specials.values())
        self._encoder = BatchTokenizer(tokenizer, self._specials)
        self._line_break = self._encoder.one("\n")
        self._remarks: Counter[str] = Counter()
        self.description = self._writer.description
        self.end_id = self._writer.end_id
        self.bos_id = tokenizer.bos_token_id
        self.stop_ids = frozenset({self.end_id, *stop_ids})
        self.vocabulary = ids_of_tokens(tokenizer) | self.stop_ids
        # A prompt may hold no control token at all. A response may hold those that neither end a turn nor mark a
        # role: tool calls are written with some.
        markers = self._specials.keys() & self._encoder.one(self._writer.probe)
        self._forbidden_in_response = self.stop_ids | markers

    def prompt_ids(self, prompt: Sequence[Message], context: Context = NO_CONTEXT) -> tuple[int, ...]:
        """Token ids of what serving sends, up to where the policy starts to write. Raises RenderError."""
        self._refuse_control_tokens_in_prompt(prompt, context)
        asked = self._writer.ask(prompt, context)
        ids = self._ids_of_prompt(self._encoder.one(asked.prompt))
        self._remarks.update(asked.remarks)
        return ids

    def prompt_forms(self, prompt: Sequence[Message], context: Context = NO_CONTEXT) -> tuple[tuple[int, ...], ...]:
        """Ids of the prompt in each way that rows have it, with and without reasoning; the first is `prompt_ids`.

        Raises RenderError.
        """
        self._refuse_control_tokens_in_prompt(prompt, context)
        return tuple(map(self._ids_of_prompt, self._encoder.many(self._writer.prompts(prompt, context))))

    def render(self, demonstration: Demonstration) -> RenderedDemonstration:
        """Ids of prompt and response; the response ends with `end_id`. Raises RenderError."""
        (found,) = self.render_all([demonstration])
        if isinstance(found, RenderError):
            raise found
        return found

    def render_all(
        self, demonstrations: Sequence[Demonstration], remarks: Counter[str] | None = None
    ) -> list[RenderedDemonstration | RenderError]:
        """`render` of each, with few calls of the tokenizer; in place of a row that cannot be rendered its error.

        remarks: where what was done to conversations is counted; None: where `remarks()` reads.
        """
        found: dict[int, RenderedDemonstration | RenderError] = {}
        refused = self._control_tokens_in(demonstrations)
        written: dict[int, Written] = {}
        kept = [number for number in range(len(demonstrations)) if number not in refused]
        for number, one in zip(kept, self._write_all([demonstrations[number] for number in kept]), strict=True):
            if isinstance(one, RenderError):
                found[number] = one
            else:
                written[number] = one
        texts = [text for one in written.values() for text in (one.prompt, one.prompt + one.response, one.served)]
        ids = self._encoder.many(texts)
        prompts = ids[::3]
        responses = self._behind(prompts, ids[1::3], [one.response for one in written.values()])
        for (number, one), *of_row in zip(written.items(), prompts, responses, ids[2::3], strict=True):
            try:
                found[number] = self._rendered(one, *of_row)
                (self._remarks if remarks is None else remarks).update(one.remarks)
            except RenderError as error:
                found[number] = error
        found |= refused
        return [found[number] for number in range(len(demonstrations))]

    def _rendered(
        self, written: Written, prompt: tuple[int, ...], ids: tuple[int, ...], served: tuple[int, ...]
    ) -> RenderedDemonstration:
        """The row out of the ids of its prompt, its response and its prompt as served."""
        prompt_ids = self._ids_of_prompt(prompt)
        if ids[-1:] != (self.end_id,):
            raise RenderError(
                "no end token", f"this does not end with the end-of-turn token: {written.response[-40:]!r}"
            )
        if not self.stop_ids.isdisjoint(ids[:-1]):
            raise RenderError("control token in response", "sampling would stop inside this response")
        key, response = content_key(prompt_ids, ids), Response(ids, finished=True)
        return RenderedDemonstration(prompt_ids, response, key, served)

    def _write_all(self, demonstrations: Sequence[Demonstration]) -> list[Written | RenderError]:
        """The texts of each, within the bounds of one conversation; where that is too little, each within its own."""
        try:
            with limits.bounded():
                return list(map(self._write, demonstrations))
        except (limits.TooSlow, MemoryError, DemotuneError):
            return list(map(self._write, demonstrations))

    def _write(self, demonstration: Demonstration) -> Written | RenderError:
        try:
            return self._writer.write(demonstration)
        except RenderError as error:
            return error

    def count(self, remarks: Mapping[str, int]) -> None:
        """Add what was counted when rows were rendered before."""
        self._remarks.update(remarks)

    def fingerprint(self) -> str:
        """A hash of everything that decides which ids a conversation has: tokenizer, template, libraries."""
        with tempfile.TemporaryDirectory() as folder:
            self._tokenizer.save_pretrained(folder)
            files = folder_hash(Path(folder))
        libraries = {name: version(name) for name in ("jinja2", "tokenizers", "transformers")}
        kind = type(self._tokenizer)
        known = [files, f"{kind.__module__}.{kind.__qualname__}", self.description, sorted(self.stop_ids), libraries]
        return hash_of(known)

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

    def _ids_of_prompt(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        ids = self._writer.prefix_ids + ids
        if not ids:
            raise RenderError("empty prompt", "the rendered prompt has no token, so there is nothing to continue")
        return ids

    def _behind(
        self, prompts: Sequence[tuple[int, ...]], wholes: Sequence[tuple[int, ...]], texts: Sequence[str]
    ) -> list[tuple[int, ...]]:
        """Ids of each response right after its prompt, whose own ids stay as they are.

        Tokenised on its own, a text gets a space in front from SentencePiece tokenizers. So its ids are those behind
        the prompt (`wholes` are prompt and response as one text) where that leaves the prompt's ids alone, else those
        behind a line break, and only then those on its own.
        """
        found = [_rest(whole, prompt) for whole, prompt in zip(wholes, prompts, strict=True)]
        changed = [number for number, ids in enumerate(found) if ids is None]
        behind = self._encoder.many(["\n" + texts[number] for number in changed])
        for number, ids in zip(changed, behind, strict=True):
            rest = _rest(ids, self._line_break)
            found[number] = self._encoder.one(texts[number]) if rest is None else rest
        return cast(list[tuple[int, ...]], found)

    def _control_tokens_in(self, demonstrations: Sequence[Demonstration]) -> dict[int, RenderError]:
        """The rows whose prompt or response holds a token that it may not hold, by their numbers."""
        held = [
            (number, place, text)
            for number, row in enumerate(demonstrations)
            for place, texts in (
                ("prompt", self._texts_of_prompt(row.prompt, row.context)),
                ("response", (row.reasoning, *self._pieces(row.response, self._writer.opens_thought))),
            )
            for text in texts
            if self._encoder.may_hold_specials(text)
        ]
        refused: dict[int, RenderError] = {}
        for (number, place, text), ids in zip(held, self._encoder.many([text for *_, text in held]), strict=True):
            forbidden = self._specials.keys() if place == "prompt" else self._forbidden_in_response
            if number not in refused and (error := self._control_token(text, ids, forbidden, place)):
                refused[number] = error
        return refused

    def _refuse_control_tokens_in_prompt(self, prompt: Sequence[Message], context: Context) -> None:
        texts = list(filter(self._encoder.may_hold_specials, self._texts_of_prompt(prompt, context)))
        for text, ids in zip(texts, self._encoder.many(texts), strict=True):
            if error := self._control_token(text, ids, self._specials.keys(), "prompt"):
                raise error

    def _texts_of_prompt(self, prompt: Sequence[Message], context: Context) -> list[str]:
        """Everything in it that the row says."""
        texts = [json.dumps(dict(entry), ensure_ascii=False) for entry in (*context.tools, *context.documents)]
        for message in prompt:
            content = message["content"]
            texts += self._pieces(content) if message["role"] == "assistant" else [content]
            texts.append(message.get("reasoning_content", ""))
        return texts

    def _pieces(self, text: str, opened: bool = False) -> tuple[str, ...]:
        """An assistant's text without the tags of a thought that it begins with, which may be special tokens."""
        thought, answer = split_thought(text, opened=opened)
        return (thought, answer) if thought or answer != text else (text,)

    def _control_token(self, content: str, ids: Iterable[int], forbidden: Set[int], where: str) -> RenderError | None:
        for token_id in set(ids).intersection(forbidden):
            token = self._specials.get(token_id, str(token_id))
            # Characters that the tokenizer does not know also become the unknown token: that is not smuggling.
            if token_id != self._tokenizer.unk_token_id or token in content:
                return RenderError(f"control token in {where}", f"the text holds {token!r}; remove it from the row")
        return None


def _rest(ids: tuple[int, ...], start: tuple[int, ...]) -> tuple[int, ...] | None:
    """What follows `start`; None where the ids begin otherwise."""
    return ids[len(start) :] if ids[: len(start)] == start else None


def content_key(prompt_ids: Sequence[int], response_ids: Sequence[int]) -> str:
    """16 hex digits of sha256 over both: the name of a rendered demonstration."""
    return hash_of([list(prompt_ids), list(response_ids)])[:16]


def prompt_hash(prompt_ids: Sequence[int]) -> int:
    """64 bits of sha256: evenly spread, and the same in every run and data set."""
    return int.from_bytes(hashlib.sha256(json.dumps(list(prompt_ids)).encode()).digest()[:8])
