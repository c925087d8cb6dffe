"""A question that a reward reads after each response."""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from demotune.common.errors import DemotuneError


@dataclass(frozen=True, slots=True)
class Question:
    """What a reward reads after each response, as text and as token ids."""

    text: str
    ids: tuple[int, ...]


def as_question(tokenizer: PreTrainedTokenizerBase, text: str) -> Question:
    """The question with its token ids. Raises DemotuneError for a text that has none."""
    ids = tuple(tokenizer(text, add_special_tokens=False).input_ids)
    if not ids:
        raise DemotuneError(f"the reward's question {text!r} has no token; leave it out, or ask something")
    return Question(text, ids)
