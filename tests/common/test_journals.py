"""Journals: rows reach the disk some at a time, an error costs none of them, and they are read again one by one."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

from demotune.common import journals
from demotune.common.journals import Journal, KeptRows, append_in_turn


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


def write(file: Path, numbers: Iterable[int], text: str = "first") -> None:
    Journal(file).append([{"row": number, "text": f"{text} {number}"} for number in numbers])


def test_kept_rows_are_those_of_all_files(tmp_path: Path) -> None:
    """Of a row that is there twice the later one counts, in a file and between files; other lines than whole do not."""
    one, other = tmp_path / "a", tmp_path / "b"
    write(one, [5, 0, 7])
    write(one, [7], "again")
    write(other, [2, 5], "other")
    with other.open("ab") as opened:
        opened.write(b'{"row": 9, "checksum": "00000000"}\n{"row": 11')
    kept = KeptRows([one, other])
    texts = {0: "first 0", 2: "other 2", 5: "other 5", 7: "again 7"}
    assert {row: found["text"] for row, found in kept.items()} == texts
    assert dict(kept[7]) == {"row": 7, "text": "again 7"}
    assert [row in kept for row in (0, 1, 9, 11, 12)] == [True, False, False, False, False]
    with pytest.raises(KeyError):
        kept[9]
    write(one, [12])
    assert 12 not in kept
    assert 12 in KeptRows([one, other])
    assert len(KeptRows([])) == 0


def test_a_journal_is_mended_where_it_is_torn_or_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "journal"
    write(file, range(3))
    whole = file.read_bytes()
    first, second, third = whole.splitlines(keepends=True)
    file.write_bytes(whole + third[:-5])
    Journal(file)
    assert file.read_bytes() == whole
    assert "damaged" not in capsys.readouterr().out
    file.write_bytes(first + second.replace(b"first", b"worst") + third)
    Journal(file)
    assert file.read_bytes() == first + third
    assert "1 damaged line dropped" in capsys.readouterr().out
