"""Table 5: answers of SFT and of the other methods to the same prompts, the best and the worst by one rule."""

from demotune.common.statistics import over_seeds
from demotune.paper.figure2 import TINY_REWARDS
from demotune.paper.judged import KINDS, OURS, Judged, Key, judge_stages, share_over_seeds
from demotune.paper.making import METHODS, Artefact, Found, Making
from demotune.paper.record import NOT_KNOWN, Cell, Grid, Sample, grid, measured, text
from demotune.paper.reported import TABLE5

SHOWN = 3
"""So many of the best, and as many of the worst."""


def measure(making: Making) -> Found:
    judged = judge_stages(making)
    last = {method: keys[-1] for method in OURS if (keys := [key for key in judged.keys if key[0] == method])}
    judge = judged.names(judged.best_judge)
    rule = (
        f"Gain: the reward of the method's answer minus that of SFT's to the same prompt, by {judge}. Of all test "
        f"prompts of the first seed the {SHOWN} with the largest gain and the {SHOWN} with the smallest are shown; "
        "of equal gains the one that comes first in the data. Nobody chose them by hand."
    )
    return Found(
        answer=_answer(judged, last),
        warnings=(*((TINY_REWARDS,) if making.config.size == "tiny" else ()), *judged.warnings),
        grids=(_gains(judged, last, rule),),
        samples=tuple(sample for method, key in last.items() for sample in samples_of(judged, method, key)),
        leaks=judged.leaks,
        limits=(
            "Single answers show what can happen, not how often; the table above says how often.",
            "Each answer is one sample at temperature 1; another draw gives another text.",
        ),
    )


def _gain(judged: Judged, key: Key) -> list[list[float]]:
    ours, theirs = judged.rewards(key, judged.best_judge), judged.rewards(None, judged.best_judge)
    return [[a - b for a, b in zip(*both, strict=True)] for both in zip(ours, theirs, strict=True)]


def _gains(judged: Judged, last: dict[str, Key], rule: str) -> Grid:
    rows = []
    for method, key in last.items():
        gains = _gain(judged, key)
        better = [[float(gain > 0) for gain in seed] for seed in gains]
        rows.append(
            [text(METHODS[method]), measured(over_seeds(gains), signed=True),
             measured(share_over_seeds(better), percent=True), Cell(NOT_KNOWN)]
        )  # fmt: skip
    headings = ["method", "mean gain over SFT", "answers with a gain", "in the paper"]
    return grid("How the answers below were chosen", headings, rows, note=rule)


def samples_of(judged: Judged, method: str, key: Key) -> list[Sample]:
    """The best, then the worst, of the first seed."""
    seed, judge = judged.seeds[0], judged.best_judge
    found = []
    for place, row in enumerate(seed.evaluation.rows):
        rewards = tuple(seed.reward(row, name, judge) for name in (seed.sft, seed.stages[key]))
        if None not in rewards:
            found.append(((rewards[1] or 0.0) - (rewards[0] or 0.0), place, row, rewards))
    best = sorted(found, key=lambda one: (-one[0], one[1]))[:SHOWN]
    worst = sorted(found, key=lambda one: (one[0], one[1]))[:SHOWN]
    return [
        Sample(
            rule=f"{METHODS[method]}: {word} {rank} of {len(found)}, gain {gain:+.3g}",
            prompt=row.prompt,
            demonstration=row.demonstration,
            names=("SFT, more of it", METHODS[method]),
            answers=(_answer_of(row.models[seed.sft]), _answer_of(row.models[seed.stages[key]])),
            rewards=tuple(float(reward or 0.0) for reward in rewards),
        )
        for word, ranked in (("best", best), ("worst", worst))
        for rank, (gain, _, row, rewards) in enumerate(ranked, start=1)
    ]


def _answer_of(model: object) -> str:
    assert isinstance(model, dict)
    return str(model["sample"]) + ("" if model["finished"] else " …")


def _answer(judged: Judged, last: dict[str, Key]) -> str:
    parts = [
        f"{METHODS[method]} {measured(over_seeds(_gain(judged, key)), signed=True).text}"
        for method, key in last.items()
    ]
    return f"Mean gain in reward over more SFT, by {judged.names(judged.best_judge)}: {', '.join(parts)}."


TABLE = Artefact(
    "table5",
    "Table 5: answers of SFT and of the other methods",
    "hh",
    KINDS,
    ("model", "data", "preferences", "reward_model"),
    TABLE5,
    measure,
)
