"""Rigor questions about test data: disjoint from training data, searched for in it, untouched by choices."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from demotune.report.rigor.evidence import Evidence, Finding, every, file_of, no, tasks_of, yes
from demotune.runs.evaluation import Evaluation
from demotune.runs.run import Run

NO_SEARCH = "no evaluation searched training data for its test data"
SAME = ("same row", "same prompt")

Leak = Mapping[str, Any]


def unseen_rows(evidence: Evidence) -> Finding:
    """No test row or prompt among training rows: by each evaluation's search, and by the keys that runs keep."""
    parts = [_divided(run) for run in evidence.runs if run.result.check.nll_per_token is not None]
    for one in evidence.evaluations:
        parts += _searches(one)
        parts += [
            no(f"{file_of(one)}: leaks: {record['model']}: {kind} {record['counts'][kind]}")
            for record in _leaks(one)
            for kind in SAME
            if record.get("counts", {}).get(kind)
        ]
    return every(parts, "no run held rows out, and no evaluation was given")


def overlap(evidence: Evidence) -> Finding:
    """How many test rows are like training rows, for each model."""
    return every((part for one in evidence.evaluations for part in _searches(one, tasks=False)), NO_SEARCH)


def contamination(evidence: Evidence) -> Finding:
    """How many benchmark items are like training rows, for each model."""
    return every((part for one in evidence.evaluations for part in _searches(one, rows=False)), NO_SEARCH)


def near_duplicates(evidence: Evidence) -> Finding:
    """Test rows by kind of match: near and contained ones too."""
    parts = []
    for one in evidence.evaluations:
        searches = list(_searches(one))
        lacking = [part for part in searches if not part.found]
        counted = [record for record in _leaks(one) if record["searched"] and "counts" in record]
        parts += lacking or [_by_kind(one, record) for record in counted]
        if len(counted) < len(searches) and not lacking:
            parts.append(no(f"{file_of(one)}: leaks: matches are not counted by kind"))
    return every(parts, NO_SEARCH)


def search_method(evidence: Evidence) -> Finding:
    """demotune's own search; the record names kind and similarity of each match."""
    found = every((part for one in evidence.evaluations for part in _searches(one)), NO_SEARCH)
    if not found.found:
        return found
    how = "same, near (MinHash and Jaccard on word shingles) and contained (13 words in a row) texts"
    files = ", ".join(f"{file_of(one)}: leaks" for one in evidence.evaluations)
    return yes(f"{files}: {how}, demotune.evaluation.overlap")


def picked_on_other_rows(evidence: Evidence) -> Finding:
    """The gate picks a stage on held-out rows; an evaluation tests that very model on other data."""
    return every((_picked(run, evidence) for run in evidence.runs), "no run was given")


def _searches(one: Evaluation, *, rows: bool = True, tasks: bool = True) -> Iterator[Finding]:
    """What the search for test rows, for benchmark items, or for both found, model by model."""
    names = tasks_of(one)
    if rows and one.about.get("data"):
        yield from _of_models(one, [record for record in _leaks(one) if record.get("test") not in names])
    if tasks and names:
        yield from _of_models(one, [record for record in _leaks(one) if record.get("test") in names])


def _leaks(one: Evaluation) -> Sequence[Leak]:
    found: Sequence[Leak] = one.about.get("leaks", ())
    return found


def _of_models(one: Evaluation, records: Sequence[Leak]) -> Iterator[Finding]:
    models = {model["name"] for model in one.about.get("models", ())}
    if not models or {record["model"] for record in records} != models:
        yield no(f"{file_of(one)}: leaks: not every model was searched for")
    yield from (_search(one, record) for record in records)


def _search(one: Evaluation, record: Leak) -> Finding:
    what = f"{file_of(one)}: leaks: {record['model']}"
    if not record["searched"]:
        return no(f"{what}: not searched: {record['why']}")
    if gone := record["not_searched"]:
        return no(f"{what}: not searched: {', '.join(gone)}")
    return yes(f"{what}: {record['leaked']} of {record['test_rows']} like one of {record['train_rows']} training rows")


def _by_kind(one: Evaluation, record: Leak) -> Finding:
    kinds = ", ".join(f"{kind} {count}" for kind, count in record["counts"].items()) or "none of any kind"
    return yes(f"{file_of(one)}: leaks: counts: {record['model']}: {kinds}, of {record['test_rows']}")


def _divided(run: Run) -> Finding:
    rows = run.rows if run.files.rows.exists() else ()
    trained, held = ({row.prompt for row in rows if row.heldout is side} for side in (False, True))
    if not trained or not held:
        return no(f"{run.name}/rows.jsonl.gz names no held-out rows beside training rows")
    text = f"{run.name}/rows.jsonl.gz: {len(trained & held)} of {len(held)} held-out prompts are training prompts"
    return Finding(not trained & held, text)


def _picked(run: Run, evidence: Evidence) -> Finding:
    if run.result.check.gate is None:
        return no(f"{run.name}: no gate picked the stage on held-out rows")
    seen = set(run.manifest.data.values())
    for one in evidence.evaluations:
        hashes = set(((one.about.get("data") or {}).get("hashes") or {}).values())
        tested = run.result.model_hash in [model.get("hash") for model in one.about.get("models", ())]
        if run.result.model_hash and tested and hashes and not hashes & seen:
            picked = f"{run.name}/summary.json: best_stage {run.result_stage}, by check.json: gate, on held-out rows"
            return yes(f"{picked}; tested on other data in {file_of(one)}")
    return no(f"{run.name}: the rows that pick its stage also judge it: no evaluation of this model on other data")
