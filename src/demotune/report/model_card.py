"""The model card of a finished run, README.md of its model folder: for people and for the hub.

Names of users' files and folders appear as their last part, hub ids as they are; all of it is text, never markup.
"""

import re
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import yaml

from demotune.common.errors import DemotuneError
from demotune.common.files import read_json
from demotune.config.field import field_types
from demotune.config.methods import CONFIGS, Method, RunConfig
from demotune.report.collect import Run, read_run
from demotune.report.evaluations import Evaluation, read_evaluation
from demotune.report.gains import gain_of
from demotune.report.limits import limits
from demotune.report.markdown import bullets, code, longest_backticks, plain, table
from demotune.report.public_names import base_name, looks_like_hub_id, public_name, without_paths
from demotune.report.wording import NOTHING, interval, likelihood, number, plural, share, share_interval

NAMES = {"sft": "SFT", "spin": "SPIN", "irft": "IRFT", "rft": "RFT"}
TRAINED = {
    "sft": "supervised fine-tuning: it raises the likelihood of the demonstrations",
    "spin": "SPIN (arXiv 2401.01335): it samples from the policy, then prefers demonstrations to samples",
    "irft": "IRFT (Algorithm 2 of arXiv 2405.17888): stages of new samples, then steps that prefer demonstrations",
    "rft": "RFT (Algorithm 1 of arXiv 2405.17888): stages of a reward learned from demonstrations and samples, "
    "then on-policy steps on that reward",
}
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
LORA = ("lora_r", "lora_alpha", "lora_target_modules")
CITATION = """```bibtex
@inproceedings{li2024getting,
  title     = {Getting More Juice Out of the {SFT} Data: Reward Learning from Human Demonstration Improves {SFT} for {LLM} Alignment},
  author    = {Li, Jiaxiang and Zeng, Siliang and Wai, Hoi-To and Li, Chenliang and Garcia, Alfredo and Hong, Mingyi},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2024},
  eprint    = {2405.17888}
}
```"""  # noqa: E501


def model_card(run: Path, evaluations: Sequence[Path] = ()) -> str:
    """The card of `run`'s model as Markdown with YAML front matter; evaluations must have measured that model.

    Raises DemotuneError for a folder that holds no finished run, and for an evaluation of other models.
    """
    found = read_run(run)
    if not found.finished:
        raise DemotuneError(f"{run} is an unfinished run, it has no model yet; finish it with: demotune resume {run}")
    judged = [read_evaluation(folder) for folder in evaluations]
    names = [_name_in(found, one) for one in judged]
    base = _base_of_adapter(run)
    sections = [
        f"# {plain(found.name)}",
        _about(found, base),
        "## Training",
        _training(found),
        "## Result on held-out rows",
        _result(found),
        *(part for one, name in zip(judged, names, strict=True) for part in _evaluation(one, name)),
        "## Limits",
        bullets(plain(without_paths(text)) for text in limits([found], judged)),
        "## Use",
        _use(found, adapter=base is not None),
        "## Provenance",
        bullets(_provenance(found)),
        "## Citation",
        "The method is the paper's; please cite it:",
        CITATION,
    ]
    return f"---\n{_front_matter(found, base)}---\n\n" + "\n\n".join(sections) + "\n"


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
        start += f" (a local folder, sha256 {str(run.manifest.model)[:12]}…)"
    kind = "A language model" if base is None else f"A LoRA adapter for {code(public_name(base))}"
    return f"{kind}, trained from {start} with demotune's {NAMES.get(run.method, run.method)} on demonstrations."


def _training(run: Run) -> str:
    counts = Counter(row.reason for row in run.quarantine)
    refused = f"; {plural(len(run.quarantine), 'row')} refused ({_reasons(counts)})" if counts else ""
    stages = f"{plural(len(run.stages), 'stage')}; the result is stage {run.result_stage}, counted from 0"
    facts = [
        f"Method: {TRAINED.get(run.method, run.method)}.",
        f"Demonstrations: {', '.join(code(public_name(source)) for source in run.config['data'])}{refused}.",
        *([] if run.method == "sft" else [f"Stages: {stages}."]),
    ]
    shared, own = field_types(RunConfig), field_types(CONFIGS[cast(Method, run.method)])
    names = [*SHARED, *(LORA if run.config.get("use_peft") else ()), *(name for name in own if name not in shared)]
    rows = [(code(name), code(_value(run.config[name]))) for name in names if name in run.config]
    return f"{bullets(facts)}\n\n{table(('setting', 'value'), rows)}"


def _result(run: Run) -> str:
    check, gain = run.result.check, gain_of(run)
    if check.nll_per_token is None:
        return "The run held no rows out: whether it helped is not known."
    before, after = run.start_nll_per_token, check.nll_per_token
    moved = likelihood(after) if before is None else f"{likelihood(before)} before, {likelihood(after)} after"
    facts = [f"Log-likelihood of held-out demonstrations, nats a token: {moved}."]
    if gain is not None:
        ends = f"95% interval {interval(gain.low, gain.high, signed=True)}, " if gain.interval.known else ""
        facts.append(
            f"Change since the start model: {number(gain.per_response, signed=True)} nats a response ({ends}paired by "
            f"prompt, {plural(gain.prompts, 'prompt')}): "
            f"**{gain.verdict}**. {share(gain.wins)} of the demonstrations became likelier."
        )
    else:
        facts.append("The run kept no numbers per row, so this change has no interval.")
    if reward := check.whole_reward:
        ends = share_interval(reward.accuracy.low, reward.accuracy.high)
        facts.append(
            f"The learned reward prefers the demonstration to a sample in {share(reward.accuracy.value)} of "
            f"{plural(reward.pairs, 'held-out pair')} (95% interval {ends})."
        )
    facts += [f"Warning: {plain(text)}" for text in (check.gate.warnings if check.gate else ())]
    return bullets(facts)


def _evaluation(told: Evaluation, name: str) -> Iterator[str]:
    """The numbers of this model, and how it differs from its baselines."""
    yield f"## Evaluation {plain(told.name)}"
    if data := told.about.get("data"):
        sources = ", ".join(code(public_name(source)) for source in data["sources"])
        yield f"{plural(data['rows'], 'row')} of {sources} ({data['kind']}); 95% intervals over prompts."
    measures = [
        (_by(m.measure, m.judge), number(m.value), interval(m.low, m.high), str(m.items), plain(m.unit))
        for m in told.measures
        if m.model == name
    ]
    if measures:
        yield table(("measure", "value", "95% interval", "items", "unit"), measures)
    differences = [
        (
            _by(one.measure, one.judge),
            code(one.baseline),
            share(one.difference) if one.is_win_rate else number(one.difference, signed=True),
            share_interval(one.low, one.high) if one.is_win_rate else interval(one.low, one.high, signed=True),
            number(one.p_corrected),
            str(one.items),
        )
        for one in told.comparisons
        if one.model == name
    ]
    if differences:
        headings = ("difference, or win rate", "against", "", "95% interval", "p, corrected", "items")
        yield table(headings, differences)
    scores = [
        (plain(s["task"]), plain(s["metric"]), number(s["value"]), _plus_minus(s["stderr"]), str(s["items"]))
        for s in told.tasks.get("models", {}).get(name, {}).get("headline", ())
    ]
    if scores:
        yield table(("task", "metric", "value", "95%", "items"), scores)


def _use(run: Run, *, adapter: bool) -> str:
    if adapter:
        auto = "AutoPeftModelForCausalLM"
        imports = [f"from peft import {auto}", "from transformers import AutoTokenizer"]
    else:
        auto = "AutoModelForCausalLM"
        imports = [f"from transformers import {auto}, AutoTokenizer"]
    template = run.config.get("template")
    if template is None:
        prompt = [
            'chat = [{"role": "user", "content": "..."}]',
            "inputs = tokenizer.apply_chat_template("
            'chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)',
        ]
    else:
        prompt = [f'inputs = tokenizer({template!r}.replace("{{prompt}}", "..."), return_tensors="pt")']
    snippet = "\n".join(
        [
            *imports,
            "",
            'tokenizer = AutoTokenizer.from_pretrained("THIS_MODEL")',
            f'model = {auto}.from_pretrained("THIS_MODEL")',
            *prompt,
            "answer = model.generate(**inputs, max_new_tokens=256)[0, inputs['input_ids'].shape[1]:]",
            "print(tokenizer.decode(answer, skip_special_tokens=True))",
        ]
    )
    fence = "`" * max(3, longest_backticks(snippet) + 1)
    return f"{fence}python\n{snippet}\n{fence}"


def _provenance(run: Run) -> list[str]:
    manifest = run.manifest
    versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    hardware = manifest.hardware
    machine = [hardware[name] for name in hardware if name in ("system", "device") or name.startswith("gpu")]
    return [
        f"Begun: {plain(manifest.created)}",
        f"Command: {code(public_command(manifest.command, _hub_ids(run)))}",
        f"Start model: sha256 {code(manifest.model)}",
        *(f"Data {code(public_name(source))}: sha256 {code(str(digest))}" for source, digest in manifest.data.items()),
        f"Rows, as token ids: sha256 {code(manifest.rows)}",
        f"Result: sha256 {code(run.result.model_hash or NOTHING)}",
        f"Versions: {plain(versions)}",
        f"Machine: {plain(', '.join(machine))}",
    ]


def public_command(command: str, hub_ids: Container[str]) -> str:
    """A command as it was typed, each path in it as its last part; `hub_ids` are no paths.

    Commands are kept without quotes, so all that stands between two flags is taken for one value.
    """

    def shown(value: str) -> str:
        return value if value in hub_ids else base_name(value)

    first, *flags = re.split(r"\s+(?=--)", command)
    words = first.split(" ", 2)
    told = [re.split(r"([ =])", flag, maxsplit=1) for flag in flags]
    return " ".join([*words[:2], *map(shown, words[2:]), *("".join([*flag[:-1], shown(flag[-1])]) for flag in told)])


def _hub_ids(run: Run) -> set[str]:
    names = [run.config["model"], run.config.get("reward_model"), *run.config["data"]]
    return {str(name) for name in names if name and looks_like_hub_id(str(name))}


def _name_in(run: Run, told: Evaluation) -> str:
    """The run's model as the evaluation calls it, found by its hash."""
    for model in told.about.get("models", ()):
        if run.result.model_hash is not None and model.get("hash") == run.result.model_hash:
            return str(model["name"])
    raise DemotuneError(
        f"the evaluation {told.name} did not measure the model of {run.name} (no model there has its hash); "
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


def _reasons(counts: Counter[str]) -> str:
    return ", ".join(f"{plain(reason)} {count}" for reason, count in counts.most_common())


def _by(measure: str, judge: str | None) -> str:
    return plain(measure) + (f" by {code(judge)}" if judge else "")


def _plus_minus(error: float | None) -> str:
    return NOTHING if error is None else f"± {number(1.96 * error)}"
