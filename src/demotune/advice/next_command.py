"""The command to run next, complete: what was given to `advise` goes on into it."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from demotune.advice.measurements import Action
from demotune.advice.subject import shared_fields
from demotune.config.as_flags import as_flags, changed_fields
from demotune.config.commands import AdviseConfig
from demotune.config.drawing import DistillConfig, SampleConfig
from demotune.config.methods import CONFIGS
from demotune.runs.file_names import REWARD

PLACEHOLDER = "YOUR PROMPT"
MORE_ROWS = "MORE_ROWS.jsonl"
ADVICE_FOLDER = "advice"
ALWAYS = ("model", "data")


def next_command(action: Action, config: AdviseConfig) -> str:
    """The command of an action. A name in capitals is for the user to fill in."""
    if action in ("sft", "irft"):
        return _command(action, _given(config, CONFIGS[action]), output=f"runs/{action}")
    if action == "rft":
        return _command(action, _given(config, CONFIGS["rft"]), output="runs/rft", reward_kind="linear")
    if action == "nothing":
        given = _given(config, AdviseConfig)
        more = "eval_data" if config.eval_data else "data"  # where held-out rows are from
        return _command("advise", given | {more: (*getattr(config, more), MORE_ROWS)}, output=config.output)
    sample = {name: value for name, value in _given(config, SampleConfig).items() if name != "prompts"}
    if action == "lower temperature":
        return _command("sample", sample, temperature=0, **_asked(config))
    folder = Path(ADVICE_FOLDER) if config.output is None else config.output
    best = _command("sample", sample, best_of=config.samples_per_prompt, reward=folder / REWARD, **_asked(config))
    if config.output is not None:
        return best
    return f"{_command('advise', _given(config, AdviseConfig), output=folder)} && {best}"


def other_command(action: Action, config: AdviseConfig) -> str | None:
    """For best of n where each answer must cost one response: train the model on the best of n."""
    if action != "best-of-n":
        return None
    reward = (Path(ADVICE_FOLDER) if config.output is None else config.output) / REWARD
    given = _given(config, DistillConfig)
    return _command("distill", given, reward=reward, best_of=config.samples_per_prompt, output="runs/distill")


def _asked(config: AdviseConfig) -> dict[str, Any]:
    """What `sample` is to answer; it takes one file of prompts."""
    return {"prompts": config.prompts[0]} if config.prompts else {"prompt": PLACEHOLDER}


def _given(config: AdviseConfig, config_class: type[Any]) -> dict[str, Any]:
    """What the user gave of the fields that both have."""
    given = {*ALWAYS, *changed_fields(config)}
    return {name: getattr(config, name) for name in shared_fields(config_class) if name in given}


def _command(name: str, given: Mapping[str, Any], **more: Any) -> str:
    return shlex.join(["demotune", name, *as_flags(dict(given) | more)])
