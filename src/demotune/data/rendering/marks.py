"""Marks around reasoning and answer, as in gpt-oss' <|channel|>final<|message|>: found, and removed."""

import re
from collections.abc import Collection
from dataclasses import dataclass

from demotune.data.rendering.thoughts import with_thought


@dataclass(frozen=True, slots=True)
class Marks:
    """Everything is empty where a response is its text alone."""

    answer: str = ""
    """In front of an answer without a thought."""
    thought: str = ""
    """In front of a thought."""
    between: str = ""
    """Between a thought and its answer."""


class Unmarker:
    """Takes the marks off responses, where dropping special tokens alone would leave or lose some of their text."""

    def __init__(self, marks: Marks, specials: Collection[str]) -> None:
        self._marks = marks
        longest_first = sorted(specials, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        first = self._special.search(marks.between)
        self._thought_ends = first[0] if first else ""
        self.is_needed = any(map(self._special.search, (marks.answer, marks.thought, marks.between)))

    def text(self, response: str) -> str:
        """The response, decoded with its special tokens, with <think>…</think> around its reasoning."""
        marks = self._marks
        thinks = response.lstrip().startswith(marks.thought)
        thought, between, answer = response.lstrip()[len(marks.thought) :].partition(marks.between)
        if thinks and marks.between and between:
            return with_thought(self._plain(thought).strip(), self._plain(answer).lstrip())
        if thinks and marks.thought:
            # Cut off in the thought; or something else than an answer follows it, which is kept.
            thought, end, rest = thought.partition(self._thought_ends or "\0")
            unfinished = marks.between.startswith(end + rest)
            return with_thought(self._plain(thought).strip(), "" if unfinished else self._plain(rest))
        return self._plain(response.removeprefix(marks.answer))

    def _plain(self, text: str) -> str:
        return self._special.sub("", text)
