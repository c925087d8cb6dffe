"""Rigor questions about what was kept: environment, commands, models, prompts, settings, data, items."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, cast

from demotune.common.files import read_json
from demotune.common.json_records import as_json
from demotune.config.evaluation import EvaluationConfig
from demotune.config.field import field_types
from demotune.config.methods import CONFIGS, Method
from demotune.report.public_names import base_name, looks_like_hub_id
from demotune.report.rigor.evidence import NO_FILES, Evidence, Finding, every, file_of, no, yes
from demotune.runs.run import Run

SHA256 = re.compile(r"[0-9a-f]{64}")
LIBRARIES = ("python", "torch", "transformers")


def environment(evidence: Evidence) -> Finding:
    """Versions, hardware, type of the weights and of computing, for each run and evaluation."""
    return every((_environment(file, record) for file, record in _records(evidence)), NO_FILES)


def commands(evidence: Evidence) -> Finding:
    """A demotune command and the version of demotune for each file, and start models that are results or hub ids."""
    parts = [_command(file, record, versions=record.get("versions", {})) for file, record in _records(evidence)]
    if evidence.comparison:
        parts.append(_command(evidence.comparison.name, as_json(evidence.comparison.table), versions=None))
    results = {stage.model_hash for run in evidence.runs for stage in run.stages} - {None}
    parts += [
        no(f"{run.name}/manifest.json: the start model is neither a hub id nor the result of a run given here")
        for run in evidence.runs
        if run.manifest.model not in results and not looks_like_hub_id(str(run.config.get("model")))
    ]
    return every(parts, NO_FILES)


def models_by_hash(evidence: Evidence) -> Finding:
    """SHA-256 of the start model of each run, of each evaluated model, and of each judge that is a model."""
    parts = [_hashed(f"{run.name}/manifest.json: model", run.manifest.model) for run in evidence.runs]
    for one in evidence.evaluations:
        judges = [judge for judge in one.about.get("judges", ()) if judge["kind"] in ("reward", "model")]
        models = [*one.about.get("models", ()), *judges]
        parts += [_hashed(f"{file_of(one)}: {model['name']}", model.get("hash")) for model in models]
    return every(parts, NO_FILES)


def prompts(evidence: Evidence) -> Finding:
    """The template of each run, and of each evaluated model that is neither result nor start model of such a run."""
    parts = [_template(run) for run in evidence.runs]
    ours = {run.result.model_hash for run in evidence.runs}
    ours |= {run.manifest.model for run in evidence.runs if run.config.get("template") is None}
    for one in evidence.evaluations:
        if any(judge["kind"] == "model" for judge in one.about.get("judges", ())):
            parts.append(no(f"{file_of(one)}: the prompt of the judging model is not kept"))
        elif (one.about.get("config") or {}).get("template") is not None:
            parts.append(yes(f"{file_of(one)}: config.template"))
        elif others := [model["name"] for model in one.about.get("models", ()) if model.get("hash") not in ours]:
            parts.append(no(f"{file_of(one)}: the templates of {', '.join(others)} are not kept here"))
    return every(parts, NO_FILES)


def hyperparameters(evidence: Evidence) -> Finding:
    """Every field of the config, automatic values filled in."""
    parts = []
    for run in evidence.runs:
        known = field_types(CONFIGS[cast(Method, run.method)])
        parts.append(_complete(f"{run.name}/run.yaml", run.config, known))
    for one in evidence.evaluations:
        parts.append(_complete(f"{file_of(one)}: config", one.about.get("config") or {}, field_types(EvaluationConfig)))
    return every(parts, NO_FILES)


def filters(evidence: Evidence) -> Finding:
    """Refused rows by reason."""
    parts = []
    for run in evidence.runs:
        file = f"{run.name}/quarantine.jsonl"
        counts = Counter(row.reason for row in run.quarantine)
        there = run.files.quarantine.exists()
        parts.append(yes(f"{file}: {_counts(counts)}") if there else no(f"{file} is missing"))
    parts += [
        yes(f"{file_of(one)}: data.left_out: {_counts(one.about['data']['left_out'])}")
        if "left_out" in one.about["data"]
        else no(f"{file_of(one)}: no count of rows that were left out")
        for one in evidence.evaluations
        if one.about.get("data")
    ]
    return every(parts, NO_FILES)


def raw_results(evidence: Evidence) -> Finding:
    """Numbers for each held-out row of each run, each test row and each task item of each evaluation."""
    parts = [_raw_of_run(run) for run in evidence.runs]
    for one in evidence.evaluations:
        if data := one.about.get("data"):
            there, rows = len(one.rows), data["rows"]
            text = f"{one.name}/rows.jsonl.gz: {there} of {rows} rows"
            parts.append(yes(text) if there == rows else no(text))
        if one.tasks:
            file = f"{one.name}/task-rows.jsonl.gz"
            parts.append(yes(file) if (one.folder / "task-rows.jsonl.gz").exists() else no(f"{file} is missing"))
    return every(parts, NO_FILES)


def row_sources(evidence: Evidence) -> Finding:
    """Sources by hash; of a run with several sources it is not kept which row is whose."""
    parts = []
    for run in evidence.runs:
        file, hashes = f"{run.name}/manifest.json: data", run.manifest.data
        if len(run.config.get("data") or ()) > 1:
            parts.append(no(f"{file}: which of {len(run.config['data'])} sources a training row is from is not kept"))
        else:
            parts += [_hashed(f"{file}: {base_name(source)}", digest) for source, digest in hashes.items()]
            parts += [] if hashes else [no(f"{file} names no source")]
    for one in evidence.evaluations:
        if one.about.get("data"):
            named = sum(bool(row.source) for row in one.rows)
            text = f"{one.name}/rows.jsonl.gz: source of {named} of {one.about['data']['rows']} rows"
            parts.append(yes(text) if named == one.about["data"]["rows"] else no(text))
    return every(parts, NO_FILES)


def pipeline(evidence: Evidence) -> Finding:
    """From data to result: hashes of data, refused rows, hashes of rows, of each phase's input and outputs."""
    parts = [_pipeline(run) for run in evidence.runs]
    for one in evidence.evaluations:
        if data := one.about.get("data"):
            whole = bool(data.get("hashes")) and "left_out" in data and bool(one.rows)
            text = f"{file_of(one)}: data.hashes, data.left_out; then {one.name}/rows.jsonl.gz"
            parts.append(yes(text) if whole else no(f"{text}: not all there"))
    return every(parts, NO_FILES)


def _records(evidence: Evidence) -> list[tuple[str, Mapping[str, Any]]]:
    """(file, what it holds) of everything that a command wrote about itself."""
    return [
        *((f"{run.name}/manifest.json", as_json(run.manifest)) for run in evidence.runs),
        *((file_of(one), one.about) for one in evidence.evaluations),
    ]


def _environment(file: str, record: Mapping[str, Any]) -> Finding:
    versions, hardware, config = (record.get(part) or {} for part in ("versions", "hardware", "config"))
    for library in LIBRARIES:
        if versions.get(library) in (None, "not installed"):
            return no(f"{file}: versions has no {library}")
    if not hardware.get("cpu"):
        return no(f"{file}: hardware is not described")
    if config.get("dtype") is None or config.get("bf16") is None:
        return no(f"{file}: config.dtype and config.bf16 do not both say in which precision it was computed")
    precision = f"weights {config['dtype']}, bf16 {str(config['bf16']).lower()}"
    return yes(f"{file}: torch {versions['torch']}, device {hardware.get('device', 'not named')}, {precision}")


def _command(file: str, record: Mapping[str, Any], versions: Mapping[str, Any] | None) -> Finding:
    """`versions` None: the file is no place for them."""
    command = str(record.get("command") or "")
    if not re.match(r"demotune [a-z]", command):
        return no(f"{file}: no command of demotune is kept")
    if versions is not None and versions.get("demotune") in (None, "not installed"):
        return no(f"{file}: versions does not name the demotune that the command is for")
    return yes(f"{file}: command")


def _hashed(what: str, digest: object) -> Finding:
    if SHA256.fullmatch(str(digest)):
        return yes(f"{what}, sha256 {str(digest)[:12]}…")
    return no(f"{what}: no hash of its content")


def _template(run: Run) -> Finding:
    if run.config.get("template") is not None:
        return yes(f"{run.name}/run.yaml: template")
    model = run.folder / "model"
    if (model / "chat_template.jinja").exists():
        return yes(f"{run.name}/model/chat_template.jinja")
    settings = model / "tokenizer_config.json"
    if settings.exists() and read_json(settings).get("chat_template"):
        return yes(f"{run.name}/model/tokenizer_config.json: chat_template")
    return no(f"{run.name}: neither run.yaml nor model/ holds a template")


def _complete(file: str, config: Mapping[str, Any], known: Mapping[str, Any]) -> Finding:
    if missing := [name for name in known if name not in config]:
        return no(f"{file}: {', '.join(missing[:3])} is not there")
    return yes(f"{file}: all {len(known)} fields")


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in counts.items()) or "no row was left out"


def _raw_of_run(run: Run) -> Finding:
    file = f"{run.name}/stages/{run.result.number:02d}/heldout.jsonl.gz"
    if not run.start or not run.result.heldout:
        return no(f"{file}, or the same rows under the start model, is missing")
    return yes(f"{file}: {len(run.result.heldout)} rows, and stages/00/start.jsonl.gz")


def _pipeline(run: Run) -> Finding:
    """Hashes from end to end: a reader with the same files can see where theirs part from these."""
    steps = [f"{run.name}/manifest.json: data, rows", "quarantine.jsonl"]
    if not run.manifest.data or not run.manifest.rows:
        return no(f"{run.name}/manifest.json: no hashes of data and of rows")
    if not run.files.quarantine.exists():
        return no(f"{run.name}/quarantine.jsonl is missing")
    for stage in run.stages:
        file = f"stages/{stage.number:02d}/state.json"
        if any(not phase.policy or not phase.outputs for phase in stage.phases):
            return no(f"{run.name}/{file}: a phase without hashes of its input and output")
        steps.append(f"{file}: {', '.join(phase.name for phase in stage.phases)}")
    return yes(" → ".join(steps))
