"""Facts about a report's own numbers, each of a kind: who asks for one asks for its kind, never for its words."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "seeds",  # how many runs and seeds the numbers come from
    "smallest difference",  # what so many prompts could have shown
    "unfinished",  # a run that has not come to its end
    "scope",  # which questions these files cannot answer
    "abilities",  # what was not measured
    "meaning",  # what the main metric measures and what it does not
    "judge",  # why a judge is not independent
    "bias",  # what favours one side of a comparison
    "cost",  # what the costs leave out
    "many tests",  # how many comparisons were made
    "warning",  # what the evaluation itself warns about, test data found in training data among it
]


@dataclass(frozen=True, slots=True)
class Fact:
    """One sentence of a report."""

    kind: Kind
    text: str
    source: str = ""
    """Name of the evaluation that it is about; empty for facts about runs."""
    judges: tuple[str, ...] = ()
    """The judges that it is about."""


def facts_of(kind: Kind, facts: Iterable[Fact]) -> list[Fact]:
    """Those of one kind, in their order."""
    return [fact for fact in facts if fact.kind == kind]
