"""What the artefacts are made from: given by the user, or made on the spot at size tiny."""

import urllib.error
import urllib.request
from collections.abc import Collection
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from demotune.common.errors import DemotuneError
from demotune.common.files import read_json, write_json
from demotune.config.commands import SelectConfig
from demotune.config.paper import PaperConfig
from demotune.paper.sizes import Size
from demotune.paper.stand_ins import learn_rewards, make_model, shipped, write_preferences, write_task

INPUTS, MADE, SELECTED = "inputs.json", "made", "selected.jsonl"
SECONDS_FOR_THE_HUB = 5

PAPERS = {
    "model": "--model, the model to begin with (the paper: EleutherAI/pythia-1.4b; for tables 3, 4 and 6 "
    "alignment-handbook/zephyr-7b-sft-full)",
    "data": "--data, rows to train on (the paper: Anthropic/hh-rlhf; for tables 3, 4 and 6 the 50k prompts of "
    "HuggingFaceH4/ultrachat_200k that SPIN uses)",
    "preferences": "--preferences, test pairs that are not trained on (the paper: those of Anthropic/hh-rlhf)",
    "reward_model": "--reward-model, one that selects the rows and judges answers (the paper: "
    "PKU-Alignment/beaver-7b-v3.0-reward, whose own architecture transformers cannot load as a model with one label)",
    "task_data": "--task-data, a folder of rows for each benchmark task: the hub, which has them, does not answer",
    "lm-eval": "lm-eval, which scores benchmark tasks: pip install 'demotune[tasks]'",
}  # fmt: skip


@dataclass(frozen=True)
class Inputs:
    """Where everything is."""

    model: str
    data: tuple[str, ...]
    preferences: tuple[str, ...]
    rewards: tuple[str, ...]
    """The first one selects."""
    tasks: tuple[str, ...]
    """Benchmark tasks as `demotune evaluate` takes them; empty where they cannot be run."""
    task_data: tuple[str, ...]
    few_shots: int | None


def refuse_missing(config: PaperConfig, needed: Collection[str]) -> None:
    """Raise DemotuneError that lists all that the user must supply for artefacts with these needs, and did not."""
    if config.size == "tiny":
        return
    missing = [name for name in ("model", "data", "preferences", "reward_model")
               if name in needed and not getattr(config, name)]  # fmt: skip
    if "task_data" in needed:
        if not config.task_data and not _hub_answers():
            missing.append("task_data")
        if find_spec("lm_eval") is None:
            missing.append("lm-eval")
    if missing:
        lines = "\n  ".join(PAPERS[name] for name in missing)
        raise DemotuneError(f"{config.artefact} at size {config.size} needs what is not given; add:\n  {lines}")


def prepare(config: PaperConfig) -> Inputs:
    """The inputs; at size tiny they are made. Raises DemotuneError where the folder was begun with others."""
    inputs = _tiny(config.output / MADE) if config.size == "tiny" else _given(config)
    given = {
        name: list(value) if isinstance(value, tuple) else value for name, value in asdict(inputs).items() if value
    }
    about = {"size": config.size} | given
    file = config.output / INPUTS
    known = read_json(file) if file.is_file() else {}
    if differing := [name for name, value in about.items() if known.get(name, value) != value]:
        names = ", ".join(differing)
        raise DemotuneError(f"{config.output} was begun with other inputs ({names} differ); give another --output")
    write_json(file, known | about)
    return inputs


def select_rows(config: PaperConfig, inputs: Inputs, size: Size) -> tuple[str, ...]:
    """The rows to train on: those that the first reward model likes best, as in the paper; all where none selects."""
    if size.selected is None:
        return inputs.data
    file = config.output / SELECTED
    if not file.is_file():
        from demotune.rewards.load import load_reward  # noqa: PLC0415
        from demotune.rewards.select import Choice, select  # noqa: PLC0415

        asked = selection(config, inputs, size)
        reward = load_reward(asked.reward, template=asked.template, dtype=asked.dtype, bf16=asked.bf16)
        select(reward, asked.data, asked, Choice(top=asked.top), file)
    return (str(file),)


def selection(config: PaperConfig, inputs: Inputs, size: Size) -> SelectConfig:
    """`demotune select` as the paper does it."""
    return SelectConfig(
        reward=inputs.rewards[0], data=inputs.data, output=config.output / SELECTED, top=size.selected,
        max_length=size.common.get("max_length"),
    )  # fmt: skip


def _tiny(made: Path) -> Inputs:
    model, rewards = made / "model", [made / "selector", made / "judge"]
    make_model(model)
    write_preferences(made / "preferences.jsonl")
    write_task(made / "tasks")
    learn_rewards(model, rewards)
    has_harness = find_spec("lm_eval") is not None
    return Inputs(
        model=str(model),
        data=(shipped("support_train"),),
        preferences=(str(made / "preferences.jsonl"),),
        rewards=tuple(map(str, rewards)),
        tasks=("arc_challenge",) if has_harness else (),
        task_data=(str(made / "tasks"),),
        few_shots=0,
    )


def _given(config: PaperConfig) -> Inputs:
    return Inputs(
        model=config.model or "",
        data=config.data,
        preferences=config.preferences,
        rewards=config.reward_model,
        tasks=("open-llm-leaderboard-v1",),
        task_data=config.task_data,
        few_shots=None,
    )


def _hub_answers() -> bool:
    from huggingface_hub import constants  # noqa: PLC0415

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
        with urllib.request.urlopen(request, timeout=SECONDS_FOR_THE_HUB):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False
