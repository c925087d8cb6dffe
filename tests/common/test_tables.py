"""Tables on the screen: no digit is lost, however narrow the terminal."""

import pytest

from demotune.common.progress import console, show_table

HEADINGS = ("", "runs", "log-probability of demonstrations", "less its own control", "p")
ROWS = [
    ("irft beta=0.1 link=logistic", "3", "−1.2345 [−1.3000, −1.2000]", "+0.0231 [−0.1000, +0.2000]", "0.012"),
    ("sft", "3", "−1.2222 (too few rows to tell)", "", ""),
]


@pytest.mark.parametrize("width", [40, 60, *range(76, 110), 160])
def test_every_cell_is_whole_at_every_width(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    console.width = width
    try:
        show_table("a table", HEADINGS, ROWS)
    finally:
        console.width = None  # type: ignore[assignment]
    shown = capsys.readouterr().out
    assert "…" not in shown
    for row in ROWS:
        assert all(cell in shown for cell in row[1:]), shown
    assert max(map(len, shown.splitlines())) <= width


def test_a_wide_terminal_shows_a_row_in_a_line_and_a_narrow_one_a_cell_in_a_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for width in (160, 60):
        console.width = width
        show_table(None, HEADINGS, ROWS)
    console.width = None  # type: ignore[assignment]
    wide, narrow = capsys.readouterr().out.split("irft beta=0.1")[1:]
    assert "0.012" in wide.splitlines()[0]
    assert narrow.splitlines()[0].strip() in ("", "link=logistic")
    assert [line.split() for line in narrow.splitlines() if line.strip().startswith("p ")] == [["p", "0.012"]]


def test_headings_are_broken_only_where_the_terminal_is_too_narrow_for_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for width in (160, 110):
        console.width = width
        show_table(None, HEADINGS, ROWS)
        assert ("log-probability of demonstrations" in capsys.readouterr().out) == (width == 160)
    console.width = None  # type: ignore[assignment]
