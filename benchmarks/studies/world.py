"""What a study takes place in: a start model, data of each seed, prompts to measure on, and a program that counts."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Part = Literal["train", "validation", "test"]
Example = Mapping[str, str]
"""A prompt with a demonstration, `completion`."""

DEMONSTRATIONS, HELDOUT, PROMPTS = "demonstrations.jsonl", "heldout.jsonl", "prompts.txt"


@dataclass(frozen=True, slots=True)
class World:
    """A task of which the truth is known."""

    name: str
    make_start: Callable[[Path], None]
    """Writes the start model into a new folder."""
    write_data: Callable[[Path, int], None]
    """Writes DEMONSTRATIONS, HELDOUT and PROMPTS of a seed into a folder."""
    questions: Callable[[Part], Sequence[Example]]
    """Prompts of a part with fresh demonstrations, the same for all seeds."""
    gold: Callable[[str, str], Mapping[str, float]]
    """What the program counts in a response to a prompt; "goal" among it."""
    longest: int
    """Most tokens of a response."""
    general: Callable[[Part], Sequence[Example]] | None = None
    """Held-out data of the start model's pretraining, where a study asks what is forgotten."""
    near: Callable[[Part], Sequence[Example]] | None = None
    """Further prompts, like those of the demonstrations, where `questions` are unlike them."""
    data: str = ""
    """Part of the seeds' folder names, where worlds share a start model and differ in their data."""
    bf16: bool = False


def write_examples(file: Path, rows: Iterable[Example]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read_examples(file: Path) -> list[Example]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]
