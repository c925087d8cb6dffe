"""What Python users call besides `run` and `resume`. A function returns what it found; only the commands show it."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from demotune.advice import advise as advising
from demotune.advice.measurements import AdviceRecord
from demotune.common.errors import DemotuneError
from demotune.conclusion import make_page
from demotune.config.commands import AdviseConfig
from demotune.config.drawing import GenerationOptions
from demotune.config.evaluation import EvaluationConfig
from demotune.config.field import fields_of
from demotune.config.methods import AnyConfig
from demotune.data import checked_prompt
from demotune.estimation.estimate import estimate_config
from demotune.estimation.forecast import Estimate
from demotune.evaluation import compare as comparing
from demotune.evaluation import evaluate as evaluating
from demotune.evaluation.evaluate import Evaluation
from demotune.records import Message
from demotune.result import RunResult
from demotune.rewards.answers import Answer, BestOf, answer
from demotune.rewards.load import load_reward
from demotune.rewards.reward import Reward
from demotune.runs.comparison import ComparisonTable
from demotune.runs.file_names import COMPARISON
from demotune.runs.run import Run

Prompt: TypeAlias = str | Sequence[Message]
"""A text, which is one user turn, or messages that end with the user's turn."""
RunLike: TypeAlias = str | Path | RunResult | Run
"""A run by its folder, its result, or what `load_run` gave."""


def generate(
    model: RunLike,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int = 256,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    template: str | None = None,
    seed: int = 42,
    batch_size: int = 32,
    dtype: Literal["float32", "bfloat16"] = "float32",
    bf16: bool | None = None,
) -> list[str]:
    """One response to each prompt, in order, by the renderer and sampler of training.

    `model` is a run, a model or adapter folder, a hub id or a GGUF file. A `temperature` of 0 is greedy; `template` is
    by default that of the model's run, else the tokenizer's chat template. Raises DemotuneError for a model or prompt
    that cannot be used.
    """
    options = GenerationOptions(
        max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, top_k=top_k, template=template, seed=seed,
        batch_size=batch_size, dtype=dtype, bf16=bf16,
    )  # fmt: skip
    return [given.text for given in answer(_model(model), _conversations(prompts), options)]


def best_of(
    n: int,
    reward: Reward | RunLike,
    model: RunLike,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int = 256,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    template: str | None = None,
    seed: int = 42,
    batch_size: int = 32,
    dtype: Literal["float32", "bfloat16"] = "float32",
    bf16: bool | None = None,
) -> list[Answer]:
    """Of `n` responses to each prompt the one with the highest reward, with that reward; finished ones go first.

    `reward` is a reward, or what `load_reward` takes. The first of the n is what `generate` gives, so a larger n never
    gives a worse one. Raises DemotuneError as `generate` does, and where all n would be the same.
    """
    options = GenerationOptions(
        max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, top_k=top_k, template=template, seed=seed,
        batch_size=batch_size, dtype=dtype, bf16=bf16,
    )  # fmt: skip
    if n < 1:
        raise DemotuneError(f"n must be at least 1, got {n}; 4 is usual")
    if isinstance(reward, str | Path | RunResult | Run):
        reward = load_reward(_source(reward), dtype=dtype, bf16=bf16)
    chooser = BestOf(n, reward)
    return answer(_model(model), _conversations(prompts), options, best_of=chooser)


def advise(model: RunLike, data: str | Path | Sequence[str], **fields: Any) -> AdviceRecord:
    """What is worth running next from `model` with the demonstrations `data`, measured in minutes: `.advice`.

    Other fields are the flags of `demotune advise`. The record's `advice` has action, reason and command, its
    `measurements` all numbers. Raises DemotuneError for anything the user can mend.
    """
    known = fields_of(AdviseConfig)
    for name in fields.keys() - known.keys():
        raise DemotuneError(f"advise has no field {name}; it has {', '.join(known)}")
    return advising.advise(AdviseConfig(model=_model(model), data=data, **fields))  # type: ignore[arg-type]


def evaluate(config: EvaluationConfig | None = None, **fields: Any) -> Evaluation:
    """Measure a model and its baselines on test rows; what was found, also in evaluation.json under `output`.

    Give an EvaluationConfig or its fields, or both, of which the fields count; runs may be given as results. Raises
    DemotuneError for anything the user can fix.
    """
    known = fields_of(EvaluationConfig)
    for name in fields.keys() - known.keys():
        raise DemotuneError(f"evaluate has no field {name}; it has {', '.join(known)}")
    fields = {name: _source(value) for name, value in fields.items()}
    return evaluating.evaluate(EvaluationConfig(**fields) if config is None else dataclasses.replace(config, **fields))


def compare(
    runs: Sequence[RunLike], *, data: str | Path | Sequence[str] = (), output: str | Path | None = None
) -> ComparisonTable:
    """Finished runs side by side, those that differ in their seed as one setting, on the rows that all held out.

    With `data` they are compared on these test rows; `output`, a folder, is then needed, for what is measured there
    is kept. It also gets comparison.json. Raises DemotuneError for runs that cannot be compared.
    """
    folders = [Path(_source(run)) for run in runs]
    on = None
    if data:
        if output is None:
            raise DemotuneError("data needs output=FOLDER: what is measured there is kept and used again")
        on = EvaluationConfig(model=str(folders[0]), data=data, output=str(output))  # type: ignore[arg-type]
    return comparing.compare(folders, on=on, file=None if output is None else Path(output) / COMPARISON)


def estimate_run(config: AnyConfig, device: str | None = None) -> Estimate:
    """What the run of `config` would cost: its `seconds`, `flops` and `memory` (bytes), and each phase's in `work`.

    `device` names one by its datasheet (h200, a100, rtx4090, ...); without it this machine is measured. Raises
    DemotuneError as the run would.
    """
    estimate, _ = estimate_config(config, device)
    return estimate


def write_report(
    runs: RunLike | Sequence[RunLike],
    output: str | Path | None = None,
    *,
    evaluations: Sequence[str | Path] = (),
    comparison: str | Path | None = None,
) -> Path:
    """Write one page about a run or several and return its path; several runs need `output`, an HTML file.

    `evaluations` are folders of `evaluate`, `comparison` one of `compare`; without it several finished runs are
    compared on the rows that they held out. Raises DemotuneError where a folder does not hold what it should.
    """
    several = [runs] if isinstance(runs, str | Path | RunResult | Run) else list(runs)
    return make_page(
        [Path(_source(run)) for run in several],
        None if output is None else Path(output),
        evaluations=[Path(folder) for folder in evaluations],
        comparison=None if comparison is None else Path(comparison),
    )


def _source(value: Any) -> Any:
    """The folder of a run, or of each in a list, and a path as text; anything else stays."""
    if isinstance(value, list | tuple):
        return tuple(map(_source, value))
    if isinstance(value, RunResult | Run):
        value = value.run_folder if isinstance(value, RunResult) else value.folder
    return str(value) if isinstance(value, Path) else value


def _model(model: Any) -> str:
    source = _source(model)
    if not isinstance(source, str):
        raise DemotuneError(
            f"model is of type {type(model).__name__}; give a run, a folder or a hub id (save a model and its "
            "tokenizer with save_pretrained(FOLDER))"
        )
    return source


def _conversations(prompts: Sequence[Prompt]) -> list[tuple[Message, ...]]:
    if isinstance(prompts, str):
        raise DemotuneError("prompts is one text, expected a list; give prompts=[text]")
    return [checked_prompt(prompt, f"prompts[{number}]") for number, prompt in enumerate(prompts)]
