"""Tables 3, 4 and 6: the Open LLM Leaderboard for methods, over T, and over K."""

from collections.abc import Mapping, Sequence
from functools import partial
from statistics import fmean

from demotune.common.files import read_rows
from demotune.common.statistics import Interval, compare_over_seeds, over_seeds
from demotune.evaluation.compare import LIKELIHOOD
from demotune.evaluation.tasks.records import PRESETS
from demotune.paper.figure1 import ACCURACY
from demotune.paper.making import (
    Artefact,
    Found,
    Making,
    cost_grid,
    leaks_of,
    line_title,
    named_tests_grid,
    seeds_note,
    tests_grid,
    title_of,
    titles,
)
from demotune.paper.record import NOT_KNOWN, Cell, Chart, Grid, Point, Series, grid, measured, plain, point, text
from demotune.paper.reported import LEADERBOARD, LEADERBOARD_TASKS, reported_average
from demotune.runs.comparison import ComparisonTable
from demotune.runs.evaluation import Evaluation
from demotune.runs.file_names import TASK_ROWS
from demotune.runs.run import load_run
from demotune.sweep.trials import Trial

PRESET = "open-llm-leaderboard-v1"
METRICS = {task.task: task.metric for task in PRESETS[PRESET]}
TINY_TASK = (
    "At size tiny the six benchmarks are replaced: held-out likelihood and reward accuracy on the shipped rows, and "
    "one task of four choices made of them (the harness's ARC form, no few-shots). Chance is 25%. The numbers mean "
    "nothing."
)

CHOICE = "choice of four"
"""The name of the task that stands for the six."""
Items = dict[str, list[list[float]]]
"""Task -> (seeds, items), 0 to 1."""
Scored = dict[str, tuple[list[str], Items]]
"""Title of a setting -> its leaks, and its items."""


def measure(kinds: Sequence[str], making: Making) -> Found:
    settings = making.settings(kinds)
    names = titles(settings)
    table = making.compared(settings)
    scored = _scores(making, settings)
    tiny = making.config.size == "tiny"
    leaks = making.leaks_on_preferences(settings)
    return Found(
        answer=_answer(scored, settings) if scored else "No benchmark task was run.",
        warnings=(TINY_TASK,) if tiny else (),
        charts=_charts(scored),
        grids=(*((_task_grid(making, settings, scored),) if scored else ()), _stand_in_grid(settings, table, names)),
        rigor=(
            *((_task_tests(scored, settings, tiny=tiny),) if scored else ()),
            tests_grid(table, names, {LIKELIHOOD: "log-likelihood of chosen, nats per token"}),
            cost_grid(table, names),
        ),
        leaks=tuple(dict.fromkeys([*leaks, *(leak for found, _ in scored.values() for leak in found)])),
        limits=(
            "A leaderboard's average hides which task moved; the paper's spread over T is as large as its gain.",
            "What the model before was pretrained on is not searched for benchmark items.",
        ),
    )


def _scores(making: Making, settings: Sequence[Sequence[Trial]]) -> Scored:
    """Title -> leaks, and the scores of all items; the start model first. Each model is scored once, in its own
    folder."""
    if not making.inputs.tasks:
        return {}
    found = {"start: SFT": _of_models(making, {"start": making.start_model})}
    for trials in settings:
        found[title_of(trials[0])] = _of_models(making, {trial.name: str(trial.folder) for trial in trials})
    return found


def _of_models(making: Making, models: Mapping[str, str]) -> tuple[list[str], Items]:
    items: Items = {}
    leaks: list[str] = []
    for name, model in models.items():
        inputs = making.inputs
        found = making.evaluated(
            f"tasks/{name}", model=model, tasks=inputs.tasks, task_data=inputs.task_data, few_shots=inputs.few_shots
        )
        leaks += leaks_of(found)
        for task, values in _items(found).items():
            items.setdefault(task, []).append(values)
    return leaks, items


def _items(found: Evaluation) -> dict[str, list[float]]:
    """Task -> the metric that counts, of each item. MMLU's subjects are one task."""
    values: dict[str, list[float]] = {}
    for row in read_rows(found.folder / TASK_ROWS):
        task = "mmlu" if row["task"].startswith("mmlu") else row["task"]
        if row["metric"] == METRICS.get(task):
            values.setdefault(task, []).append(float(row["value"]))
    return values


def _average(items: Items) -> float | None:
    """Mean over tasks of means over seeds and items, in percent."""
    return 100 * fmean(fmean(map(fmean, seeds)) for seeds in items.values()) if items else None


def _task_grid(making: Making, settings: Sequence[Sequence[Trial]], scored: Scored) -> Grid:
    tiny = making.config.size == "tiny"
    run = {task for _, items in scored.values() for task in items}
    known = [(task, name) for task, name in LEADERBOARD_TASKS.items() if task in run]
    keys = [("start", None), *((trials[0].config.method, trials[0].config.stages) for trials in settings)]
    rows = []
    for (title, (_, items)), (method, stages) in zip(scored.items(), keys, strict=True):
        reported = reported_average(method, stages)
        rows.append(
            [text(title), *(_score(items.get(task)) for task, _ in known), plain(_average(items)),
             Cell(NOT_KNOWN) if reported is None else Cell(f"{reported:.2f}", reported)]
        )  # fmt: skip
    shown = [CHOICE if tiny else name for _, name in known]
    what = "Benchmark tasks" if not tiny else "One task in place of six"
    missing = [name for task, name in LEADERBOARD_TASKS.items() if task not in dict(known)]
    note = f"Percent, with 95% intervals. {seeds_note(making.size)} The paper's: six tasks, zephyr-7b-sft-full."
    if missing and not tiny:
        note += f" Not run here, for their rows were not found: {', '.join(missing)}."
    return grid(what, ["", *shown, "average", "average in the paper"], rows, note=note)


def _score(seeds: list[list[float]] | None) -> Cell:
    if seeds is None:
        return Cell("–")
    found = over_seeds(seeds)
    return measured(Interval(100 * found.value, 100 * found.low, 100 * found.high))


def _stand_in_grid(settings: Sequence[Sequence[Trial]], table: ComparisonTable, names: dict[str, str]) -> Grid:
    """Held-out likelihood, and how often the rewards that the runs learned prefer held-out demonstrations."""
    accuracies = {
        title_of(trials[0]): [
            check.accuracy.value for trial in trials if (check := load_run(trial.folder).result.check.whole_reward)
        ]
        for trials in settings
    }
    rows = []
    for line in table.lines:
        title = line_title(line, names)
        seeds = accuracies.get(title) or []
        shown = f"{fmean(seeds):.0%} ({', '.join(f'{one:.0%}' for one in seeds)})" if seeds else "–"
        rows.append(
            [text(title), measured(line.qualities[LIKELIHOOD]),
             measured(line.qualities[ACCURACY], percent=True) if ACCURACY in line.qualities else Cell("–"),
             Cell(shown, fmean(seeds) if seeds else None),
             Cell("–" if line.rank is None else f"{line.rank:.1f}", line.rank)]
        )  # fmt: skip
    headings = ["", "log-likelihood, nats/token", "prefers chosen", "reward accuracy", "mean rank"]
    note = (
        "Likelihood of chosen sides of the test pairs. Prefers chosen: the policy finds the chosen side likelier. "
        "Reward accuracy: how often the learned reward prefers a held-out demonstration to a sample, mean and by "
        "seed. Rank by likelihood."
    )
    return grid("Held-out likelihood and reward accuracy", headings, rows, note=note)


def _task_tests(scored: Scored, settings: Sequence[Sequence[Trial]], *, tiny: bool) -> Grid:
    """Each setting against more SFT, else the model before, in each task; paired by item."""
    titled = [title_of(trials[0]) for trials in settings]
    baseline = next((title for title in titled if title.startswith("SFT")), next(iter(scored)))
    compared = [
        (
            (title, CHOICE if tiny else LEADERBOARD_TASKS[task]),
            compare_over_seeds(items[task], scored[baseline][1][task]),
        )
        for title, (_, items) in scored.items()
        for task in items
        if title not in (baseline, "start: SFT")
    ]
    return named_tests_grid(["setting", f"task, minus {baseline}"], compared)


def _charts(scored: Scored) -> tuple[Chart, ...]:
    """The averages: an interval where there is one task, whose items are the prompts."""
    series = []
    for title, (_, items) in scored.items():
        if len(items) == 1:
            (seeds,) = items.values()
            found = over_seeds(seeds)
            series.append(Series(title, (point(0, Interval(100 * found.value, 100 * found.low, 100 * found.high)),)))
        elif (average := _average(items)) is not None:
            series.append(Series(title, (Point(0, average, None, None),)))
    return (Chart("intervals", "Average over tasks", "percent", tuple(series), None),) if series else ()


def _answer(scored: Scored, settings: Sequence[Sequence[Trial]]) -> str:
    averages = {title: average for title, (_, items) in scored.items() if (average := _average(items)) is not None}
    irft = {title: average for title, average in averages.items() if title.startswith("IRFT")}
    spread = max(irft.values()) - min(irft.values()) if len(irft) > 1 else None
    shown = ", ".join(f"{title} {average:.1f}" for title, average in averages.items())
    parts = [f"Averages in percent: {shown}"]
    if spread is not None:
        gain = max(irft.values()) - averages["start: SFT"]
        parts.append(f"IRFT's settings spread by {spread:.1f}, the best is {gain:+.1f} from the start")
    return "; ".join(parts) + "."


def _table(name: str, title: str, kinds: tuple[str, ...]) -> Artefact:
    needs = ("model", "data", "preferences", "task_data")
    return Artefact(name, title, "leaderboard", kinds, needs, LEADERBOARD, partial(measure, kinds))


TABLES = (
    _table("table3", "Table 3: the Open LLM Leaderboard, SFT, SPIN and IRFT", ("sft", "spin", "irft")),
    _table("table4", "Table 4: the Open LLM Leaderboard over T, with T times K constant", ("sft", "irft", "stages")),
    _table("table6", "Table 6: the Open LLM Leaderboard over K, with T fixed", ("sft", "irft", "steps")),
)
