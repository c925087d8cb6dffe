"""Leaks: rows of the test data, or items of a benchmark, that the training data holds already.

What is compared are words: text after NFKC, in lower case, without punctuation. A Chinese or Japanese character is a
word. So a paraphrase, a translation, or a text with every third word replaced is not seen, and `12-4` is the same as
`12/4`. Short texts agree by chance: with fewer than 5 words they are compared whole only, and such a response counts
only together with its prompt. No match does not mean that a model has not seen a row: what it was pretrained on is not
looked at.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, get_args

from datasketch import MinHash, MinHashLSH

from demotune.common.json_records import as_json
from demotune.common.statistics import Interval, share_interval
from demotune.evaluation.words import LONG_SHINGLE, Words, common_shingles, grams, without, words_of
from demotune.records import Demonstration

Kind = Literal[
    "same row",
    "same prompt",
    "near prompt",
    "contained prompt",
    "same response",
    "near response",
    "contained response",
]
KINDS: tuple[Kind, ...] = get_args(Kind)

FEW_WORDS = 5
"""Shorter texts are compared whole only."""
LONG_TEXT = 50
"""From this many words on, shingles are 5 words long; one changed word would spoil too many of a shorter text's."""
SHORT_SHINGLE = 2
GRAM = 13
"""Words in a row that show contamination, as in the GPT-3 paper (arXiv 2005.14165, appendix C)."""
PERMUTATIONS, BANDS, SEED = 128, (32, 4), 1
"""Bands and rows of a band: a pair of similarity 0.8 is missed once in 20 million, one of 0.5 once in 8."""


@dataclass(frozen=True, slots=True)
class TextRow:
    """A prompt and its response as text; a benchmark item is a question and its answer."""

    source: str
    """Where the row stood, `FILE:LINE`."""
    prompt: str
    response: str


@dataclass(frozen=True, slots=True)
class Match:
    """A test row and the training row that is most like it."""

    kind: Kind
    test_source: str
    train_source: str
    similarity: float
    """1 for the same; near: Jaccard similarity of the shingles; contained: share of the test text's n-grams that occur
    anywhere in the training data, of which `train_source` has the most."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """What of the test data the training data holds."""

    rows: tuple[Match, ...]
    """In the order of the test rows; of a prompt or a response only the strongest kind (same, near, contained)."""
    test_rows: int
    train_rows: int
    counts: Mapping[Kind, int]
    """Test rows with a match, for every kind."""
    leaked: int
    """Test rows with any match."""
    share: Interval
    """`leaked` of `test_rows`."""

    def as_record(self) -> dict[str, Any]:
        """In JSON, with the kinds that there are."""
        found = as_json(self)
        return {
            **{name: found[name] for name in ("test_rows", "train_rows", "leaked", "share")},
            "counts": {kind: count for kind, count in found["counts"].items() if count},
            "matches": found["rows"],
        }


@dataclass(frozen=True, slots=True)
class _Found:
    """A training row (its number) for a test row."""

    train: int
    similarity: float


@dataclass(frozen=True, slots=True)
class _Texts:
    """All texts of one side, as words; `whole_prompts` still have what most prompts share."""

    whole_prompts: tuple[Words, ...]
    prompts: tuple[Words, ...]
    responses: tuple[Words, ...]


def text_rows(demonstrations: Sequence[Demonstration]) -> list[TextRow]:
    """Conversations as text: turns joined by a newline. System messages are left out, being the same in many rows."""
    return [
        TextRow(
            row.source,
            "\n".join(turn["content"] for turn in row.prompt if turn["role"] != "system"),
            row.response,
        )
        for row in demonstrations
    ]


def find_overlap(
    test: Sequence[TextRow], train: Sequence[TextRow], *, near: float = 0.8, contained: float = 0.5
) -> Overlap:
    """Which test rows are in the training data: the same, nearly the same, or in pieces.

    near: least Jaccard similarity of two texts' shingles, sets of 5 words in a row (2 in a text under 50 words, where
    one changed word is forgiven from 19 words on). MinHash LSH proposes pairs, the sets themselves decide.
    contained: least share of a test text's n-grams that occur in the training data; n is 13, or all the words of a
    shorter text.

    For these two, words of a prompt are left out where 5 of them in a row are in a fifth of either side's prompts: an
    instruction template would make all prompts alike. Raises ValueError without test rows.
    """
    if not test:
        raise ValueError("no test rows to look for")
    ours, theirs = _texts(test, train)
    same_response = {
        number: found for number, found in _same(ours.responses, theirs.responses).items()
        if len(ours.responses[number]) >= FEW_WORDS
    }  # fmt: skip
    found: dict[Kind, dict[int, _Found]] = {
        "same row": _same(
            list(zip(ours.whole_prompts, ours.responses, strict=True)),
            list(zip(theirs.whole_prompts, theirs.responses, strict=True)),
        ),
        "same prompt": _same(ours.whole_prompts, theirs.whole_prompts),
        "near prompt": _near(ours.prompts, theirs.prompts, near),
        "contained prompt": _contained(ours.prompts, theirs, contained),
        "same response": same_response,
        "near response": _near(ours.responses, theirs.responses, near),
        "contained response": _contained(ours.responses, theirs, contained),
    }
    rows: list[Match] = []
    counts: Counter[Kind] = Counter()
    leaked = 0
    for number, row in enumerate(test):
        kinds = list(_strongest([kind for kind in KINDS if number in found[kind]]))
        rows += (
            Match(kind, row.source, train[match.train].source, match.similarity)
            for kind, match in ((kind, found[kind][number]) for kind in kinds)
        )
        counts.update(kinds)
        leaked += bool(kinds)
    return Overlap(
        rows=tuple(rows),
        test_rows=len(test),
        train_rows=len(train),
        counts={kind: counts[kind] for kind in KINDS},
        leaked=leaked,
        share=share_interval(leaked, len(test)),
    )


def _texts(test: Sequence[TextRow], train: Sequence[TextRow]) -> tuple[_Texts, _Texts]:
    prompts = [[words_of(row.prompt) for row in side] for side in (test, train)]
    common = set(chain.from_iterable(common_shingles(side) for side in prompts))
    first, second = (
        _Texts(
            tuple(whole), tuple(without(words, common) for words in whole), tuple(words_of(r.response) for r in side)
        )
        for whole, side in zip(prompts, (test, train), strict=True)
    )
    return first, second


def _strongest(kinds: Sequence[Kind]) -> Iterator[Kind]:
    """`same row` and, of the prompt and of the response, the first: kinds come strongest first."""
    seen = set()
    for kind in kinds:
        side = kind.split()[1]
        if side not in seen:
            seen.add(side)
            yield kind


def _same(test: Sequence[tuple[object, ...]], train: Sequence[tuple[object, ...]]) -> dict[int, _Found]:
    """Test number -> the first training text with the same words, which must be at least one."""
    first: dict[tuple[object, ...], int] = {}
    for number, text in enumerate(train):
        first.setdefault(text, number)
    return {number: _Found(first[text], 1.0) for number, text in enumerate(test) if any(text) and text in first}


def _near(test: Sequence[Words], train: Sequence[Words], threshold: float) -> dict[int, _Found]:
    """Test number -> the most similar training text, where that is similar enough."""
    found: dict[int, _Found] = {}
    for size, shortest, longest in ((SHORT_SHINGLE, FEW_WORDS, LONG_TEXT - 1), (LONG_SHINGLE, LONG_TEXT, math.inf)):
        ours = {n: words for n, words in enumerate(test) if shortest <= len(words) <= longest}
        in_reach = (threshold * shortest, longest / threshold)  # others cannot be similar enough
        theirs = {n: words for n, words in enumerate(train) if ours and in_reach[0] <= len(words) <= in_reach[1]}
        found |= _near_by_shingles(ours, theirs, size, threshold)
    return found


def _near_by_shingles(
    test: Mapping[int, Words], train: Mapping[int, Words], size: int, threshold: float
) -> dict[int, _Found]:
    shingles = {number: set(grams(words, size)) for number, words in test.items()}
    index = MinHashLSH(num_perm=PERMUTATIONS, params=BANDS)
    for number, minhash in zip(shingles, _minhashes(shingles.values()), strict=True):
        index.insert(number, minhash)
    found: dict[int, _Found] = {}
    minhashes = _minhashes(grams(words, size) for words in train.values())
    for (other, words), minhash in zip(train.items(), minhashes, strict=True):
        candidates = index.query(minhash)
        theirs = set(grams(words, size)) if candidates else set()
        for number in candidates:
            ours = shingles[number]
            similarity = len(ours & theirs) / len(ours | theirs)
            if similarity >= threshold and (number not in found or similarity > found[number].similarity):
                found[number] = _Found(other, similarity)
    return found


def _minhashes(shingles: Iterable[Iterable[Words]]) -> Iterator[MinHash]:
    texts = ([" ".join(shingle).encode() for shingle in one] for one in shingles)
    yield from MinHash.generator(texts, num_perm=PERMUTATIONS, seed=SEED)


def _contained(test: Sequence[Words], train: _Texts, threshold: float) -> dict[int, _Found]:
    """Test number -> the training row with most of the text's n-grams, where enough of them are in any training row."""
    own = {
        number: set(grams(words, min(GRAM, len(words)))) for number, words in enumerate(test) if len(words) >= FEW_WORDS
    }
    holders: defaultdict[Words, list[int]] = defaultdict(list)
    sizes: defaultdict[Words, set[int]] = defaultdict(set)
    for number, found in own.items():
        for gram in found:
            holders[gram].append(number)
            sizes[gram[:FEW_WORDS]].add(len(gram))
    seen: set[Words] = set()
    best: dict[int, tuple[int, int]] = {}  # test number -> (n-grams, training row)
    for other, texts in enumerate(zip(train.prompts, train.responses, strict=True)):
        hits = set(chain.from_iterable(_hits(words, sizes, holders) for words in texts))
        seen |= hits
        for number, count in Counter(chain.from_iterable(holders[gram] for gram in hits)).items():
            if number not in best or count > best[number][0]:
                best[number] = count, other
    shares = {number: len(own[number] & seen) / len(own[number]) for number in best}
    return {number: _Found(best[number][1], share) for number, share in shares.items() if share >= threshold}


def _hits(words: Words, sizes: Mapping[Words, set[int]], holders: Mapping[Words, object]) -> Iterator[Words]:
    """The n-grams of `words` that a test text has too. `sizes` says which lengths begin with some words."""
    for start, beginning in enumerate(grams(words, FEW_WORDS)):
        for size in sizes.get(beginning, ()):
            gram = words[start : start + size]
            if gram in holders:
                yield gram
