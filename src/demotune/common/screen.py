"""Text from data, files and servers on a terminal, without characters that control it."""

import re

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.segment import Segment

_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but newline and tab; line separators; marks that turn the direction; halves of characters."""


def printable(text: str) -> str:
    r"""The text with each control character, and each that cannot be encoded, as its escape: \x1b, \u202e."""
    return _COMMANDS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class Verbatim:
    """Text for a console, unchanged: no markup, no emoji names, no wrapping; tabs stay tabs."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Segment(f"{self._text}\n")


class Screen(Console):
    """A console on which text cannot control the terminal and is never read as markup; a closed pipe is an error."""

    def __init__(self) -> None:
        super().__init__(highlight=False, markup=False, emoji=False)
        self.push_render_hook(_PrintableOnly())

    def on_broken_pipe(self) -> None:
        raise  # noqa: PLE0704 (rich calls this while it handles BrokenPipeError, and would exit with 1 itself)


class _PrintableOnly(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Printable(renderable) for renderable in renderables]


class _Printable:
    def __init__(self, renderable: ConsoleRenderable) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for text, style, control in console.render(self._renderable, options):
            # What rich itself writes to move the cursor stays.
            yield Segment(text, style, control) if control else Segment(printable(text), style)
