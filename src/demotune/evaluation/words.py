"""Texts as the words that are compared, and the words that most prompts share."""

import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import chain

Words = tuple[str, ...]

LONG_SHINGLE = 5
"""Words in a row that are compared in a long text, and that prompts may share."""
COMMON_SHARE, COMMON_ROWS, COUNTED_ROWS = 0.2, 10, 2000

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|[^\s\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+")


def words_of(text: str) -> Words:
    """The words that are compared; the docstring of `overlap` says how."""
    plain = unicodedata.normalize("NFKC", text).casefold().translate(_punctuation())
    return tuple(_WORD.findall(plain))


@cache
def _punctuation() -> dict[int, str]:
    characters = range(sys.maxunicode + 1)
    return {code: " " for code in characters if unicodedata.category(chr(code)).startswith("P")}


def common_shingles(texts: Sequence[Words]) -> Iterator[Words]:
    """What a fifth of the texts share. Rows are counted at even distances where there are very many."""
    counted = texts[:: max(len(texts) // COUNTED_ROWS, 1)]
    rows = Counter(chain.from_iterable(set(grams(words, LONG_SHINGLE)) for words in counted))
    needed = max(COMMON_SHARE * len(counted), COMMON_ROWS)
    return (shingle for shingle, count in rows.items() if count >= needed)


def without(words: Words, common: set[Words]) -> Words:
    covered = {
        start + offset
        for start, shingle in enumerate(grams(words, LONG_SHINGLE))
        if shingle in common
        for offset in range(LONG_SHINGLE)
    }
    return tuple(word for place, word in enumerate(words) if place not in covered)


def grams(words: Words, size: int) -> list[Words]:
    return [words[start : start + size] for start in range(len(words) - size + 1)]
