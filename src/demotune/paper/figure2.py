"""Figure 2: reward of answers and win rate over SFT by a reward model, over the stages of training."""

from collections.abc import Callable

from demotune.common.statistics import Interval, compare_over_seeds, over_seeds
from demotune.paper.judged import KINDS, OURS, Judged, Key, judge_stages, share_over_seeds, title_of_stage
from demotune.paper.making import METHODS, Artefact, Found, Making, named_tests_grid, seeds_note
from demotune.paper.record import Cell, Chart, Grid, Series, grid, measured, point, text
from demotune.paper.reported import FIGURE2
from demotune.runs.heldout import win

TINY_REWARDS = (
    "At size tiny both reward models are linear on the states of a model with random weights: they show the way, "
    "and are no judges of quality."
)


def measure(making: Making) -> Found:
    judged = judge_stages(making)
    tests = _tests(judged)
    return Found(
        answer=_answer(judged),
        warnings=(*((TINY_REWARDS,) if making.config.size == "tiny" else ()), *judged.warnings),
        charts=tuple(chart for judge in judged.judges for chart in _charts(judged, judge)),
        grids=tuple(_grid(judged, judge, making) for judge in judged.judges),
        rigor=(tests,),
        leaks=judged.leaks,
        limits=(
            "A reward that rises is what was trained for, not quality: the more so by the model that selected the "
            "rows.",
            "The opponent is SFT of twice the epochs of IRFT; against the model before, win rates would be others.",
        ),
    )


def wins(judged: Judged, key: Key, judge: str) -> list[list[float]]:
    """(seeds, prompts): 1, 0.5 or 0 against SFT of the same seed."""
    ours, theirs = judged.rewards(key, judge), judged.rewards(None, judge)
    return [[win(a, b) for a, b in zip(*both, strict=True)] for both in zip(ours, theirs, strict=True)]


def _charts(judged: Judged, judge: str) -> list[Chart]:
    named = judged.names(judge)
    rewards = [_line(judged, method, lambda key: over_seeds(judged.rewards(key, judge))) for method in OURS]
    sft = over_seeds(judged.rewards(None, judge)).value
    rates = [_line(judged, method, lambda key: share_over_seeds(wins(judged, key, judge))) for method in OURS]
    return [
        Chart("lines", f"Reward of answers by {named}", "reward", tuple(rewards), sft,
              "Stage 0 is the model before. The thin line is SFT, more of it."),
        Chart("lines", f"Win rate over SFT by {named}", "share", tuple(rates), 0.5, "The thin line is a tie."),
    ]  # fmt: skip


def _line(judged: Judged, method: str, of: Callable[[Key], Interval]) -> Series:
    keys = [("start", 0), *(key for key in judged.keys if key[0] == method)]
    return Series(METHODS[method], tuple(point(key[1], of(key)) for key in keys))


def _grid(judged: Judged, judge: str, making: Making) -> Grid:
    rows = [[text("SFT, more of it"), measured(over_seeds(judged.rewards(None, judge))), Cell("–"), Cell("–")]]
    for key in judged.keys:
        last = key == max((one for one in judged.keys if one[0] == key[0]), key=lambda one: one[1])
        known = "reaches about 80%" if key[0] == "rft" and last else "not known to us"
        rows.append(
            [text(title_of_stage(key)), measured(over_seeds(judged.rewards(key, judge))),
             measured(share_over_seeds(wins(judged, key, judge)), percent=True), text(known)]
        )  # fmt: skip
    prompts = len(judged.rewards(None, judge)[0])
    headings = ["answers of", "reward", "win rate over SFT", "win rate in the paper"]
    return grid(f"By {judged.names(judge)}", headings, rows, note=f"{prompts} prompts. {seeds_note(making.size)}")


def _tests(judged: Judged) -> Grid:
    """The last stage of each method against SFT, by reward and by wins."""
    compared = []
    for judge in judged.judges:
        for method in OURS:
            keys = [key for key in judged.keys if key[0] == method]
            if keys:
                title, table = title_of_stage(keys[-1]), wins(judged, keys[-1], judge)
                even = [[0.5] * len(row) for row in table]
                rewards = compare_over_seeds(judged.rewards(keys[-1], judge), judged.rewards(None, judge))
                compared.append(((title, judge, "reward"), rewards))
                compared.append(((title, judge, "win rate minus ½"), compare_over_seeds(table, even)))
    return named_tests_grid(["minus SFT, more of it", "judge", "quantity"], compared)


def _answer(judged: Judged) -> str:
    judge, parts = judged.best_judge, []
    for method in OURS:
        keys = [key for key in judged.keys if key[0] == method]
        if keys:
            rate = share_over_seeds(wins(judged, keys[-1], judge))
            ends = f" [{rate.low:.0%}, {rate.high:.0%}]" if rate.known else ""
            parts.append(f"{METHODS[method]} wins against more SFT in {rate.value:.0%}{ends}")
    return f"By {judged.names(judge)}, after the last stage " + "; ".join(parts) + "."


FIGURE = Artefact(
    "figure2",
    "Figure 2: reward and win rate over training",
    "hh",
    KINDS,
    ("model", "data", "preferences", "reward_model"),
    FIGURE2,
    measure,
)
