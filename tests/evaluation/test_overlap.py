"""Leaks between test and training data: rows made by hand, similarities counted by hand."""

import random

import pytest

from demotune.common.statistics import share_interval
from demotune.evaluation.overlap import KINDS, Match, TextRow, find_overlap, text_rows
from demotune.evaluation.words import words_of
from demotune.records import Demonstration


def words(first: int, count: int) -> str:
    """`count` words that no other range of numbers has."""
    return " ".join(f"w{number}" for number in range(first, first + count))


def row(source: str, prompt: str, response: str = "") -> TextRow:
    return TextRow(source, prompt, response)


def kinds(test: list[TextRow], train: list[TextRow]) -> dict[str, float]:
    """Similarity by kind, for one test row."""
    assert len(test) == 1
    return {match.kind: match.similarity for match in find_overlap(test, train).rows}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello,  WORLD!\n", ("hello", "world")),
        ("ﬁne Ｔｅｘｔ", ("fine", "text")),  # a ligature and full-width letters: NFKC
        ("Straße", ("strasse",)),
        ("«2+2»—what?", ("2+2", "what")),  # signs of arithmetic are no punctuation
        ("今日は good", ("今", "日", "は", "good")),
        ("...", ()),
    ],
)
def test_words(text: str, expected: tuple[str, ...]) -> None:
    assert words_of(text) == expected


def test_the_same_row_after_normalisation() -> None:
    test = [row("t:1", "What is a kettle, exactly?", "A vessel for boiling water.")]
    train = [
        row("a:1", "What is a pot?", "A vessel."),
        row("a:2", "what is a  KETTLE exactly", "a vessel for boiling water"),
        row("a:3", "What is a kettle, exactly?", "A vessel for boiling water."),
    ]
    found = find_overlap(test, train)
    assert found.rows == tuple(Match(kind, "t:1", "a:2", 1.0) for kind in ("same row", "same prompt", "same response"))
    assert found.counts == {kind: float(kind.startswith("same")) for kind in KINDS}
    assert (found.test_rows, found.train_rows, found.leaked) == (1, 3, 1)


def test_prompt_and_response_of_different_rows_are_not_the_same_row() -> None:
    train = [row("a:1", "one two three four five", "x"), row("a:2", "y", "six seven eight nine ten")]
    found = find_overlap([row("t:1", "One two three four five.", "Six seven eight nine ten.")], train)
    assert found.rows == (Match("same prompt", "t:1", "a:1", 1.0), Match("same response", "t:1", "a:2", 1.0))


def test_a_short_response_counts_only_with_its_prompt() -> None:
    assert kinds([row("t:1", "Is it raining?", "Yes, it is.")], [row("a:1", "Are we late?", "Yes it is")]) == {}
    same = kinds([row("t:1", "Late?", "Yes.")], [row("a:1", "late", "yes")])
    assert set(same) == {"same row", "same prompt"}


def test_texts_without_words_are_not_the_same() -> None:
    assert kinds([row("t:1", "...", "!")], [row("a:1", "?", "")]) == {}


def test_near_by_the_true_jaccard_similarity_of_a_long_text() -> None:
    """100 words have 96 shingles of 5; the last word changed leaves 95 of 97 in both."""
    changed = f"{words(0, 99)} other"
    assert kinds([row("t:1", "", words(0, 100))], [row("a:1", "", changed)]) == {
        "near response": pytest.approx(95 / 97)
    }


def test_near_in_a_short_text_uses_pairs_of_words() -> None:
    """19 words have 18 pairs; a word changed in the middle spoils 2: 16 of 20 are in both. Of 18 words: 15 of 19."""
    for count, expected in ((19, {"near prompt": 0.8}), (18, {})):
        text = words(0, count).split()
        changed = " ".join([*text[:9], "other", *text[10:]])
        assert kinds([row("t:1", " ".join(text))], [row("a:1", changed)]) == expected


@pytest.mark.parametrize(("test_words", "train_words"), [(49, 51), (51, 49), (49, 61), (60, 49), (60, 70)])
def test_near_across_the_border_of_long_and_short(test_words: int, train_words: int) -> None:
    """One text begins the other; shingles of 5 in a test text of 50 words or more, else of 2."""
    size = 5 if test_words >= 50 else 2
    lower, higher = sorted((test_words, train_words))
    expected = (lower - size + 1) / (higher - size + 1)
    found = kinds([row("t:1", words(0, test_words))], [row("a:1", words(0, train_words))])
    if expected >= 0.8:
        assert found == {"near prompt": pytest.approx(expected)}
    else:
        assert "near prompt" not in found


def test_what_the_hash_proposes_is_verified() -> None:
    """Jaccard similarity 72/120: MinHash proposes such a pair with probability 1 - (1 - 0.6^4)^32 = 0.99."""
    test = [row(f"t:{n}", "", words(1000 * n, 100)) for n in range(30)]
    train = [row(f"a:{n}", "", f"{words(1000 * n, 76)} {words(1000 * n + 500, 24)}") for n in range(30)]
    found = find_overlap(test, train, near=0.6)
    assert found.counts["near response"] >= 28
    assert {match.similarity for match in found.rows if match.kind == "near response"} == {72 / 120}
    assert find_overlap(test, train).counts["near response"] == 0


def test_the_most_similar_row_is_named_and_of_equal_ones_the_first() -> None:
    train = [row("a:1", f"{words(0, 90)} other"), row("a:2", f"{words(0, 99)} other"), row("a:3", f"x {words(0, 99)}")]
    [match] = find_overlap([row("t:1", words(0, 100))], train).rows
    assert (match.train_source, match.similarity) == ("a:2", pytest.approx(95 / 97))


def test_containment_is_the_share_of_13_grams_anywhere_in_the_training_data() -> None:
    """40 words have 28 13-grams. Pieces of 20 and 18 words hold 8 and 6: a half. One word less is too few."""
    test = [row("t:1", words(0, 40))]
    for last, expected in ((18, {"contained prompt": 0.5}), (17, {})):
        train = [
            row("a:1", f"{words(500, 30)} {words(20, last)}"),
            row("a:2", "", f"{words(600, 30)} {words(0, 20)} {words(700, 30)}"),
        ]
        found = find_overlap(test, train)
        assert {match.kind: match.similarity for match in found.rows} == expected
        assert [match.train_source for match in found.rows] == ["a:2"] * len(expected)


def test_containment_of_a_short_text_is_one_gram_of_all_its_words() -> None:
    train = [row("a:1", "", f"{words(100, 40)} {words(0, 7)} {words(200, 40)}")]
    assert kinds([row("t:1", words(0, 7))], train) == {"contained prompt": 1.0}
    assert kinds([row("t:1", words(0, 8))], train) == {}
    assert kinds([row("t:1", words(0, 4))], train) == {}, "four words agree by chance"


def test_each_text_has_its_strongest_kind_only() -> None:
    train = [row("a:1", words(0, 60), f"{words(100, 60)} other")]
    assert set(kinds([row("t:1", words(0, 60), words(100, 60))], train)) == {"same prompt", "near response"}


def test_a_template_does_not_make_prompts_alike() -> None:
    """Two templates, in front, behind and between: 40 of about 46 words are the template's."""
    test, train = [], []
    for number in range(20):
        question = words(1000 * number, 6)
        before, after = (words(-100, 20), words(-200, 20)) if number % 2 else (words(-300, 30), words(-400, 10))
        test.append(row(f"t:{number}", f"{before} {question} {after}"))
        train.append(row(f"a:{number}", f"{before} {words(1000 * number + 500, 6)} {after}"))
    assert find_overlap(test, train).rows == ()
    train[7] = row("a:7", f"another beginning {words(3000, 6)}")
    [match] = find_overlap(test, train).rows
    assert (match.kind, match.test_source, match.train_source) == ("contained prompt", "t:3", "a:7")


def test_few_rows_have_no_template() -> None:
    test = [row(f"t:{n}", f"{words(0, 60)} x{n}") for n in range(4)]
    train = [row(f"a:{n}", f"{words(0, 60)} y{n}") for n in range(5)]
    assert find_overlap(test, train).counts["near prompt"] == 4


def test_the_interval_is_of_test_rows_with_any_match() -> None:
    test = [row(f"t:{n}", words(100 * n, 20), words(100 * n + 50, 20)) for n in range(10)]
    found = find_overlap(test, [*test[2:4], row("a:9", "", words(550, 20))])
    assert (found.leaked, found.share) == (3, share_interval(3, 10))
    assert (found.counts["same row"], found.counts["same response"]) == (2, 3)


def test_nothing_to_look_in_and_nothing_to_look_for() -> None:
    assert find_overlap([row("t:1", words(0, 20))], []).rows == ()
    with pytest.raises(ValueError, match="no test rows"):
        find_overlap([], [row("a:1", "x")])


def test_near_duplicates_agree_with_comparing_all_pairs() -> None:
    """Random edits of random texts against the naive double loop over shingle sets."""
    rng = random.Random(0)

    def edited(text: list[str]) -> list[str]:
        return [word if rng.random() > 0.03 else f"e{rng.random()}" for word in text]

    originals = [[f"v{rng.randrange(10_000)}" for _ in range(rng.randint(60, 120))] for _ in range(60)]
    test = [row(f"t:{n}", "", " ".join(text)) for n, text in enumerate(originals)]
    train = [row(f"a:{n}", "", " ".join(edited(text))) for n, text in enumerate(originals)]

    def shingles(text: str) -> set[tuple[str, ...]]:
        split = text.replace(".", " ").split()
        return set(zip(split, split[1:], split[2:], split[3:], split[4:], strict=False))

    naive = {}
    for one in test:
        for other in train:
            ours, theirs = shingles(one.response), shingles(other.response)
            similarity = len(ours & theirs) / len(ours | theirs)
            if 0.8 <= similarity < 1:
                naive[one.source] = (other.source, similarity)
    found = {m.test_source: (m.train_source, m.similarity) for m in find_overlap(test, train).rows if "near" in m.kind}
    assert 5 < len(naive) < 55
    assert found == naive


def test_text_of_a_conversation_leaves_system_messages_out() -> None:
    prompt = (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "Tea?"},
    )
    assert text_rows([Demonstration(prompt, "Yes", "rows.jsonl:3")]) == [
        TextRow("rows.jsonl:3", "Hello\nHi\nTea?", "Yes")
    ]
