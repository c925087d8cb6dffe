"""`demotune compare`: methods and settings side by side, seeds grouped, differences tested, cost beside quality."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from demotune.common.errors import DemotuneError
from demotune.common.files import write_json
from demotune.common.json_records import as_json
from demotune.common.machine import command_line, package_versions
from demotune.common.statistics import Comparison, compare_over_seeds, holm, over_seeds, ranks
from demotune.config.commands import CompareConfig
from demotune.config.evaluation import EvaluationConfig
from demotune.evaluation.eval_set import read_eval_set
from demotune.evaluation.lineage import runs_behind
from demotune.evaluation.measuring import EvalInputs, PartCache, fill_in, measure
from demotune.evaluation.quantities import Quantity, quantities
from demotune.evaluation.subjects import find_subjects
from demotune.runs.comparison import ComparisonTable, Difference, Line
from demotune.runs.costs import Cost
from demotune.runs.file_names import LEFT_OUT, PARTS
from demotune.runs.heldout import HeldoutRow
from demotune.runs.run import Run, load_finished
from demotune.runs.settings import CONTROL_OF, Setting, group

START = "start model"
LIKELIHOOD = "log-likelihood of demonstrations"
COMPARED = (LIKELIHOOD, "gap: log pi(chosen) - log pi(rejected)", "gap per token", "preference accuracy")
"""What is compared, where the rows allow it."""


@dataclass(frozen=True, slots=True)
class Quality:
    """One quantity for one setting: (seeds, prompts), the same prompts everywhere, higher is better."""

    name: str
    unit: str
    values: tuple[tuple[float, ...], ...]


def compare(
    folders: Sequence[Path], *, on: EvaluationConfig | None = None, file: Path | None = None
) -> ComparisonTable:
    """Compare finished runs on their own held-out rows or, with `on`, on the rows that it names; `file` gets the table.

    The baseline is SFT where there is an SFT run, else the start model. Raises DemotuneError for runs that are missing,
    unfinished, or cannot be compared.
    """
    settings = group([load_finished(folder) for folder in folders])
    if on is None:
        found, prompts = _on_heldout(settings)
        rows = f"the {prompts} held-out rows of the runs"
    else:
        found, prompts = _on_data(settings, on)
        names = ", ".join(Path(source).name if Path(source).exists() else source for source in on.data)
        rows = f"{prompts} rows of {names}"
    baseline = next((s.label for s in settings if s.runs[0].method == "sft"), START)
    by_setting = {setting.label: setting for setting in settings}
    ranks_of = _ranks(found, settings)
    lines = tuple(_line(label, qualities, by_setting.get(label), ranks_of) for label, qualities in found.items())
    table = ComparisonTable(
        command=command_line(),
        versions=package_versions(),
        rows=rows,
        prompts=prompts,
        units={quality.name: quality.unit for quality in found[START]},
        baseline=baseline,
        lines=lines,
        differences=_differences(found, baseline),
        notes=_notes(settings, on),
    )
    if file is not None:
        write_json(file, as_json(table))
    return table


def rows_to_compare_on(config: CompareConfig) -> EvaluationConfig | None:
    """The test rows that `demotune compare` is to compare on; None without --data."""
    if not config.data:
        return None
    return EvaluationConfig(
        model=str(config.runs[0]), data=config.data, output=str(config.output), columns=config.columns,
        max_length=config.max_length, max_rows=config.max_rows, batch_size=config.batch_size, bf16=config.bf16,
    )  # fmt: skip


def _line(
    label: str, qualities: Sequence[Quality], setting: Setting | None, ranks_of: tuple[Mapping[str, float], ...]
) -> Line:
    """A setting's line; the start model's where `setting` is None."""
    runs = () if setting is None else setting.runs
    return Line(
        setting=label,
        method=None if setting is None else runs[0].method,
        fields={} if setting is None else dict(setting.fields),
        control_of=None if setting is None else setting.control_of,
        runs=tuple(str(run.folder) for run in runs),
        seeds=tuple(run.seed for run in runs),
        qualities={quality.name: over_seeds(quality.values) for quality in qualities},
        rank=ranks_of[0].get(label),
        best_share=ranks_of[1].get(label),
        cost=mean_cost([run.cost for run in runs]) if runs else None,
    )


def mean_cost(costs: Sequence[Cost]) -> Cost:
    """Means over runs, of memory the largest."""
    return Cost(
        steps=round(fmean(cost.steps for cost in costs)),
        trained_tokens=round(fmean(cost.trained_tokens for cost in costs)),
        forward_tokens=round(fmean(cost.forward_tokens for cost in costs)),
        flops=fmean(cost.flops for cost in costs),
        seconds=fmean(cost.seconds for cost in costs),
        peak_memory_gib=max(cost.peak_memory_gib for cost in costs),
    )


def _on_heldout(settings: Sequence[Setting]) -> tuple[dict[str, list[Quality]], int]:
    """Each setting's likelihood of the rows that all runs held out alike."""
    runs = _runs(settings)
    start = _by_key(runs[0].start)
    results = {run: _by_key(run.result.heldout) for run in runs}
    for run in runs:
        if results[run].keys() != start.keys():
            raise DemotuneError(
                f"{run.folder} and {runs[0].folder} held out different rows; compare them on test rows: --data FILE"
            )
    if not start:
        raise DemotuneError("these runs held nothing out; compare them on test rows: --data FILE")
    if len(start) == 1:
        raise DemotuneError("these runs held one row out, which says nothing; compare them on test rows: --data FILE")
    found = {START: [_per_token([start], start)]}
    for setting in settings:
        found[setting.label] = [_per_token([results[run] for run in setting.runs], start)]
    return found, len(start)


def _by_key(rows: Sequence[HeldoutRow] | None) -> dict[str, HeldoutRow]:
    return {row.key: row for row in rows or ()}


def _per_token(runs: Sequence[Mapping[str, HeldoutRow]], order: Mapping[str, HeldoutRow]) -> Quality:
    """Log-likelihood over mean tokens of a row: its mean over rows is the likelihood per token."""
    mean_tokens = fmean(row.demo_tokens for row in order.values())
    values = tuple(tuple(run[key].demo_logp / mean_tokens for key in order) for run in runs)
    return Quality(LIKELIHOOD, "nats/token", values)


def _on_data(settings: Sequence[Setting], on: EvaluationConfig) -> tuple[dict[str, list[Quality]], int]:
    runs = _runs(settings)
    starts = {run.start_hash: run for run in reversed(runs)}
    if len(starts) > 1:  # the results of other runs, perhaps, which began with one model
        starts = {first.start_hash: first for first in map(_first_run, runs)}
    if len(starts) > 1:
        names = ", ".join(f"{run.folder} from {run.config['model']}" for run in starts.values())
        raise DemotuneError(f"these runs start from different models ({names}); compare runs of one start model")
    templates = {run.config["template"] for run in runs}
    if len(templates) > 1:
        raise DemotuneError(f"these runs have different prompt templates ({templates}); compare runs of one template")
    sources = [str(run.folder) for run in runs]
    ((start_hash, first),) = starts.items()
    start = str(first.config["model"])
    config = replace(fill_in(on), model=start, baseline=tuple(sources), template=templates.pop(), answers=False)
    subjects = find_subjects(config)
    if subjects[0].hash != start_hash:
        raise DemotuneError(f"{start} is not the model that {first.folder} started from any more; put it back")
    rows = read_eval_set(config, subjects, Path(config.output) / LEFT_OUT)
    if len(rows.rows) == 1:
        raise DemotuneError("one row is left to compare on, which says nothing; give more --data")
    inputs = EvalInputs(config, tuple(subjects), rows, PartCache(Path(config.output) / PARTS))
    measured = [_compared(quantities(measure(inputs, subject))) for subject in subjects]
    by_run = dict(zip([START, *sources], measured, strict=True))
    found = {START: _stacked([by_run[START]])}
    for setting in settings:
        found[setting.label] = _stacked([by_run[str(run.folder)] for run in setting.runs])
    return found, len(rows.rows)


def _first_run(run: Run) -> Run:
    """The first of the runs that led to this one."""
    return list(runs_behind(run.folder))[-1]


def _compared(measured: Sequence[Quantity]) -> list[Quality]:
    """The quantities of one model that are compared."""
    found = []
    for quantity in measured:
        if quantity.name in COMPARED and None not in quantity.values:
            scale = fmean(quantity.weights) if quantity.weights else 1.0
            values = tuple(float(value or 0.0) / scale for value in quantity.values)
            found.append(Quality(quantity.name, quantity.unit, (values,)))
    return found


def _stacked(runs: Sequence[Sequence[Quality]]) -> list[Quality]:
    """Quantities of several seeds as one."""
    return [
        Quality(same[0].name, same[0].unit, tuple(values for quality in same for values in quality.values))
        for same in zip(*runs, strict=True)
    ]


def _differences(found: Mapping[str, Sequence[Quality]], baseline: str) -> tuple[Difference, ...]:
    """Every setting against its own control, the baseline and the start model, in every quantity."""
    pairs = [
        (label, other)
        for label in found
        for other in dict.fromkeys((CONTROL_OF + label, baseline, START))
        if label != START and other in found and other != label
    ]
    compared = [
        (quality.name, label, other, _compare(quality, against, other))
        for label, other in pairs
        for quality, against in zip(found[label], found[other], strict=True)
    ]
    corrected = holm([comparison.p for *_, comparison in compared])
    return tuple(Difference(*row, p) for row, p in zip(compared, corrected, strict=True))


def _compare(quality: Quality, against: Quality, other: str) -> Comparison:
    # The start model is the same in every seed: it is there as often, and varies not at all.
    values = against.values * len(quality.values) if other == START else against.values
    return compare_over_seeds(quality.values, values)


def _ranks(
    found: Mapping[str, Sequence[Quality]], settings: Sequence[Setting]
) -> tuple[dict[str, float], dict[str, float]]:
    """Mean rank and share of first places by setting, where all settings have the same seeds."""
    seeds = {tuple(sorted(run.seed for run in setting.runs)) for setting in settings}
    if len(settings) < 2 or len(seeds) > 1:
        return {}, {}
    scores = {}
    for setting in settings:
        order = sorted(range(len(setting.runs)), key=lambda number: setting.runs[number].seed)
        values = found[setting.label][0].values
        scores[setting.label] = [fmean(values[number]) for number in order]
    placed = ranks(scores)
    return placed.mean, placed.best_share


def _notes(settings: Sequence[Setting], on: EvaluationConfig | None) -> tuple[str, ...]:
    notes = []
    single = [setting.label for setting in settings if len(setting.runs) == 1]
    if single:
        notes.append(f"single runs, which say nothing about other seeds: {', '.join(single)}")
    if on is None:
        notes.append("the held-out rows also chose each run's best stage, which flatters methods with several stages")
    runs = _runs(settings)
    if not any(run.method == "sft" for run in runs):
        notes.append("no SFT run of equal cost is here: --control sft trains one for each run")
    if len({run.start_hash for run in runs}) > 1:
        notes.append(f"the runs start from different models: the start model of the table is that of {runs[0].folder}")
    if differing := _different_work(settings):
        notes.append(differing)
    return tuple(notes)


def _different_work(settings: Sequence[Setting]) -> str | None:
    costs = {setting.label: mean_cost([run.cost for run in setting.runs]).flops for setting in settings}
    known = {label: operations for label, operations in costs.items() if operations}
    if len(known) < 2 or max(known.values()) <= 1.1 * min(known.values()):
        return None
    least, most = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
    return f"{most} took {known[most] / known[least]:.1f} times the operations of {least}: not equal compute"


def _runs(settings: Sequence[Setting]) -> list[Run]:
    return [run for setting in settings for run in setting.runs]
