"""Test rows and benchmark items in the training data behind a model: the same, nearly the same, in pieces."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from demotune.config.evaluation import EvaluationConfig
from demotune.evaluation.eval_set import EvalRow
from demotune.evaluation.lineage import runs_behind, training_texts
from demotune.evaluation.overlap import TextRow, find_overlap, text_rows
from demotune.evaluation.subjects import Subject
from demotune.evaluation.tasks.records import TaskOptions
from demotune.evaluation.tasks.run import task_documents


def find_leaks(config: EvaluationConfig, subjects: Sequence[Subject], rows: Sequence[EvalRow]) -> list[dict[str, Any]]:
    """One record per model and kind of test data. A model without a known run cannot be searched: that is said."""
    tested = {"the test rows": text_rows([row.demo for row in rows])} if rows else {}
    if config.tasks:
        options = TaskOptions(task_data=tuple(Path(source) for source in config.task_data), limit=config.limit)
        for task, items in task_documents(config.tasks, options).items():
            tested[task] = [TextRow(f"{task}:{number}", text, "") for number, text in enumerate(items)]
    found = []
    for subject in subjects:
        if not any(runs_behind(subject.folder)):
            found.append({"model": subject.name, "searched": False, "why": "no run of demotune is known behind it"})
            continue
        trained, gone = _trained_on(subject)
        for name, test in tested.items():
            if trained:
                overlap = find_overlap(test, trained).as_record()
                found.append({"model": subject.name, "test": name, "searched": True, **overlap, "not_searched": gone})
            else:
                why = (
                    f"its training data is gone or has changed since: {', '.join(gone)}" if gone else "no row is known"
                )
                found.append({"model": subject.name, "test": name, "searched": False, "why": why})
    return found


def _trained_on(subject: Subject) -> tuple[list[TextRow], list[str]]:
    """The rows behind a model that it was trained on, not those that its runs held out, as far as the runs say."""
    rows, gone = training_texts(subject.folder)
    return text_rows([row for row in rows if subject.trained_on(row.prompt, row.context)]), gone
