"""Which pairs can teach, and which rows are sampled again."""

from demotune.records import Pair, Response
from demotune.rewards.pair_selection import add_samples, missing_samples, select_pairs


def pair(key: str, sample: int, demo: int = 1) -> Pair:
    """Responses of one token each."""
    return Pair(key, (9,), Response((demo,), True), Response((sample,), True, logps=(-0.5,)))


def test_pairs_whose_sides_are_equal_are_dropped_and_counted() -> None:
    found = select_pairs([pair("a", 1), pair("a", 2), pair("b", 1), pair("b", 1), pair("c", 3)])
    assert [(kept.key, kept.sample.ids) for kept in found.pairs] == [("a", (2,)), ("c", (3,))]
    assert found.equal == 3
    assert found.equal_share == 3 / 5


def test_no_pairs_have_no_equal_ones() -> None:
    assert select_pairs([]).equal_share == 0


def test_a_beginning_of_the_demonstration_is_another_response() -> None:
    cut = Pair("a", (9,), Response((1, 2), True), Response((1,), False))
    assert select_pairs([cut]).pairs == (cut,)


def test_rows_that_lack_differing_samples_are_sampled_again() -> None:
    """Two wanted: a has one, b none, c two, d three."""
    pairs = [pair("a", 1), pair("a", 2), pair("b", 1), pair("c", 3), pair("c", 3), *(pair("d", n) for n in (2, 3, 4))]
    assert missing_samples(pairs, 2) == {"a": 1, "b": 2}
    assert missing_samples([], 2) == {}


def test_new_samples_fill_up_what_was_equal() -> None:
    pairs = [pair("a", 1), pair("b", 2), pair("a", 5), pair("c", 1)]
    again = {"a": [pair("a", 1), pair("a", 6), pair("a", 7)], "c": [pair("c", 1)]}
    found = add_samples(pairs, again, 2)
    assert [(kept.key, kept.sample.ids) for kept in found] == [("a", (5,)), ("a", (6,)), ("b", (2,))]
    assert missing_samples(found, 2) == {"b": 1}
