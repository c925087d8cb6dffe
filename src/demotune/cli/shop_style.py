"""What a program can count in the answers of the quickstart's shop: form, figure, no repetition, two sentences."""

import re
from dataclasses import dataclass

SIGNATURE = "— The Finch desk"
NEXT_STEP = "Next step:"


@dataclass(frozen=True, slots=True)
class Style:
    """What one answer has of the shop's way to write; 92% of the shipped training demonstrations have all four."""

    form: bool
    """It ends with the signature and names one next step."""
    figure: bool
    """It states a price, a time, a count: any digit."""
    plain: bool
    """No three words in a row come twice."""
    full: bool
    """Two sentences or more come before the next step."""

    @property
    def complete(self) -> bool:
        return self.form and self.figure and self.plain and self.full


def style_of(text: str) -> Style:
    """Count it in one answer."""
    text = text.strip()
    body = text.replace(SIGNATURE, "")
    words = re.findall(r"[a-z0-9'£.]+", body.lower())
    threes = list(zip(words, words[1:], words[2:], strict=False))
    return Style(
        form=text.endswith(SIGNATURE) and body.count(NEXT_STEP) == 1,
        figure=bool(re.search(r"\d", body)),
        plain=len(set(threes)) == len(threes),
        full=len(re.findall(r"[.!?](?:\s|$)", text.split(NEXT_STEP)[0])) >= 2,
    )
