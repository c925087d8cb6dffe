"""Views of other sequences: what they show is what the others hold, and nothing is computed before it is asked for."""

import itertools
import random

import pytest

from demotune.common.sequences import Joined, Mapped


def test_joined_sequences_are_one() -> None:
    whole = [*range(10)]
    for cuts in ([], [0], [10], [3, 3], [2, 5, 9]):
        borders = [0, *cuts, 10]
        joined = Joined(*(whole[start:end] for start, end in itertools.pairwise(borders)))
        assert len(joined) == 10
        assert list(joined) == whole
        assert [joined[place] for place in range(-10, 10)] == whole + whole
        assert list(joined[2:9:3]) == whole[2:9:3]
        assert list(joined[4:][1:3]) == [5, 6]
        with pytest.raises(IndexError):
            joined[10]
    assert list(Joined[int]()) == []
    assert not Joined([], [])


def test_mapped_rows_are_computed_when_they_are_asked_for() -> None:
    asked: list[int] = []

    def square(row: int) -> int:
        asked.append(row)
        return row * row

    squares = Mapped(square, range(1, 7))
    assert len(squares) == 6
    assert asked == []
    assert squares[-1] == 36
    assert list(squares[1:5:2]) == [4, 16]
    assert asked == [6, 2, 4]


def test_python_draws_from_them() -> None:
    """`random.sample` takes them for what they show."""
    joined = Joined([0, 1, 2], Mapped(lambda row: row + 3, range(5)))
    assert random.Random(0).sample(joined, 4) == random.Random(0).sample([*range(8)], 4)
