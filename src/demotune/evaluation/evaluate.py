"""`demotune evaluate`, the story: models and rows, measurements, judges, statistics, tasks, leaks; then files."""

import datetime
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from demotune.common.errors import DemotuneError
from demotune.common.files import write_json
from demotune.common.json_records import as_json, write_records
from demotune.common.machine import command_line, hardware, package_versions
from demotune.common.processes import from_main_process, main_process
from demotune.common.progress import say
from demotune.common.statistics import FEWEST
from demotune.config.evaluation import EvaluationConfig
from demotune.evaluation.annotation.votes import join_votes
from demotune.evaluation.comparisons import Compared, comparison, corrected, win_rate
from demotune.evaluation.eval_set import EvalRow, EvalSet, read_eval_set
from demotune.evaluation.judges.judging import Judged, Panel, ask_judge, ask_rewards, find_judges
from demotune.evaluation.leaks import find_leaks
from demotune.evaluation.measuring import EvalInputs, Measured, PartCache, fill_in, measure
from demotune.evaluation.quantities import Quantity, answer_rewards, quantities, reward_quantities
from demotune.evaluation.subjects import Subject, find_subjects
from demotune.evaluation.tasks.data import check_task_names
from demotune.evaluation.tasks.records import PRESETS, TaskOptions, TaskScores
from demotune.evaluation.tasks.run import evaluate_tasks, refuse_several_processes, write_task_scores
from demotune.runs.evaluation import Comparison, EvaluatedRow, Measure
from demotune.runs.file_names import EVALUATED_ROWS, EVALUATION, LEFT_OUT, PARTS

COSTS = ("seconds", "peak_memory_gib", "scored_tokens", "sampled_tokens")
"""What evaluation.json says of a model beside its name."""
OF_A_JUDGE = ("name", "kind", "hash", "note", "abstained", "order_dependent")
"""What evaluation.json says of a judge; its numbers are in rows.jsonl.gz."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What `evaluate` found."""

    folder: Path
    record: dict[str, Any]
    """What is in evaluation.json."""
    tasks: Mapping[str, TaskScores]
    """Benchmark tasks by model; empty without tasks."""


def evaluate(config: EvaluationConfig) -> Evaluation:
    """Measure `config.model` and its baselines and write the results to `config.output`.

    Raises DemotuneError for anything the user can fix; what was measured before an error or Ctrl-C is kept and used
    by the next command with the same output. Several processes share the work, and all of them must call this.
    """
    config = fill_in(config)
    folder = Path(config.output)
    if folder.exists() and not folder.is_dir():
        raise DemotuneError(f"output {folder} is a file; name a folder for the results with --output")
    subjects = find_subjects(config)
    panel = find_judges(config)
    if config.tasks:
        check_task_names([name for name in config.tasks if name not in PRESETS], also=tuple(PRESETS))
        refuse_several_processes()
    record = _about(config, subjects)
    rows: tuple[EvalRow, ...] = ()
    if config.data:
        rows, found = _on_rows(config, subjects, panel, folder)
        record |= found
    scores = _on_tasks(config, subjects, folder) if config.tasks else {}
    if scores:
        record["tasks"] = {name: {"average": found.average, "missing": found.missing} for name, found in scores.items()}
    record["leaks"] = from_main_process(lambda: find_leaks(config, subjects, rows))
    record = from_main_process(partial(_publish, folder, as_json(record)))
    return Evaluation(folder, record, scores)


def _publish(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Write evaluation.json; people's votes on these answers, from before, join it."""
    write_json(folder / EVALUATION, record)
    return join_votes(folder) or record


def _about(config: EvaluationConfig, subjects: Sequence[Subject]) -> dict[str, Any]:
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command_line(),
        "config": asdict(config),
        "versions": package_versions(),
        "hardware": hardware(),
        "models": [_model_record(subject) for subject in subjects],
        "judges": [],
        "measures": [],
        "comparisons": [],
        "warnings": [],
    }


def _on_rows(
    config: EvaluationConfig, subjects: list[Subject], panel: Panel, folder: Path
) -> tuple[tuple[EvalRow, ...], dict[str, Any]]:
    """The rows, and what was found on them."""
    rows = read_eval_set(config, subjects, folder / LEFT_OUT)
    inputs = EvalInputs(config, tuple(subjects), rows, PartCache(folder / PARTS))
    say(f"{len(rows.rows)} {'preference rows' if rows.preferences else 'demonstrations'}, {len(subjects)} models")
    measured = {subject.name: measure(inputs, subject) for subject in subjects}
    judged = ask_rewards(inputs, panel.rewards, measured)
    judged += [from_main_process(partial(ask_judge, inputs, kind, judge, measured)) for kind, judge in panel.judges]
    found = {name: quantities(one) for name, one in measured.items()}
    of_judges: list[Quantity] = []
    tokens = [(row.demo_tokens, row.rejected_tokens or 0) for row in measured[subjects[0].name].logps]
    for judge in judged:
        if judge.earned is None:
            continue
        if rows.preferences:
            of_judges += reward_quantities(judge.name, judge.earned, tokens)
        for name, rewards in judge.earned.answers.items():
            found[name].append(answer_rewards(judge.name, rewards))
    if main_process():
        write_records(folder / EVALUATED_ROWS, _raw_rows(rows.rows, measured, judged))
    return rows.rows, {
        "data": {
            "sources": list(config.data),
            "hashes": rows.hashes,
            "kind": "preferences" if rows.preferences else "demonstrations",
            "rows": len(rows.rows),
            "left_out": dict(Counter(row.reason for row in rows.left_out)),
            "trained_on_and_kept": len(rows.trained_on),
        },
        "models": [
            _model_record(subject) | {name: getattr(measured[subject.name], name) for name in COSTS}
            for subject in subjects
        ],
        "judges": [{name: getattr(judge, name) for name in OF_A_JUDGE} for judge in judged],
        "measures": [
            *(_measure(name, quantity) for name, of_model in found.items() for quantity in of_model),
            *(_measure(None, quantity) for quantity in of_judges),
        ],
        "comparisons": _comparisons(found, judged),
        "warnings": _warnings(rows, judged, len(subjects)),
    }


def _on_tasks(config: EvaluationConfig, subjects: Sequence[Subject], folder: Path) -> dict[str, TaskScores]:
    options = TaskOptions(
        task_data=tuple(Path(source) for source in config.task_data),
        limit=config.limit,
        few_shots=config.few_shots,
        batch_size=config.batch_size,
        dtype=config.dtype,
    )
    scores: dict[str, TaskScores] = {}
    for subject in subjects:
        scores[subject.name] = evaluate_tasks(subject.folder, config.tasks, options)
        write_task_scores(folder, scores, options)
    return scores


def _model_record(subject: Subject) -> dict[str, Any]:
    return {"name": subject.name, "folder": str(subject.folder), "hash": subject.hash, "role": subject.role, "runs": 1}


def _measure(model: str | None, quantity: Quantity) -> Measure:
    found = quantity.interval() if quantity.items else None
    return Measure(
        measure=quantity.name,
        kind=quantity.kind,
        model=model,
        judge=quantity.judge,
        value=None if found is None else found.value,
        low=None if found is None else found.low,
        high=None if found is None else found.high,
        items=quantity.items,
        unit=quantity.unit,
        higher_is_better=quantity.higher_is_better,
    )


def _comparisons(measured: dict[str, list[Quantity]], judged: Sequence[Judged]) -> list[Comparison]:
    """The model against each baseline; p-values are corrected together by Holm's method."""
    (model, ours), *baselines = measured.items()
    found: list[Comparison] = []
    for baseline, theirs in baselines:
        for quantity, other in zip(ours, theirs, strict=True):
            if (difference := quantity.minus(other)) is not None:
                about = Compared(quantity.name, quantity.kind, quantity.judge, model, baseline)
                found.append(comparison(about, difference))
        for judge in judged:
            verdicts = [verdict for verdict in judge.verdicts.get(baseline, ()) if verdict is not None]
            if verdicts:
                found.append(win_rate(judge.name, model, baseline, verdicts))
    return corrected(found)


def _warnings(rows: EvalSet, judged: Sequence[Judged], models: int) -> list[str]:
    found = [f"{judge.name} is no impartial judge: {judge.note}" for judge in judged if judge.note]
    found += [
        f"{judge.name} abstained from {count} verdicts: {reason}"
        for judge in judged
        for reason, count in judge.abstained.items()
    ]
    if rows.trained_on:
        known = f"{len(rows.trained_on)} of the {len(rows.rows)} rows"
        found.append(f"a model was trained on the prompts of {known}, and they were kept: {LEFT_OUT} names them")
    if len(rows.rows) < FEWEST:
        found.append(f"{len(rows.rows)} rows are too few: an interval or a test of a mean needs {FEWEST}")
    elif len(rows.rows) < 30:
        found.append(f"{len(rows.rows)} rows are few: intervals of so few are rough")
    if models > 1:
        found.append("each model is one run: intervals are over prompts, not over seeds; demotune compare groups seeds")
    return found


def _raw_rows(rows: Sequence[EvalRow], measured: dict[str, Measured], judged: Sequence[Judged]) -> list[EvaluatedRow]:
    model = next(iter(measured))
    return [
        EvaluatedRow(
            key=row.key,
            source=row.demo.source,
            prompt="\n\n".join(f"{message['role']}: {message['content']}" for message in row.demo.prompt),
            demonstration=row.demo.response,
            rejected=row.rejected.response if row.rejected else None,
            models={name: _raw_model(found, number, name, judged) for name, found in measured.items()},
            rewards={judge.name: _raw_reward(judge, number) for judge in judged if judge.earned},
            verdicts={
                judge.name: {f"{model} over {baseline}": of[number] for baseline, of in judge.verdicts.items()}
                for judge in judged
            },
            messages=row.demo.prompt,
        )
        for number, row in enumerate(rows)
    ]


def _raw_model(found: Measured, number: int, name: str, judged: Sequence[Judged]) -> dict[str, Any]:
    logps = found.logps[number]
    raw: dict[str, Any] = {"demo_logp": logps.demo, "demo_tokens": logps.demo_tokens}
    if logps.rejected is not None:
        raw |= {"rejected_logp": logps.rejected, "rejected_tokens": logps.rejected_tokens}
    if found.answers:
        answer = found.answers[number]
        raw |= {
            "sample": answer.text,
            "sample_tokens": len(answer.response.ids),
            "finished": answer.response.finished,
            "sample_logp": answer.logp,
            "rewards": {judge.name: judge.earned.answers[name][number] for judge in judged if judge.earned},
        }
    return raw


def _raw_reward(judge: Judged, number: int) -> dict[str, float | None]:
    if judge.earned is None:
        return {}
    rejected = {"rejected": judge.earned.rejected[number]} if judge.earned.rejected else {}
    return {"demonstration": judge.earned.demo[number]} | rejected
