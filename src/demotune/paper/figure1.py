"""Figure 1: log π(chosen) − log π(rejected) on test pairs after training on the chosen side alone."""

from demotune.evaluation.compare import LIKELIHOOD, START
from demotune.paper.making import Artefact, Found, Making, cost_grid, line_title, seeds_note, tests_grid, titles
from demotune.paper.record import Chart, Series, grid, measured, point, text
from demotune.paper.reported import FIGURE1
from demotune.runs.comparison import ComparisonTable, Difference

KINDS = ("sft", "spin", "irft", "rft")
GAP, PER_TOKEN, ACCURACY = "gap: log pi(chosen) - log pi(rejected)", "gap per token", "preference accuracy"
QUANTITIES = {
    GAP: "gap, nats", PER_TOKEN: "gap, nats per token", LIKELIHOOD: "log-likelihood of chosen, nats per token",
}  # fmt: skip
SIGN = {"sft": "negative", "irft": "positive", "rft": "positive"}
"""Of the gap in the paper's figure."""
TINY_PAIRS = (
    "At size tiny a pair is no human preference: the rejected side is the answer to the next row's prompt. A model "
    "of random weights, trained for seconds, writes no sentences. These numbers show the way and mean nothing."
)


def measure(making: Making) -> Found:
    settings = making.settings(KINDS)
    names = titles(settings)
    table = making.compared(settings)
    rows = [
        [text(line_title(line, names)), measured(line.qualities[GAP]), measured(line.qualities[PER_TOKEN]),
         measured(line.qualities[ACCURACY], percent=True), text(SIGN.get(line.method or "", "not known to us"))]
        for line in table.lines
    ]  # fmt: skip
    gaps = tuple(Series(line_title(line, names), (point(0, line.qualities[GAP]),)) for line in table.lines)
    changes = tuple(
        Series(line_title(line, names), (point(0, one.found.difference),))
        for line in table.lines
        if (one := difference(table, line.setting, START))
    )
    tiny = making.config.size == "tiny"
    return Found(
        answer=answer(table, names),
        warnings=(TINY_PAIRS,) if tiny else (),
        charts=(
            Chart("intervals", "The gap after training", "nats", gaps, 0.0, "The paper's Figure 1, with intervals."),
            Chart("intervals", "Its change since the start model", "nats", changes, 0.0,
                  "Paired by prompt, so the pairs' own gap is taken out: what the method did."),
        ),
        grids=(
            grid("Gap on preference pairs",
                 ["after", "log π(chosen) − log π(rejected), nats", "nats per token", "accuracy", "sign in the paper"],
                 rows, note=f"{table.prompts} pairs. {seeds_note(making.size)}"),
        ),
        rigor=(tests_grid(table, names, QUANTITIES), cost_grid(table, names)),
        leaks=making.leaks_on_preferences(settings),
        limits=(
            "The gap of whole responses mostly says which of the two is longer; the gap per token does not.",
            "A gap that grows is no better answer: nothing here was read by a person.",
        ),
    )  # fmt: skip


def difference(table: ComparisonTable, setting: str, baseline: str, quantity: str = GAP) -> Difference | None:
    key = (quantity, setting, baseline)
    return next((one for one in table.differences if (one.measure, one.setting, one.baseline) == key), None)


def answer(table: ComparisonTable, names: dict[str, str]) -> str:
    """Which method moved the gap against more SFT, by the corrected p."""
    parts = []
    for line in table.lines:
        if line.method in ("irft", "rft") and (one := difference(table, line.setting, table.baseline)):
            sure = one.p_corrected < 0.05
            moved = "larger" if one.found.difference.value > 0 else "smaller"
            what = f"a {moved} gap than" if sure else "no gap that differs for certain from that of"
            parts.append(
                f"{line_title(line, names)} leaves {what} more SFT "
                f"({measured(one.found.difference, signed=True).text} nats, corrected p = {one.p_text})"
            )
    return "; ".join(parts) + "."


FIGURE = Artefact(
    "figure1",
    "Figure 1: chosen above rejected after training on the chosen side alone",
    "hh",
    KINDS,
    ("model", "data", "preferences", "reward_model"),
    FIGURE1,
    measure,
)
