"""How large an artefact is made: models, rows, seeds, T and K of each size."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from demotune.config.config_files import shipped_configs
from demotune.config.yaml_fields import parse_fields

START_SEED = 42
"""Of the SFT run that all others start from; no seed of theirs, so that a sweep can name it."""


@dataclass(frozen=True)
class Size:
    """The settings of one family of artefacts at one size. Fields are those of the methods' flags."""

    seeds: tuple[int, ...]
    common: Mapping[str, Any]
    """Of all trials; a method takes those that it has."""
    start: Mapping[str, Any] | None
    """The SFT run that the others start from; None where the model that is given is one already."""
    sft_epochs: float
    """Of more SFT: as many trained tokens as SPIN and IRFT, whose pairs have two sides, so twice their epochs."""
    stages: tuple[int, ...]
    """T of IRFT; the first is the one that stands for IRFT beside other methods. T times K is constant."""
    rft_stages: int
    steps: tuple[int, ...]
    """K of the first T, beside the K that the epochs give."""
    selected: int | None
    """Rows that the reward model selects to train on; None: all."""
    answer_tokens: int
    most_tests: int
    """Test rows and preference pairs at most."""


TINY = Size(
    seeds=(0, 1),
    common={
        "max_length": 512, "max_new_tokens": 40, "samples_per_prompt": 1, "eval_share": 0.15, "gate": "off",
        "per_device_train_batch_size": 8, "bf16": False, "learning_rate": 3e-4, "epochs_per_stage": 2,
        "reward_learning_rate": 1e-3, "reward_epochs": 2, "policy_batches": 2, "prompts_per_batch": 8,
        "finished_only": False, "force": True, "stop_unfinished": 0, "stop_length_ratio": 0, "stop_reward_margin": 0,
    },
    start={"num_train_epochs": 6, "learning_rate": 3e-3},
    sft_epochs=4,
    stages=(2, 4),
    rft_stages=2,
    steps=(4,),
    selected=96,
    answer_tokens=40,
    most_tests=52,
)  # fmt: skip
SMALL = Size(
    seeds=(0, 1, 2),
    common={
        "max_length": 256, "samples_per_prompt": 1, "eval_share": 0.1, "gate": "off", "max_bad_share": 1,
        "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "learning_rate": 5e-6,
        "epochs_per_stage": 1, "reward_epochs": 1, "policy_batches": 2, "prompts_per_batch": 8, "num_mini_batches": 2,
        "force": True,
    },
    start={"num_train_epochs": 2, "learning_rate": 2e-5},
    sft_epochs=2,
    stages=(2, 4),
    rft_stages=2,
    steps=(4,),
    selected=120,
    answer_tokens=64,
    most_tests=120,
)  # fmt: skip


def _of_config(name: str, **changed: Any) -> dict[str, Any]:
    """The fields of a shipped config that methods may share; beta is another in RFT, and its default is the paper's."""
    fields = parse_fields(shipped_configs()[name], name)
    own = {"method", "stages", "slices", "beta", "link", "reference"}
    as_there = {"gate": "off", "force": True}  # the paper has no gate, neither for policies nor for rewards
    return {field: value for field, value in fields.items() if field not in own} | as_there | changed


PAPER_HH = Size(
    seeds=(0, 1, 2),
    common=_of_config("paper-pythia-1.4b", max_bad_share=1),
    start={"num_train_epochs": 2, "learning_rate": 2e-5},
    sft_epochs=4,
    stages=(5,),
    rft_stages=1,
    steps=(),
    selected=10_000,
    answer_tokens=256,
    most_tests=2000,
)
PAPER_LEADERBOARD = Size(
    seeds=(0, 1, 2),
    common=_of_config("paper-zephyr-7b", max_rows=50_000),
    start=None,
    sft_epochs=4,
    stages=(5, 8, 10, 16),
    rft_stages=1,
    steps=(100, 400),
    selected=None,
    answer_tokens=512,
    most_tests=2000,
)


def size_of(name: str, family: str, seeds: int | None = None) -> Size:
    """The size of a family of artefacts: hh or leaderboard; apart from `paper`, both train on the same rows."""
    found = PAPER_LEADERBOARD if family == "leaderboard" else PAPER_HH
    if name != "paper":
        found = {"tiny": TINY, "small": SMALL}[name]
    return found if seeds is None else replace(found, seeds=tuple(range(min(seeds, START_SEED))))
