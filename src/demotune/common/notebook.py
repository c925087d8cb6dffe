"""How a notebook shows a record: a small table of plain text."""

import html
from collections.abc import Iterable, Mapping, Sequence


def facts_table(caption: str, facts: Mapping[str, str]) -> str:
    """HTML of a table with a name and a value in each row."""
    return _table(caption, (_row([name], [value]) for name, value in facts.items()))


def html_table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """HTML of a table with a line of headings."""
    return _table(caption, [_row(heads, ()), *(_row((), cells) for cells in rows)])


def _row(heads: Iterable[str], cells: Iterable[str]) -> str:
    named = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    return f"<tr>{named}{''.join(f'<td>{html.escape(text)}</td>' for text in cells)}</tr>"


def _table(caption: str, rows: Iterable[str]) -> str:
    return f"<table><caption>{html.escape(caption)}</caption>{''.join(rows)}</table>"
