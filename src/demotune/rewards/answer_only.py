"""Answers apart from the thoughts before them: with `answer_after`, rewards and pair losses see the answer only.

The answer is what follows the last occurrence of the marker's tokens, white space at its beginning left out. Token ids
are compared, no text is read again. A drawn response without the marker has not come to an answer: it counts as
unfinished, and its answer is empty. A demonstration without the marker is an answer as a whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from demotune.common.errors import DemotuneError
from demotune.common.sequences import Mapped
from demotune.data.rendering.tokens import encode
from demotune.records import Completion, Pair, Response

_BEFORE, _AFTER = ("", "a", "so.", "so\n", "so ", "1"), ("", "a", "\n", "\n\n", " a", "1")
"""Texts around a marker in which its tokens must be the same."""


@dataclass(frozen=True, slots=True)
class AnswerMarker:
    """The token ids after which an answer begins, those of white space, and the one that ends a response."""

    ids: tuple[int, ...]
    blank: frozenset[int]
    end_id: int


def find_marker(tokenizer: PreTrainedTokenizerBase, text: str | None, end_id: int) -> AnswerMarker | None:
    """The marker that `text` is, if any. Raises DemotuneError where its tokens depend on the text around it."""
    if text is None:
        return None
    ids = encode(tokenizer, text)
    for before in _BEFORE:
        for after in _AFTER:
            if not ids or _end_of_last(encode(tokenizer, before + text + after), ids) is None:
                raise DemotuneError(
                    f"answer_after {text!r} cannot be found by its tokens: this tokenizer writes it in another way in "
                    f"{before + text + after!r}; give a token of its own such as </think> of a model that reasons, or "
                    "a text with a line break on either side"
                )
    blank = {token for token in tokenizer.get_vocab().values() if str(tokenizer.decode([token])).isspace()}
    return AnswerMarker(ids, frozenset(blank), end_id)


def thought_tokens(ids: Sequence[int], marker: AnswerMarker) -> int | None:
    """How many tokens come before the answer; None where there is no marker, or nothing after it."""
    place = _end_of_last(ids, marker.ids)
    while place is not None and place < len(ids) and ids[place] in marker.blank:
        place += 1
    return place if place is not None and place < len(ids) else None


def answer_of(response: Response, marker: AnswerMarker) -> Response:
    """The answer in a drawn response; one without an answer has the end token alone, and is not finished."""
    thought = thought_tokens(response.ids, marker)
    if thought is None:
        return Response((marker.end_id,), finished=False)
    return _rest(response, thought)


def finished_by_answer(response: Response, marker: AnswerMarker) -> Response:
    """The response as it is, unfinished where it has no answer."""
    return response if thought_tokens(response.ids, marker) is not None else replace(response, finished=False)


def answers_of(completions: Sequence[Completion], marker: AnswerMarker | None) -> list[Completion]:
    """Prompts with the answers in drawn responses; the thoughts are gone."""
    if marker is None:
        return list(completions)
    return [Completion(row.prompt_ids, answer_of(row.response, marker)) for row in completions]


def without_thought(completion: Completion, marker: AnswerMarker | None) -> Completion:
    """The prompt with the answer in any response: one without the marker is an answer as a whole."""
    thought = None if marker is None else thought_tokens(completion.response.ids, marker)
    return completion if thought is None else Completion(completion.prompt_ids, _rest(completion.response, thought))


def with_thought_given(completion: Completion, marker: AnswerMarker | None) -> Completion:
    """The answer in any response, its thought standing with the prompt."""
    thought = None if marker is None else thought_tokens(completion.response.ids, marker)
    if thought is None:
        return completion
    given = (*completion.prompt_ids, *completion.response.ids[:thought])
    return Completion(given, _rest(completion.response, thought))


def _rest(response: Response, thought: int) -> Response:
    return Response(response.ids[thought:], response.finished)


def with_thoughts(pair: Pair, marker: AnswerMarker | None) -> Pair:
    """The pair with its thoughts marked. A sample without an answer has no thought."""
    if marker is None:
        return pair
    demo, sample = (thought_tokens(side.ids, marker) or 0 for side in (pair.demo, pair.sample))
    return replace(pair, demo_thought=demo, sample_thought=sample)


def equal_answers(pair: Pair, marker: AnswerMarker | None) -> bool:
    """Whether the sample gives the same answer as the demonstration; one without an answer gives none."""
    marked = with_thoughts(pair, marker)
    return (marker is None or marked.sample_thought > 0) and marked.equal


def without_thoughts(pair: Pair, marker: AnswerMarker | None) -> Pair:
    """The pair of the answers alone, for a reward model."""
    if marker is None:
        return pair
    thought = thought_tokens(pair.demo.ids, marker) or 0
    return Pair(pair.key, pair.prompt_ids, _rest(pair.demo, thought), answer_of(pair.sample, marker))


def pairs_of_answers(pairs: Sequence[Pair], marker: AnswerMarker | None) -> Sequence[Pair]:
    """All of them, as a reward model reads them."""
    return pairs if marker is None else Mapped(lambda pair: without_thoughts(pair, marker), pairs)


def _end_of_last(ids: Sequence[int], wanted: tuple[int, ...]) -> int | None:
    """Where the last occurrence of `wanted` ends."""
    starts = range(len(ids) - len(wanted), -1, -1)
    return next((start + len(wanted) for start in starts if tuple(ids[start : start + len(wanted)]) == wanted), None)
