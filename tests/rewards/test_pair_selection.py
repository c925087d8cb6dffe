"""Which pairs can teach a reward."""

from demotune.records import Pair, Response
from demotune.rewards.pair_selection import select_pairs


def pair(key: str, sample: int, demo: int = 1) -> Pair:
    """Responses of one token each."""
    return Pair(key, (9,), Response((demo,), True), Response((sample,), True, logps=(-0.5,)))


def test_pairs_whose_sides_are_equal_are_dropped_and_counted() -> None:
    found = select_pairs([pair("a", 1), pair("a", 2), pair("b", 1), pair("b", 1), pair("c", 3)])
    assert [(kept.key, kept.sample.ids) for kept in found.pairs] == [("a", (2,)), ("c", (3,))]
    assert found.equal == 3
    assert select_pairs([]).equal == 0


def test_a_beginning_of_the_demonstration_is_another_response() -> None:
    cut = Pair("a", (9,), Response((1, 2), True), Response((1,), False))
    assert select_pairs([cut]).pairs == (cut,)
