"""Journals: rows reach the disk some at a time, and an error costs none of them."""

from collections.abc import Iterator, Mapping

import pytest

from demotune.common import journals
from demotune.common.journals import append_in_turn


class Written:
    """What was appended together."""

    def __init__(self) -> None:
        self.groups: list[list[object]] = []

    def append(self, rows: list[Mapping[str, object]]) -> None:
        self.groups.append([row["row"] for row in rows])


def rows(count: int, error: bool = False) -> Iterator[dict[str, object]]:
    yield from ({"row": row} for row in range(count))
    if error:
        raise KeyboardInterrupt


def test_rows_are_appended_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """37 rows in groups of 16; where a second has passed, at once; what an error leaves over is kept too."""
    monkeypatch.setattr(journals, "SECONDS_UNKEPT", 99.0)
    written = Written()
    append_in_turn(rows(37), written.append)
    assert written.groups == [list(range(16)), list(range(16, 32)), list(range(32, 37))]
    written = Written()
    with pytest.raises(KeyboardInterrupt):
        append_in_turn(rows(18, error=True), written.append)
    assert written.groups == [list(range(16)), [16, 17]]
    monkeypatch.setattr(journals, "SECONDS_UNKEPT", 0.0)
    written = Written()
    append_in_turn(rows(3), written.append)
    assert written.groups == [[0], [1], [2]]
