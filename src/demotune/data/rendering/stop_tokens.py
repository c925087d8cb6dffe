"""Stop tokens: where a response ends, in training rows and in sampling."""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from itertools import takewhile

from transformers import PreTrainedTokenizerBase

from demotune.data.rendering.forms import QUESTION
from demotune.data.rendering.program import TemplateProgram, unusable
from demotune.data.rendering.tokens import encode
from demotune.data.rendering.writer import ANSWER, OTHER_ANSWER, answered


@dataclass(frozen=True, slots=True)
class EndOfTurn:
    """The end-of-turn token."""

    id: int
    text: str
    tail: str
    """All text between an answer and the end of this token."""
    written: bool
    """Whether the template writes it behind the last turn too."""


def named_stop_ids(tokenizer: PreTrainedTokenizerBase, of_model: Iterable[int]) -> set[int]:
    """Ids on which sampling stops beside the end of a turn: the EOS token, and those that the model's folder names."""
    return {*of_model, tokenizer.eos_token_id} - {None}


def end_of_turn(
    program: TemplateProgram,
    probe: str,
    tokenizer: PreTrainedTokenizerBase,
    specials: Mapping[int, str],
    stop_ids: Container[int],
) -> EndOfTurn:
    """The token with which a chat template ends an assistant's turn; `probe` is a question with its answer, written.

    Raises RenderError where there is none.
    """
    tail = probe.rpartition(ANSWER)[2]
    if found := _end_token(tail, tokenizer, specials, stop_ids):
        return EndOfTurn(*found, tail.partition(found[1])[0] + found[1], written=True)
    # GLM closes no turn: its models write the token that begins the user's next turn.
    more = program.write((*answered(QUESTION, ANSWER), {"role": "user", "content": OTHER_ANSWER}))
    between = more.rpartition(ANSWER)[2].rpartition(OTHER_ANSWER)[0].lstrip()
    found = _end_token(between, tokenizer, specials, stop_ids)
    if found is None or not between.startswith(found[1]) or found[0] == tokenizer.bos_token_id:
        raise unusable(f"closes an assistant turn with {tail!r}, which holds no special token to stop on")
    return EndOfTurn(*found, found[1], written=False)


def _end_token(
    text: str, tokenizer: PreTrainedTokenizerBase, specials: Mapping[int, str], stop_ids: Container[int]
) -> tuple[int, str] | None:
    """The token at which sampling is to stop, out of what a template writes after an answer.

    It is the first special token; where others follow at once, as in Cohere's <|END_RESPONSE|><|END_OF_TURN_TOKEN|>,
    the first of them that the model stops on, else the last. Other added tokens serve where no token is special.
    """
    added = {i: t.content for i, t in tokenizer.added_tokens_decoder.items() if not t.content.isspace()}
    ids = encode(tokenizer, text)
    for tokens in (specials, added):
        marks = [tokens.get(token_id, "\0") in text for token_id in ids]
        if True in marks:
            first = marks.index(True)
            run = list(takewhile(tokens.__contains__, ids[first:]))
            found = next((token_id for token_id in run if token_id in stop_ids), run[-1])
            return found, tokens[found]
    return None
