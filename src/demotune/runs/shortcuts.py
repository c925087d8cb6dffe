"""shortcuts.json: how far surfaces give demonstrations away, stage by stage, and whether the reward does better."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from demotune.common.files import damaged
from demotune.common.json_records import from_file
from demotune.common.statistics import Interval


@dataclass(frozen=True, slots=True)
class Shortcut:
    """What one kind of surface predicts, on prompts that its model was not trained on."""

    name: str
    auc: Interval
    """Chance that a demonstration scores higher than a sample to any prompt (of the same fold); bootstrapped over
    pairs. It has no width where the scores separate all pairs."""
    accuracy: Interval
    """Share of pairs in which the demonstration scores higher than its own sample, a tie is half; Wilson's interval.
    This is the number to hold a reward's accuracy against."""


@dataclass(frozen=True, slots=True)
class RewardVerdict:
    """A reward against the best shortcut, on the same pairs, which the reward was not trained on."""

    verdict: Literal["better than its shortcuts", "no better than its shortcuts"]
    shortcut: str
    """Name of the best one, chosen on all pairs of the audit."""
    pairs: int
    reward_accuracy: Interval
    shortcut_accuracy: Interval
    reward_only: int
    """Pairs that the reward judges better than the shortcut does (a tie is better than wrong)."""
    shortcut_only: int
    """Pairs that the shortcut judges better."""
    p: float
    """Two-sided sign test on these two counts; McNemar's exact test where there are no ties."""
    sentence: str

    @property
    def better(self) -> bool:
        return self.verdict == "better than its shortcuts"

    @property
    def short(self) -> str:
        """No better than length."""
        rival = "its shortcuts together" if self.shortcut == "all together" else self.shortcut
        return f"{'better' if self.better else 'no better'} than {rival}"


@dataclass(frozen=True, slots=True)
class StageShortcuts:
    """The audit of one stage."""

    stage: int
    prompts: int | None
    """None where there were too few to audit."""
    shortcuts: tuple[Shortcut, ...]
    reward: RewardVerdict | None
    """None where the stage kept no rewards of held-out pairs."""


def read_shortcuts(file: Path) -> tuple[StageShortcuts, ...]:
    """Raises DemotuneError where the file is not what was written."""
    try:
        stages = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise damaged(file, str(error)) from None
    return from_file(tuple[StageShortcuts, ...], stages, file)
