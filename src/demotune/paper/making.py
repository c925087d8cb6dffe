"""What the artefacts share: trials by kind, evaluation that is done once, tests and costs as tables."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from demotune.common.amounts import flops, plural
from demotune.common.statistics import Comparison, holm
from demotune.config.evaluation import EvaluationConfig
from demotune.config.paper import PaperConfig
from demotune.evaluation.compare import START, compare
from demotune.evaluation.evaluate import evaluate
from demotune.evaluation.measuring import fill_in
from demotune.paper.inputs import Inputs
from demotune.paper.plans import start_of, trials_of
from demotune.paper.record import Cell, Chart, Grid, Sample, grid, measured, plain, text
from demotune.paper.sizes import Size
from demotune.report.wording import duration, memory
from demotune.runs.comparison import ComparisonTable, Line
from demotune.runs.evaluation import Evaluation, read_evaluation
from demotune.runs.file_names import EVALUATION
from demotune.runs.run import load_run
from demotune.sweep.trials import Plan, Trial

EVALUATIONS = "evaluations"
TESTED = ("difference [95% interval]", "p", "p corrected", "detectable")
METHODS = {"sft": "SFT", "spin": "SPIN", "irft": "IRFT", "rft": "RFT"}


@dataclass(frozen=True)
class Making:
    """An artefact being made: its trials are finished."""

    config: PaperConfig
    size: Size
    inputs: Inputs
    plan: Plan

    def settings(self, kinds: Iterable[str]) -> list[list[Trial]]:
        """The trials of each setting, in the order of the kinds."""
        return [trials for kind in kinds for trials in trials_of(self.plan, kind, self.size)]

    @property
    def doubts(self) -> tuple[str, ...]:
        """A warning where RFT took policy steps on rewards that may follow noise, as the paper's RFT would."""
        runs = [load_run(trial.folder) for trial in self.plan.trials if trial.config.method == "rft"]
        stages = [stage for run in runs for stage in run.stages]
        doubted = sum(stage.doubt is not None for stage in stages)
        if not doubted:
            return ()
        return (
            f"In {doubted} of {plural(len(stages), 'stage')} of RFT held-out pairs do not show the reward to be better "
            "than chance or than a shortcut such as length. RFT by itself would have taken no policy steps there; "
            "here it took them, as in the paper.",
        )

    @property
    def start_model(self) -> str:
        """What all methods began with."""
        start = start_of(self.plan)
        return self.inputs.model if start is None else str(start.folder)

    def folder(self, name: str) -> Path:
        return self.config.output / EVALUATIONS / name

    def evaluated(self, name: str, **asked: object) -> Evaluation:
        """What `demotune evaluate` with these fields finds; done once."""
        folder = self.folder(name)
        config = EvaluationConfig(output=str(folder), **asked)  # type: ignore[arg-type]
        if (folder / EVALUATION).is_file():
            found = read_evaluation(folder)
            if found.about["config"] == json.loads(json.dumps(asdict(fill_in(config)))):
                return found
        evaluate(config)
        return read_evaluation(folder)

    @property
    def on_preferences(self) -> dict[str, object]:
        """How test pairs are read."""
        return {
            "data": self.inputs.preferences,
            "max_rows": self.size.most_tests,
            "max_length": self.size.common.get("max_length"),
        }

    def compared(self, settings: Sequence[Sequence[Trial]]) -> ComparisonTable:
        """The settings on the test pairs, as `demotune compare --data` does it."""
        runs = [trial.folder for trials in settings for trial in trials]
        folder = str(self.folder("preferences"))
        on = EvaluationConfig(model=str(runs[0]), output=folder, **self.on_preferences)  # type: ignore[arg-type]
        return compare(runs, on=on)

    def leaks_on_preferences(self, settings: Sequence[Sequence[Trial]]) -> tuple[str, ...]:
        """Test pairs like training rows; log-probabilities that `compared` measured are used again."""
        first, *others = [str(trials[0].folder) for trials in settings]
        found = self.evaluated(
            "preferences", model=first, baseline=tuple(others), answers=False, trained_on="leave-out",
            **self.on_preferences,
        )  # fmt: skip
        return leaks_of(found)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What an artefact measured; the rest of its record follows from the command."""

    answer: str
    warnings: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()
    grids: tuple[Grid, ...] = ()
    samples: tuple[Sample, ...] = ()
    rigor: tuple[Grid, ...] = ()
    leaks: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()


@dataclass(frozen=True)
class Artefact:
    """A table or figure of the paper: which trials it needs, what else, and how it is measured."""

    name: str
    title: str
    family: str
    """hh or leaderboard: which model, rows and settings the paper has for it."""
    kinds: tuple[str, ...]
    needs: tuple[str, ...]
    paper: tuple[str, ...]
    measure: Callable[[Making], Found]


def title_of(trial: Trial) -> str:
    """SFT, more of it; IRFT, T = 2; IRFT, T = 2, K = 4."""
    config = trial.config
    if config.method == "sft":
        return "SFT, more of it"
    if config.method == "spin":
        return "SPIN (T = 1)"
    steps = getattr(config, "steps_per_stage", None)
    return f"{METHODS[config.method]}, T = {config.stages}" + ("" if steps is None else f", K = {steps}")


def titles(settings: Sequence[Sequence[Trial]]) -> dict[str, str]:
    """Run folder -> title."""
    return {str(trial.folder): title_of(trial) for trials in settings for trial in trials}


def line_title(line: Line, names: dict[str, str]) -> str:
    return "start: SFT" if line.setting == START else names[line.runs[0]]


def tests_grid(table: ComparisonTable, names: dict[str, str], measures: Mapping[str, str]) -> Grid:
    """Every setting against more SFT and the start, p corrected over the whole comparison.

    `measures` are the quantities that are shown, each with its short name.
    """
    of = {line.setting: line_title(line, names) for line in table.lines}
    shown = [one for measure in measures for one in table.differences if one.measure == measure]
    rows = [
        [text(of[one.setting]), text(of[one.baseline]), text(measures[one.measure]),
         measured(one.found.difference, signed=True), plain(one.found.p), plain(one.p_corrected),
         plain(one.found.smallest)]
        for one in shown
    ]  # fmt: skip
    note = f"{table.prompts} prompts. {_about(len(table.differences), [one.found.test for one in shown])}"
    return grid("Tests", ["setting", "minus", "quantity", *TESTED], rows, texts=3, note=note)


def named_tests_grid(headings: Sequence[str], compared: Sequence[tuple[tuple[str, ...], Comparison]]) -> Grid:
    """Comparisons, each with its cells of text, p corrected over all of them."""
    corrected = holm([one.p for _, one in compared])
    rows = [
        [*map(text, cells), measured(one.difference, signed=True), plain(one.p), plain(p), plain(one.smallest)]
        for (cells, one), p in zip(compared, corrected, strict=True)
    ]
    note = _about(len(compared), [one.test for _, one in compared])
    return grid("Tests", [*headings, *TESTED], rows, texts=len(headings), note=note)


def _about(count: int, tests: Iterable[str]) -> str:
    return (
        f"p corrected by Holm's method over {count} tests. Detectable: the smallest difference that would be found "
        f"four times in five. Test: {'; '.join(dict.fromkeys(tests))}."
    )


def cost_grid(table: ComparisonTable, names: dict[str, str]) -> Grid:
    """What each setting cost, and how that compares with more SFT."""
    lines = [line for line in table.lines if line.cost is not None]
    sft = next((line.cost for line in lines if line.method == "sft"), None)
    rows = []
    for line in lines:
        cost = line.cost
        assert cost is not None
        times = None if sft is None or not sft.flops else cost.flops / sft.flops
        rows.append(
            [text(line_title(line, names)), text(len(line.seeds)), text(f"{cost.steps:,}"),
             text(f"{cost.trained_tokens:,}"), text(f"{cost.forward_tokens:,}"), Cell(flops(cost.flops), cost.flops),
             Cell("–" if times is None else f"{times:.2f}", times), Cell(duration(cost.seconds), cost.seconds),
             Cell(memory(cost.peak_memory_gib), cost.peak_memory_gib)]
        )  # fmt: skip
    headings = [
        "setting",
        "seeds",
        "steps",
        "tokens trained",
        "tokens forward",
        "operations",
        "times SFT's",
        "time",
        "memory",
    ]
    note = (
        "Means over seeds, of memory the largest, without held-out checks. Time depends on what else the machine did. "
        "SFT takes twice the epochs of SPIN and IRFT, whose pairs have two sides: the columns say how near that comes."
    )
    return grid("Cost beside more SFT", headings, rows, note=note)


def leaks_of(found: Evaluation) -> tuple[str, ...]:
    """Every leak; where there is none, that it was looked for."""
    if found.leaks:
        return found.leaks
    searched = [one for one in found.about.get("leaks", ()) if one["searched"]]
    if not searched:
        return ("test data was not looked for in training data: no model here has a known run behind it",)
    rows = ", ".join(dict.fromkeys(f"{one['test']} ({one['test_rows']})" for one in searched))
    models = plural(len({one["model"] for one in searched}), "model")
    return (f"{rows} were looked for in the training data of {models}: none is there, nor one nearly the same",)


def seeds_note(size: Size) -> str:
    if len(size.seeds) == 1:
        return "Single runs: intervals are over prompts, and say nothing about other seeds."
    return f"{len(size.seeds)} seeds: intervals are for new seeds and new prompts; two or three seeds give wide ones."


def kinds_of(artefacts: Sequence[Artefact]) -> list[str]:
    return [kind for artefact in artefacts for kind in artefact.kinds]
