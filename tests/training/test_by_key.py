"""Responses are found by the key of their row."""

from demotune.records import Response
from demotune.training.by_key import ByKey


def test_the_responses_of_a_row_come_in_their_order() -> None:
    """Keys are 64 bits in hexadecimal digits; the rows need not be sorted, nor side by side."""
    rows = ["ffffffffffffffff", "00000000000000a1", "ffffffffffffffff", "0000000000000000", "00000000000000a1"]
    drawn = [(key, Response((number,), number % 2 == 0)) for number, key in enumerate(rows)]
    found = ByKey(iter(drawn))
    assert {key: [one.ids[0] for one in found[key]] for key in rows} == {
        "ffffffffffffffff": [0, 2],
        "00000000000000a1": [1, 4],
        "0000000000000000": [3],
    }
    assert found["00000000000000a1"][1] == Response((4,), finished=True)
    assert list(found["00000000000000a2"]) == []
    assert list(found["00000000000000a2"][:1]) == []
    assert list(ByKey([])["00000000000000a1"]) == []
