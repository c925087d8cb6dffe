"""What a reward is besides its weights: `reward.json` in its folder."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from demotune.common.json_records import from_json
from demotune.models.model_folder import read_object, reading
from demotune.models.question import Question

FACTS = "reward.json"


@dataclass(frozen=True, slots=True)
class RewardFacts:
    """Facts about a reward besides its weights, kept in `reward.json`."""

    link: str
    bound: float | None
    """R, when the reward is R * sigmoid(head); None when it is the head itself."""
    template: str | None
    """The prompt template it was trained with; None for the tokenizer's chat template."""
    question: Question | None = None
    """Appended to each response: the head reads the question's last token. None: the response's own."""
    features: Mapping[str, float] = field(default_factory=dict)
    """Named features of a response, each with its weight in the sum that is added to the head's number."""
    answer_after: str | None = None
    """After which text the answer begins that alone it was trained on; None: it reads whole responses."""


def read_facts(folder: Path) -> RewardFacts:
    """The facts of a reward; a model from elsewhere has none and is taken as an unbounded head."""
    file = folder / FACTS
    if not file.is_file():
        return RewardFacts(link="unknown", bound=None, template=None)
    with reading(file, "the facts of a reward", "train the reward again, or copy its folder again"):
        given = read_object(file)
        if unknown := given.keys() - {one.name for one in fields(RewardFacts)}:
            raise ValueError(f"it has {', '.join(sorted(unknown))}, which is not known here")
        facts = from_json(RewardFacts, given)
        if facts.bound is not None and not (math.isfinite(facts.bound) and facts.bound > 0):
            raise ValueError(f"bound must be a number > 0, got {facts.bound}")
    return facts
