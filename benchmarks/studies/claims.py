"""The claims of the results page about methods, each as one difference between two families of a study."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks.studies import habit, spin
from benchmarks.studies.analysis import Reading, compare_goals, readings
from benchmarks.studies.frame import Row, Study, read_rows
from benchmarks.studies.run import load_study
from demotune.common.statistics import Comparison, holm


@dataclass(frozen=True, slots=True)
class Claim:
    """`one` less `other`, under a rule of a study."""

    words: str
    study: str
    rule: str
    one: str
    other: str
    alone: str = ""
    """What alone differs, but for settings that each chooses from its grid; empty: more does, so no cause is named."""
    measure: str = "goal"


VARIED, FREELY, SKILLED = "as varied", "freely", "equal skill"
LINEAR, LOG_RATIO = "best of n, linear", "best of n, log-ratio"
RFT, DISTILLED = "RFT, linear reward", "SFT on best of n, linear"
START = "linear, states of the start model"
REWARD = "the reward that chooses"
REWARD_AND_ROWS = f"{REWARD}, and 8 more rows that it is fitted on"
"""SFT's log-ratio saw the 24 demonstrations that were trained on, a linear reward the 8 held-out ones, too."""

CLAIMS = (
    Claim("Where any variety will do, more SFT wins", "habit", FREELY, "SFT", RFT),
    Claim("… over IRFT too", "habit", FREELY, "SFT", "IRFT"),
    Claim("… over SPIN too", "habit", FREELY, "SFT", "SPIN"),
    Claim("As varied, best of n by a linear reward wins", "habit", VARIED, LINEAR, LOG_RATIO, REWARD_AND_ROWS),
    Claim("… over SPIN too", "habit", VARIED, LINEAR, "SPIN"),
    Claim("… over SFT at any rate, passes and temperature", "habit", VARIED, LINEAR, "SFT"),
    Claim("As varied, RFT with it is above the best control", "habit", VARIED, RFT, LOG_RATIO),
    Claim(
        "As varied, SFT on its best of 8 is above SFT on the log-ratio's",
        "habit", VARIED, DISTILLED, "SFT on best of n, log-ratio", REWARD_AND_ROWS,
    ),
    Claim("Choosing is at least as good as RFT, as varied", "habit", VARIED, LINEAR, RFT),
    Claim("… freely", "habit", FREELY, LINEAR, RFT),
    Claim("SFT on the best of 8 is level with RFT", "habit", VARIED, DISTILLED, RFT),
    Claim("That a reward was learned matters", "best_of", VARIED, START, "chance", REWARD),
    Claim("Which states it reads hardly does", "best_of", VARIED, START, "linear, states of SFT", "the states"),
    Claim("… nor against whose samples", "best_of", VARIED, START, "linear, against both", "the samples"),
    Claim("… nor linear or fully trained", "best_of", VARIED, START, "full reward", REWARD),
    Claim(
        "Prompts unlike the demonstrated ones did not help RFT, as varied",
        "distant", VARIED, "RFT, distant prompts", "RFT, near prompts", "the prompts",
    ),
    Claim("… freely", "distant", FREELY, "RFT, distant prompts", "RFT, near prompts", "the prompts"),
    Claim("A reward on thoughts is far above SFT on the answers", "answers", FREELY, "latent reward", "SFT"),
    Claim("… not shown to be above the STaR filter", "answers", FREELY, "latent reward", "STaR filter"),
    Claim("… above it within 5 seconds", "answers", "quick", "latent reward", "STaR filter"),
    Claim("IRFT did not help", "habit", VARIED, "IRFT", LOG_RATIO),
    Claim("RFT with a full reward did not help", "habit", FREELY, "RFT, full reward", "SFT"),
    Claim("At equal skill RFT forgets less", "forgetting_again", SKILLED, RFT, "SFT + KL", measure="kept"),
    Claim("… IRFT more", "forgetting_again", SKILLED, "IRFT", "SFT + KL", measure="kept"),
    Claim("On a real model more SFT does more than RFT", "habit_135m_32", FREELY, "SFT", RFT),
    Claim("… than best of 4 by a linear reward", "habit_135m_32", FREELY, "SFT", LINEAR),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tested:
    claim: Claim
    one: Reading
    other: Reading
    found: Comparison
    corrected_p: float
    """After Holm over all claims."""


def tested() -> list[Tested]:
    """Every claim, paired by seed on test prompts."""
    read = {name: _read(name) for name in dict.fromkeys(claim.study for claim in CLAIMS)}
    sides = [(read[each.study][each.rule][each.one], read[each.study][each.rule][each.other]) for each in CLAIMS]
    found = [compare_goals(*both, claim.measure) for claim, both in zip(CLAIMS, sides, strict=True)]
    ps = holm([each.p for each in found])
    return [Tested(*all_, p) for all_, p in zip(_flat(sides, found), ps, strict=True)]


def _flat(
    sides: Sequence[tuple[Reading, Reading]], found: Sequence[Comparison]
) -> list[tuple[Claim, Reading, Reading, Comparison]]:
    return [(claim, one, other, each) for claim, (one, other), each in zip(CLAIMS, sides, found, strict=True)]


def _read(name: str) -> Mapping[str, Mapping[str, Reading]]:
    """Rule -> family -> its rows."""
    study, rows = with_spin() if name == "habit" else (load_study(name), read_rows(load_study(name).journal))
    return {rule.name: readings(study, rows, rule) for rule in study.rules}


def with_spin() -> tuple[Study, list[Row]]:
    """The habit study with SPIN among its families: both have the same world, seeds and SFT start."""
    (family,) = (each for each in spin.STUDY.families if each.name == "SPIN")
    rows = [row for row in read_rows(spin.STUDY.journal) if row.family == family.name]
    return replace(habit.STUDY, families=(*habit.STUDY.families, family)), read_rows(habit.STUDY.journal) + rows
