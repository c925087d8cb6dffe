"""How varied responses are: distinct n-grams over all of them, repetition inside each."""

from collections.abc import Hashable, Sequence


def distinct(responses: Sequence[Sequence[Hashable]], n: int = 2) -> float:
    """Different n-grams among all n-grams of all responses (Li et al. 2016, arXiv 1510.03055); 0 where there is none.

    It falls as the responses grow in number and length, so compare it between answers to the same prompts only.
    """
    grams = [gram for response in responses for gram in ngrams(response, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repetition(response: Sequence[Hashable], n: int = 4) -> float:
    """Share of a response's n-grams that occurred in it before (Welleck et al. 2019, arXiv 1908.04319); 0 is none."""
    grams = ngrams(response, n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def ngrams(tokens: Sequence[Hashable], n: int) -> list[tuple[Hashable, ...]]:
    """All runs of `n` tokens, in order."""
    return [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]
