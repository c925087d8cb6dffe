"""The kept answers, read: kinds of bad ones, length and end, new prompts, twins in training, the journal's rows."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.studies import letters
from benchmarks.studies.frame import Study, read_rows, setting_key
from benchmarks.studies.items import ITEMS
from benchmarks.studies.overlaps import prompts_of
from benchmarks.studies.run import load_study
from benchmarks.studies.tables import SIZE, size, table
from demotune.common import files
from demotune.common.statistics import compare_over_seeds, compare_paired, mean_interval

REMARK = re.compile(r"<[^>]*>")
"""A token of pretraining that belongs after the end; its text has letters, which the program counts."""
CUT_OFF = 16
"""Letters of a response that was cut off: the most tokens there are, and no end among them."""
STUDY, METHODS, CONTROL = "habit", ("best of n, linear", "RFT, linear reward"), "best of n, log-ratio"
RULE = "as varied"


@dataclass(frozen=True, slots=True)
class Kept:
    """The answers of one family with one seed under a rule."""

    family: str
    rule: str
    seed: int
    setting: Mapping[str, Any]
    samples: int
    measures: Mapping[str, float]
    answers: Sequence[str]
    """`samples` to each prompt, in the prompts' order."""

    def pairs(self, prompts: Sequence[str]) -> list[tuple[str, str]]:
        """Each answer with its prompt."""
        return [(prompts[place // self.samples], answer) for place, answer in enumerate(self.answers)]

    def by_prompt(self, value: Callable[[str, str], float], prompts: Sequence[str]) -> list[float]:
        """(prompts,) the mean of a value over a prompt's answers."""
        values = [value(*pair) for pair in self.pairs(prompts)]
        found: list[float] = np.array(values).reshape(len(prompts), self.samples).mean(axis=1).tolist()
        return found


def kept(file: Path) -> list[Kept]:
    return [Kept(**row) for row in files.read_rows(file)]


def test_prompts(study: Study) -> list[str]:
    return [row["prompt"] for row in study.world.questions("test")]


def goal(prompt: str, answer: str) -> float:
    return letters.gold(prompt, answer)["goal"]


def kind(prompt: str, answer: str) -> str:
    """What is wrong with an answer; the first of the kinds that fits."""
    found = letters.quality(prompt, answer)
    if REMARK.search(answer):
        return "a remark in it"
    if len(answer) >= CUT_OFF:
        return "cut off"
    if not found.habit_free:
        return "habit, and half of the asked or less" if found.asked <= 0.5 else "habit, most of the asked"
    if found.asked <= 0.25:
        return "no habit, a quarter of the asked or less"
    if len(answer) != letters.LENGTH:
        return "another length"
    return "no habit, half of the asked" if found.asked == 0.5 else "good"


KINDS = (
    "good", "no habit, half of the asked", "no habit, a quarter of the asked or less", "habit, most of the asked",
    "habit, and half of the asked or less", "another length", "cut off", "a remark in it",
)  # fmt: skip


def sections() -> list[tuple[str, str, str]]:
    """(title, what the table shows, table), of the habit study's answers and of every study with answers."""
    study = load_study(STUDY)
    rows, prompts = kept(ITEMS / f"{STUDY}.jsonl.gz"), test_prompts(study)
    return [
        (
            "Bad answers, sorted",
            "habit: the kinds of answers to the test prompts, the first kind that fits; means over seeds. *good* shows "
            "no habit and has three or four of the four asked letters. Below: the worst answers of best of n, linear, "
            "as varied.",
            kinds(rows, prompts) + "\n" + worst(rows, prompts),
        ),
        (
            "Length, end and cut-off",
            "habit: every demonstration has 12 letters and ends. How well length alone distinguishes answers from "
            "demonstrations, and what is left of a difference among answers of 12 letters that end. A few answers have "
            "a remark, a token of the start model's pretraining like `<z 3>`, whose letters the program counts too.",
            lengths(rows, prompts),
        ),
        (
            "New prompts as well as new seeds",
            "habit, as varied: the studies' intervals are over seeds, which share test prompts. These cover both.",
            both_ways(rows, prompts),
        ),
        (
            "Prompts with a twin in training",
            "habit, as varied: the difference from the best control on test prompts whose letters are, in another "
            "order, those of a prompt that the seed had for training, and on the others.",
            twins(study, rows, prompts),
        ),
        (
            "Made again",
            "The journals' test rows, made again from the start model on with the same seeds and later code: how many "
            "are equal in every measure to six decimals, and the largest difference of a goal.",
            agreement(),
        ),
    ]


def _groups(rows: Sequence[Kept]) -> dict[tuple[str, str], list[Kept]]:
    found: dict[tuple[str, str], list[Kept]] = {}
    for row in rows:
        found.setdefault((row.rule, row.family), []).append(row)
    return found


def kinds(rows: Sequence[Kept], prompts: Sequence[str]) -> str:
    """Share of each kind, over all seeds, by rule and family."""
    cells = []
    for (rule, family), each in _groups(rows).items():
        counts = Counter(kind(*pair) for row in each for pair in row.pairs(prompts))
        cells.append([f"{rule}: {family}", *(f"{counts[name] / counts.total():.1%}" for name in KINDS)])
    return table(["answers of", *KINDS], cells)


def worst(rows: Sequence[Kept], prompts: Sequence[str]) -> str:
    """Three answers with the lowest goal, of the first seed."""
    (first,) = (row for row in rows if (row.rule, row.family, row.seed) == (RULE, METHODS[0], 0))
    lowest = sorted(first.pairs(prompts), key=lambda pair: goal(*pair))[:3]
    return table(
        ["prompt", "worst answers", "goal", "kind"],
        [
            [f"`{prompt}`", f"`{answer}`", f"{goal(prompt, answer):.2f}", kind(prompt, answer)]
            for prompt, answer in lowest
        ],
    )


def lengths(rows: Sequence[Kept], prompts: Sequence[str]) -> str:
    """Shares of answers by length and end, and the goal of those with 12 letters and an end, by family."""
    cells = []
    for (rule, family), each in _groups(rows).items():
        usual = [fmean(row.by_prompt(lambda _, a: float(len(a) == letters.LENGTH), prompts)) for row in each]
        counts = Counter(kind(*pair) for row in each for pair in row.pairs(prompts))
        of_usual = [_of_usual(row, prompts) for row in each]
        cells.append([
            f"{rule}: {family}", f"{fmean(usual):.1%}",
            *(f"{counts[name] / counts.total():.1%}" for name in ("cut off", "a remark in it")),
            f"{0.5 + (1 - fmean(usual)) / 2:.2f}", mean_interval(of_usual).text(3),
        ])  # fmt: skip
    head = [
        "answers of",
        "12 letters",
        "cut off",
        "a remark in it",
        "AUC of length against demonstrations",
        "goal of 12 letters",
    ]
    return table(head, cells) + "\n" + _less_control(rows, prompts)


def _of_usual(row: Kept, prompts: Sequence[str]) -> float:
    """Mean goal among answers of the demonstrations' length."""
    return fmean(goal(prompt, answer) for prompt, answer in row.pairs(prompts) if len(answer) == letters.LENGTH)


def _without_remarks(row: Kept, prompts: Sequence[str]) -> float:
    """Mean goal of the answers with remarks taken out."""
    return fmean(goal(prompt, REMARK.sub("", answer)) for prompt, answer in row.pairs(prompts))


def _less_control(rows: Sequence[Kept], prompts: Sequence[str]) -> str:
    groups = _groups(rows)
    cells = []
    for words, mean in (("of 12 letters", _of_usual), ("without their remarks", _without_remarks)):
        control = [mean(row, prompts) for row in groups[RULE, CONTROL]]
        for name in METHODS:
            found = compare_paired([mean(row, prompts) for row in groups[RULE, name]], control)
            cells.append([words, f"{name} − {CONTROL}", *size(found)])
    return table(["as varied, among answers", "less", *SIZE], cells)


def both_ways(rows: Sequence[Kept], prompts: Sequence[str]) -> str:
    groups = _groups(rows)
    goals = {name: [row.by_prompt(goal, prompts) for row in groups[RULE, name]] for name in (*METHODS, CONTROL)}
    cells = []
    for name in METHODS:
        found = compare_over_seeds(goals[name], goals[CONTROL])
        cells.append([f"{name} − {CONTROL}", *size(found), f"{found.p:.2g}"])
    return table(["less", *SIZE, "p"], cells)


def twins(study: Study, rows: Sequence[Kept], prompts: Sequence[str]) -> str:
    groups = _groups(rows)
    cells = []
    for name in METHODS:
        sides: dict[bool, list[float]] = {True: [], False: []}
        shares = []
        for one, other in zip(groups[RULE, name], groups[RULE, CONTROL], strict=True):
            known = {"".join(sorted(prompt)) for each in prompts_of(study.world, one.seed) for prompt in each}
            twin = np.array(["".join(sorted(prompt)) in known for prompt in prompts])
            less = np.array(one.by_prompt(goal, prompts)) - np.array(other.by_prompt(goal, prompts))
            shares.append(float(twin.mean()))
            for side in (True, False):
                sides[side].append(float(less[twin == side].mean()))
        cells.append([
            f"{name} − {CONTROL}", f"{fmean(shares):.0%}", mean_interval(sides[True]).text(3),
            mean_interval(sides[False]).text(3),
        ])  # fmt: skip
    return table(["less", "prompts with a twin", "difference with a twin", "without"], cells)


def agreement() -> str:
    cells = []
    for name in (file.name.removesuffix(".jsonl.gz") for file in sorted(ITEMS.glob("*.jsonl.gz"))):
        study = load_study(name)
        journal = {row.key: row.measures for row in read_rows(study.journal)}
        for (rule, family), each in _groups(kept(ITEMS / f"{name}.jsonl.gz")).items():
            pairs = list(_pairs(each, journal))
            equal = sum(one == other for one, other in pairs)
            most = max(abs(one["goal"] - other["goal"]) for one, other in pairs)
            cells.append([f"{name}, {rule}", family, f"{equal} of {len(pairs)}", f"{most:.4f}"])
    return table(["study", "family", "rows equal", "largest difference of a goal"], cells)


def _pairs(each: Sequence[Kept], journal: Mapping[Any, Mapping[str, float]]) -> Iterator[tuple[Any, Any]]:
    for row in each:
        yield row.measures, journal[row.family, setting_key(row.setting), row.seed, "test"]
