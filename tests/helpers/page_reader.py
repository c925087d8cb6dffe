"""A report page, and a table of a notebook, as tests read them."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any


class Page(HTMLParser):
    """Text of a page outside scripts and styles, how often each element occurs, and the embedded data."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.text, self.elements, self.attributes, self.scripts = "", dict[str, int](), list[tuple[str, str]](), [""]
        self._raw = ""
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] = self.elements.get(tag, 0) + 1
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag in ("script", "style"):
            self._raw = tag
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._raw = "" if tag == self._raw else self._raw

    def handle_data(self, data: str) -> None:
        if self._raw == "script":
            self.scripts[-1] += data
        elif not self._raw:
            self.text += data

    @property
    def data(self) -> Any:
        return json.loads(next(script for script in self.scripts if script.startswith("{")))


class Cells(HTMLParser):
    """The texts of a table, and its tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
