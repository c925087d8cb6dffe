"""What a study is: methods and controls with their settings, the rules that choose among settings, and its journal."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks.studies.measuring import Found
from benchmarks.studies.world import Part, World
from demotune.common.journals import Journal, read_journal

RESULTS = Path(__file__).parent.parent / "results"
SEEDS = 8

Role = Literal["start", "control", "method", "oracle"]
"""An oracle knows the truth: it shows headroom and is compared with nothing."""
Setting = Mapping[str, Any]
"""Values that JSON knows. Each study's file says what they mean."""


@dataclass(frozen=True, slots=True)
class Row:
    """One setting of a family, measured on the prompts of one part with one seed: a line of the journal."""

    family: str
    role: Role
    setting: Setting
    seed: int
    part: Part
    measures: Mapping[str, float]
    """Means over prompts; what a family cannot know is left out."""
    seconds: float
    """Processor time of one thread that made the setting, training of everything it stands on included."""
    answers: int
    """Responses that one answer costs when it is used: n for best of n."""
    prompts: int
    samples: int
    """Answers to each prompt."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """What the commands were given, paths left out."""

    @property
    def key(self) -> tuple[str, str, int, str]:
        return self.family, setting_key(self.setting), self.seed, self.part


@dataclass(frozen=True, slots=True)
class Bench:
    """Where one seed of a study works: its folder keeps what was trained, `memo` what this process has computed."""

    world: World
    folder: Path
    seed: int
    part: Part
    samples: int
    most: int = 16
    """Responses drawn once for every n of best of n."""
    memo: dict[Any, Any] = field(default_factory=dict)

    @property
    def start(self) -> Path:
        """The start model, the same for all seeds."""
        return self.folder.parent / "start"

    def remember(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self.memo:
            self.memo[key] = make()
        return self.memo[key]


@dataclass(frozen=True, slots=True)
class Family:
    """A method or a control with all settings that are tried; `measure` makes one and measures it."""

    name: str
    role: Role
    settings: tuple[Setting, ...]
    measure: Callable[[Bench, Setting], Found]


@dataclass(frozen=True, slots=True)
class Rule:
    """How a setting is chosen on validation prompts, for each family and seed: the highest `goal` among those allowed.

    `allows` compares a setting's row with that of the start, same seed and prompts. A family of which no
    setting is allowed with some seed takes no part in this rule's comparisons.
    """

    name: str
    text: str
    goal: str
    allows: Callable[[Row, Row], bool] = lambda row, start: True


@dataclass(frozen=True, slots=True)
class Study:
    """Questions, rules and families; the text stands in the study's file, and in the journal's first commit."""

    name: str
    text: str
    world: World
    families: tuple[Family, ...]
    rules: tuple[Rule, ...]
    quality: str
    """The measure on the picture's vertical axis."""
    shown: tuple[str, ...]
    """Further measures for the table."""
    samples: Mapping[Part, int] = field(default_factory=lambda: {"validation": 1, "test": 4})
    """Answers to each prompt: what chooses among many settings may be rougher than what is reported."""
    most: int = 16
    """The largest n of best of n, for which responses are drawn once."""
    threads: int = 1

    @property
    def journal(self) -> Path:
        return RESULTS / f"{self.name}.jsonl"

    def own(self, rows: Iterable[Row]) -> list[Row]:
        """Rows of settings that stand in the study's file: what is chosen and compared.

        A setting that was tried and then dropped stays in the journal, and in the picture.
        """
        known = {(family.name, setting_key(each)) for family in self.families for each in family.settings}
        return [row for row in rows if (row.family, setting_key(row.setting)) in known]

    @property
    def tried(self) -> int:
        """Settings of all families but the start."""
        return sum(len(family.settings) for family in self.families if family.role != "start")


def setting_key(setting: Setting) -> str:
    return json.dumps(setting, sort_keys=True)


def read_rows(file: Path) -> list[Row]:
    return [Row(**row) for row in read_journal(file)] if file.exists() else []


def append_row(journal: Journal, row: Row) -> None:
    journal.append([asdict(row)])


def choose(rows: Iterable[Row], rule: Rule) -> dict[tuple[str, int], Row]:
    """(family, seed) -> the validation row that the rule takes; of equal ones the first in the journal's order.

    Families without an allowed setting in one seed or more are left out. Rows of the test part play no role.
    """
    known = [row for row in rows if row.part == "validation"]
    starts = {row.seed: row for row in known if row.role == "start"}
    best: dict[tuple[str, int], Row] = {}
    seen: set[tuple[str, int]] = set()
    for row in sorted(known, key=lambda row: (row.family, row.seed, setting_key(row.setting))):
        place = row.family, row.seed
        seen.add(place)
        allowed = row.role == "start" or rule.allows(row, starts[row.seed])
        if allowed and (place not in best or row.measures[rule.goal] > best[place].measures[rule.goal]):
            best[place] = row
    lost = {family for family, _ in seen - best.keys()}
    return {place: row for place, row in best.items() if place[0] not in lost}


def chosen_settings(rows: Sequence[Row], rules: Sequence[Rule], seed: int) -> dict[str, list[Setting]]:
    """What to read test prompts with: the settings of each family that any rule chose with this seed."""
    found: dict[str, dict[str, Setting]] = {}
    for rule in rules:
        for (family, number), row in choose(rows, rule).items():
            if number == seed:
                found.setdefault(family, {})[setting_key(row.setting)] = row.setting
    return {family: list(settings.values()) for family, settings in found.items()}
