"""The end of a sweep: its record, the comparison of all finished trials, and the page about them."""

from collections.abc import Mapping
from dataclasses import replace

from demotune.common.errors import DemotuneError
from demotune.common.files import write_json
from demotune.common.json_records import as_json
from demotune.common.progress import say
from demotune.conclusion import make_page
from demotune.evaluation.compare import compare, rows_to_compare_on
from demotune.evaluation.show import show_comparison
from demotune.runs.comparison import ComparisonTable
from demotune.runs.file_names import COMPARISON, SWEEP_PAGE
from demotune.sweep.record import Attempts, SweepRecord, write_sweep
from demotune.sweep.trials import Plan


def conclude(plan: Plan, attempts: Mapping[str, Attempts]) -> SweepRecord:
    """Write sweep.json, comparison.json and sweep.html, and show the table."""
    record = write_sweep(plan, attempts)
    table = compare_trials(plan, record)
    if table is not None:
        show_comparison(table)
        folders = [trial.folder for trial in plan.finished]
        page = make_page(folders, plan.folder / SWEEP_PAGE, comparison=plan.folder)
        say(f"Page: {page.resolve().as_uri()}")
    else:
        say(record.sentence)
    for trial in record.unfinished:
        if trial.error is not None:
            say(f"{trial.name} failed: {trial.error}", style="red")
    return record


def compare_trials(plan: Plan, record: SweepRecord) -> ComparisonTable | None:
    """The finished trials side by side, in comparison.json too; None, with the reason said, where that cannot be."""
    folders = tuple(trial.folder for trial in plan.finished)
    if not folders:
        return None
    try:
        found = compare(folders, on=rows_to_compare_on(replace(plan.comparison, runs=folders)))
    except DemotuneError as why:
        say(f"the trials are not compared: {why}", style="yellow")
        return None
    table = replace(found, notes=(record.sentence, *found.notes))
    write_json(plan.folder / COMPARISON, as_json(table))
    return table
