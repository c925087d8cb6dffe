"""What a run leaves beside its model: the shortcut audit, the report page, the model card."""

from collections.abc import Sequence
from pathlib import Path

from demotune.common.errors import DemotuneError
from demotune.common.files import publish_file, write_json
from demotune.common.json_records import as_json
from demotune.common.progress import say
from demotune.report import build_report
from demotune.report.answer import answer_sentence, headline
from demotune.report.comparison_text import comparison_of
from demotune.report.model_card import model_card
from demotune.report.rigor.card import rigor_card, write_card
from demotune.runs.comparison import ComparisonTable, read_comparison
from demotune.runs.evaluation import read_evaluation
from demotune.runs.file_names import CARD, COMPARISON, MODEL, MODEL_CARD, SHORTCUTS, stage_title
from demotune.runs.run import read_runs
from demotune.runs.shortcuts import StageShortcuts


def conclude(run: Path) -> None:
    """Write shortcuts.json, card.json, model/README.md and report.html of a finished run, and say what they say."""
    verdicts = _audit(run)
    answers = rigor_card([run])
    write_card(run / CARD, answers)
    with publish_file(run / MODEL / MODEL_CARD) as unfinished:
        unfinished.write_text(model_card(run), encoding="utf-8")
    page = build_report([run], rigor=answers)
    for sentence in verdicts:
        say(sentence)
    _say_answer(page, [run])


def write_page(
    runs: Sequence[Path], output: Path | None, *, evaluations: Sequence[Path] = (), comparison: Path | None = None
) -> Path:
    """`demotune report`: the page, its first sentence and its address on the screen."""
    page = make_page(runs, output, evaluations=evaluations, comparison=comparison)
    _say_answer(page, runs, evaluations)
    return page


def _say_answer(page: Path, runs: Sequence[Path], evaluations: Sequence[Path] = ()) -> None:
    found, judged = read_runs(list(runs)), [read_evaluation(folder) for folder in evaluations]
    for run in found:
        if not run.finished:
            say(f"{run.folder} is not finished: what follows is about its stages so far", style="yellow")
    say(f"{headline(found, judged)}. {answer_sentence(found, judged)}")
    say(f"Report: {page.resolve().as_uri()}")


def make_page(
    runs: Sequence[Path], output: Path | None, *, evaluations: Sequence[Path] = (), comparison: Path | None = None
) -> Path:
    """The page, and card.json beside it.

    `comparison` is a folder of `demotune compare`; without one, several finished runs are compared on the rows that
    they held out. Raises DemotuneError where a folder holds no run, no evaluation or no comparison.
    """
    compared = None
    if comparison is not None:
        compared = comparison / COMPARISON, read_comparison(comparison)
    elif len(runs) > 1 and output is not None:
        compared = _compare_here(runs, output.with_name(f"{output.stem}-{COMPARISON}"))
    file, table = compared or (None, None)
    answers = rigor_card(runs, evaluations, file)
    shown = None if table is None else comparison_of(table)
    page = build_report(runs, output, evaluations=evaluations, rigor=answers, comparison=shown)
    write_card(page.with_name(CARD), answers)
    return page


def _compare_here(runs: Sequence[Path], file: Path) -> tuple[Path, ComparisonTable] | None:
    """Compare and keep the table; runs that are unfinished, or held out rows of their own, are not compared."""
    from demotune.evaluation.compare import compare  # noqa: PLC0415 (imports torch: a page of one run does without it)

    try:
        return file, compare(runs, file=file)
    except DemotuneError as why:
        say(f"The runs are not compared: {why}", style="yellow")
        return None


def _audit(run: Path) -> list[str]:
    """How far surfaces alone give demonstrations away, stage by stage, kept; a sentence for each reward."""
    from demotune.rewards.shortcuts import audit_run  # noqa: PLC0415 (slow: a page reads what it wrote)

    found = [
        StageShortcuts(stage, audit.prompts if audit else None, audit.shortcuts if audit else (), reward)
        for stage, audit, reward in audit_run(run)
    ]
    if found:
        write_json(run / SHORTCUTS, as_json(found))
    return [f"{stage_title(one.stage)}: {one.reward.sentence}" for one in found if one.reward is not None]
