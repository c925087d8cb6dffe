"""What people compare: the answers of an evaluated model and of a baseline to one prompt."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from demotune.common.files import hash_of
from demotune.records import Message
from demotune.runs.evaluation import Evaluation
from demotune.runs.folder import written_by_a_run


@dataclass(frozen=True, slots=True)
class ItemName:
    """By which votes find their item; an evaluation that draws other answers has other items."""

    key: str
    baseline: str
    answers: str


@dataclass(frozen=True, slots=True)
class Item:
    """Two answers to one prompt."""

    name: ItemName
    messages: tuple[Message, ...]
    ours: str
    theirs: str

    @property
    def identical(self) -> bool:
        """Nobody is asked about such a pair; it counts as a tie."""
        return self.ours == self.theirs

    def model_is_left(self, seed: int, rater: str) -> bool:
        """On which side the model's answer stands: by chance, and the same whenever this rater comes back."""
        drawn = [seed, rater, self.name.key, self.name.baseline]
        return hashlib.sha256(json.dumps(drawn).encode()).digest()[0] % 2 == 0


@dataclass(frozen=True, slots=True)
class Contest:
    """A model against each baseline; items in the order of the rows, the same for all raters."""

    folder: Path
    model: str
    baselines: tuple[str, ...]
    items: tuple[Item, ...]


def contest_of(evaluation: Evaluation) -> Contest:
    """Without items where the evaluation has no answers of two models. Raises DemotuneError for damaged files."""
    with written_by_a_run(evaluation.folder):
        return _contest_of(evaluation)


def _contest_of(evaluation: Evaluation) -> Contest:
    model, *baselines = [str(one["name"]) for one in evaluation.about.get("models", ())] or [""]
    items = []
    for row in evaluation.rows:
        answers = {name: found["sample"] for name, found in row.models.items() if found.get("sample") is not None}
        messages = row.messages or ({"role": "prompt", "content": row.prompt},)
        for baseline in baselines:
            if model in answers and baseline in answers:
                both = answers[model], answers[baseline]
                name = ItemName(row.key, baseline, hash_of(both)[:16])
                items.append(Item(name, messages, *both))
    return Contest(evaluation.folder, model, tuple(baselines), tuple(items))
