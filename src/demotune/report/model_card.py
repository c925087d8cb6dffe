"""The model card of a finished run, README.md of its model folder, as model hubs read it.

Names of users' files and folders appear as their last part, hub ids unchanged; all of it is text, never markup.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import yaml
from jinja2 import Environment, StrictUndefined

from demotune.common.amounts import plural
from demotune.common.errors import DemotuneError
from demotune.common.files import read_json, shipped_text
from demotune.config.methods import CONFIGS, Method
from demotune.report.gains import gain_of
from demotune.report.limits import limits
from demotune.report.markdown import bullets, code, longest_backticks, plain, table
from demotune.report.public_names import looks_like_hub_id, public_command, public_name, without_paths
from demotune.report.settings import own_fields
from demotune.report.tables import comparisons_table, measures_table, task_table
from demotune.report.wording import NOTHING, bounds, likelihood, number, share
from demotune.runs.evaluation import Evaluation, read_evaluation
from demotune.runs.file_names import stage_title
from demotune.runs.run import Run, load_run

SHARED = (
    "learning_rate",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "optim",
    "lr_scheduler_type",
    "warmup_steps",
    "max_length",
    "dtype",
    "bf16",
    "seed",
)
"""Settings of every method that the card shows; run.yaml holds all."""
LEFT_OUT = ("model", "better", "p", "effect size", "detectable", "test", "few-shots")
"""Columns of an evaluation that only the page shows."""
LORA = ("lora_r", "lora_alpha", "lora_target_modules")


def model_card(run: Path, evaluations: Sequence[Path] = ()) -> str:
    """The card of `run`'s model as Markdown with YAML front matter; evaluations must have measured that model.

    Raises DemotuneError for a folder that holds no finished run, and for an evaluation of other models.
    """
    found = load_run(run)
    found.files.finished_model()
    judged = [read_evaluation(folder) for folder in evaluations]
    base = _base_of_adapter(run)
    template = found.config.get("template")
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    environment.filters |= {"plain": plain, "bullets": bullets}
    text = shipped_text("demotune.report", "model_card.md.jinja")
    return environment.from_string(text).render(
        run=found,
        front_matter=_front_matter(found, base),
        about=_about(found, base),
        training=list(_training(found)),
        settings=_settings(found),
        result=_result(found),
        evaluations=[(one.name, list(_evaluation(one, _name_in(found, one)))) for one in judged],
        limits=[plain(without_paths(fact.text)) for fact in limits([found], judged)],
        fence="`" * max(3, longest_backticks(template or "") + 1),
        template=None if template is None else repr(template),
        adapter=base is not None,
        provenance=_provenance(found),
    )


def _front_matter(run: Run, base: str | None) -> str:
    start = base or str(run.config["model"])
    datasets = [source for source in run.config["data"] if looks_like_hub_id(source)]
    fields = {
        "library_name": "transformers" if base is None else "peft",
        "pipeline_tag": "text-generation",
        "tags": ["demotune", run.method],
        **({"base_model": start} if looks_like_hub_id(start) else {}),
        **({"datasets": datasets} if datasets else {}),
    }
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)


def _about(run: Run, base: str | None) -> str:
    name = str(run.config["model"])
    start = code(public_name(name))
    if not looks_like_hub_id(name):
        start += f" (a local folder, sha256 {run.manifest.model[:12]}…)"
    kind = "A language model" if base is None else f"A LoRA adapter for {code(public_name(base))}"
    return f"{kind}, trained from {start} with demotune's {run.method.upper()} on demonstrations."


def _training(run: Run) -> Iterator[str]:
    counts = Counter(row.reason for row in run.quarantine)
    reasons = ", ".join(f"{plain(reason)} {count}" for reason, count in counts.most_common())
    refused = f"; {plural(len(run.quarantine), 'row')} refused ({reasons})" if counts else ""
    method = str(CONFIGS[cast(Method, run.method)].__doc__).partition("\n")[0]
    yield f"Method: {method.removesuffix('.')}."
    yield f"Demonstrations: {', '.join(code(public_name(source)) for source in run.config['data'])}{refused}."
    if run.method != "sft":
        yield f"Stages: {plural(len(run.stages), 'stage')}; the result is {stage_title(run.result_stage)}."


def _settings(run: Run) -> str:
    names = [*SHARED, *(LORA if run.config.get("use_peft") else ()), *own_fields(run.method)]
    return table(
        ("setting", "value"), [(code(name), code(_value(run.config[name]))) for name in names if name in run.config]
    )


def _result(run: Run) -> str:
    check, gain = run.result.check, gain_of(run)
    if gain is None or run.start_nll_per_token is None or check.nll_per_token is None:
        return "The run held no rows out: whether it helped is not known."
    before, after = likelihood(run.start_nll_per_token), likelihood(check.nll_per_token)
    change = gain.per_response
    ends = f"95% interval {bounds(change, signed=True)}, " if change.known else ""
    facts = [
        f"Log-likelihood of held-out demonstrations, nats a token: {before} before, {after} after.",
        f"Change since the start model: {number(change.value, signed=True)} nats a response ({ends}paired by prompt, "
        f"{plural(gain.prompts, 'prompt')}): **{gain.verdict}**. {share(gain.wins)} of the demonstrations became "
        "likelier. That is how well it imitates; how useful its answers are was not judged by it.",
    ]
    if reward := check.whole_reward:
        facts.append(
            f"The learned reward prefers the demonstration to a sample in {share(reward.accuracy.value)} of "
            f"{plural(reward.prompts, 'held-out prompt')} (95% interval {bounds(reward.accuracy, percent=True)})."
        )
    return bullets([*facts, *(f"Warning: {plain(text)}" for text in (check.gate.warnings if check.gate else ()))])


def _evaluation(evaluation: Evaluation, name: str) -> Iterator[str]:
    """The numbers of this model, and how it differs from its baselines."""
    if data := evaluation.about.get("data"):
        sources = ", ".join(code(public_name(source)) for source in data["sources"])
        yield f"{plural(data['rows'], 'row')} of {sources} ({data['kind']}); 95% intervals over prompts."
    scores = {model: found for model, found in evaluation.tasks.get("models", {}).items() if model == name}
    own = replace(
        evaluation,
        measures=tuple(one for one in evaluation.measures if one.model == name),
        comparisons=tuple(one for one in evaluation.comparisons if one.model == name),
        tasks={"models": scores},
    )
    for found in (measures_table(own), comparisons_table(own), task_table(own, "headline")):
        shown = [at for at, heading in enumerate(found.headings) if heading not in LEFT_OUT]
        if found.rows:
            yield table(
                [plain(found.headings[at]) for at in shown], [[plain(row[at]) for at in shown] for row in found.rows]
            )


def _provenance(run: Run) -> list[str]:
    manifest, hardware = run.manifest, run.manifest.hardware
    versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    machine = [hardware[name] for name in hardware if name in ("system", "device") or name.startswith("gpu")]
    names = [run.config["model"], run.config.get("reward_model"), *run.config["data"]]
    hub_ids = {str(name) for name in names if name and looks_like_hub_id(str(name))}
    return [
        f"Started: {plain(manifest.created)}",
        f"Command: {code(public_command(manifest.command, hub_ids))}",
        f"Start model: sha256 {code(manifest.model)}",
        *(f"Data {code(public_name(source))}: sha256 {code(digest)}" for source, digest in manifest.data.items()),
        f"Rows, as token ids: sha256 {code(manifest.rows)}",
        f"Result: sha256 {code(run.result.model_hash or NOTHING)}",
        f"Versions: {plain(versions)}",
        f"Machine: {plain(', '.join(machine))}",
    ]


def _name_in(run: Run, evaluation: Evaluation) -> str:
    """The run's model as the evaluation calls it, found by its hash."""
    for model in evaluation.about.get("models", ()):
        if run.result.model_hash is not None and model.get("hash") == run.result.model_hash:
            return str(model["name"])
    raise DemotuneError(
        f"the evaluation {evaluation.name} did not measure the model of {run.name} (no model there has its hash); "
        "give evaluations of this model, or none"
    )


def _base_of_adapter(run: Path) -> str | None:
    """The model that an adapter belongs to; None for a whole model."""
    file = run / "model" / "adapter_config.json"
    return str(read_json(file)["base_model_name_or_path"]) if file.exists() else None


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value)) or NOTHING
    if isinstance(value, str):
        return public_name(value) if "/" in value or "\\" in value else value
    return NOTHING if value is None else str(value)
