"""One stage of a run: its number, its folder, the policy it starts from, what of it is done."""

import random
import shutil
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from demotune.common.errors import DemotuneError
from demotune.common.files import file_hash, folder_hash
from demotune.common.memory import give_back_memory, peak_memory_gib
from demotune.common.processes import main_process, process_count, wait_for_everyone
from demotune.config.methods import RFTConfig, SFTConfig
from demotune.config.shared_fields import Pairwise
from demotune.data.rendered_rows import RenderedRows
from demotune.models.policy import Policy, content_hash, save_policy
from demotune.models.sharding import full_weights
from demotune.records import Pair, Response, Side
from demotune.runs.file_names import CHECKPOINTS, MODEL, PARTIAL, stage_title
from demotune.training.setup import Setup

Write = Callable[[Path], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a phase leaves: files, and facts for its record in state.json. Tokens are those of prompts and responses."""

    outputs: Mapping[str, Write | None]
    """Names in the stage's folder, and what writes them; None for what is there already."""
    forward_tokens: int = 0
    """Drawn, or scored: sent through a model without a gradient."""
    trained_tokens: int = 0
    facts: Mapping[str, object] = field(default_factory=dict)
    stop_requested: bool = False
    """The user asked to stop, and the phase was over first."""


class Stage:
    """One stage of a run: its number, its folder, the policy it starts from, and its phases."""

    def __init__(self, setup: Setup, number: int) -> None:
        self.setup, self.number = setup, number
        self.folder = setup.folder.stage(number)
        self.model_folder = self.folder / MODEL
        self._loaded: tuple[Path, Policy] | None = None
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def title(self) -> str:
        """What readers call it."""
        return stage_title(self.number)

    def done(self, phase: str) -> bool:
        return phase in self.state

    def mark(self, phase: str, started: float, outcome: Outcome) -> None:
        """State that a phase is done, after its outputs are in place; all processes go on together."""
        if main_process():
            record = {
                "policy": self.policy_hash,
                "outputs": {name: output_hash(self.folder / name) for name in outcome.outputs},
                "seconds": round(time.monotonic() - started, 1),
                "peak_memory_gib": round(peak_memory_gib(), 2),
                "processes": process_count(),
                "forward_tokens": outcome.forward_tokens,
                "trained_tokens": outcome.trained_tokens,
            }
            self.setup.folder.mark_done(self.number, phase, record | dict(outcome.facts))
        wait_for_everyone()

    @property
    def state(self) -> dict[str, Any]:
        """Phase name -> record of what this stage has finished."""
        return self.setup.folder.stage_state(self.number)

    @cached_property
    def policy_hash(self) -> str:
        """Content hash of the policy that this stage starts from."""
        return content_hash(self.setup.policy_folder(self.number)) if self.number else self.setup.start_hash

    @property
    def start_policy(self) -> Policy:
        """pi_t, loaded when first needed, shared by the phases up to training, which changes it in place."""
        return self._load(self.setup.policy_folder(self.number))

    @property
    def trained_policy(self) -> Policy:
        """pi_{t+1}, loaded from what the train phase published."""
        return self._load(self.model_folder)

    def _load(self, folder: Path) -> Policy:
        if self._loaded is None or self._loaded[0] != folder:
            self.free_policy()  # one model in memory
            self._loaded = folder, self.setup.load(folder)
        return self._loaded[1]

    def publish_policy(self) -> None:
        """Write the policy, which was trained in place, as pi_{t+1}, and drop it from memory."""
        weights = full_weights(self.start_policy)
        if main_process():
            save_policy(self.start_policy, self.setup.tokenizer, self.model_folder, weights)
        self.free_policy()
        wait_for_everyone()

    def free_policy(self) -> None:
        """Drop the policy from memory, and what an optimizer that trained it still holds."""
        self._loaded = None
        give_back_memory()

    def tidy(self) -> None:
        """Remove what only an interrupted stage needs: journals and checkpoints."""
        if main_process():
            for checkpoints in self.folder.glob(f"*{CHECKPOINTS}"):
                for checkpoint in checkpoints.glob("checkpoint-*"):
                    shutil.rmtree(checkpoint, ignore_errors=True)
                if not any(checkpoints.iterdir()):
                    checkpoints.rmdir()
            for journal in self.folder.glob(f"*{PARTIAL}"):
                journal.unlink()

    def seed(self, purpose: str) -> int:
        return self.setup.seed(self.number, purpose)


def stage_slice(setup: Setup, number: int) -> RenderedRows:
    """The demonstrations of a stage: its own random part (disjoint), or all of them."""
    config, rows = setup.config, setup.train
    if config.slices == "all":
        return rows
    if len(rows) < config.stages:
        raise DemotuneError(f"{len(rows)} demonstrations cannot be cut into {config.stages} slices; use --slices all")
    shuffled = random.Random(setup.seed(0, "slices")).sample(range(len(rows)), len(rows))
    # In the order of the data, so that one slice is the same as all data: T = 1 is SPIN, to the bit.
    return rows.take(sorted(shuffled[number :: config.stages]))


def supervised(setup: Setup) -> SFTConfig:
    """The config of a run whose policy is trained on demonstrations alone (SFT)."""
    config = setup.config
    if config.learned_reward != "none":
        raise TypeError(f"{config.method} does not train its policy on demonstrations alone")
    return config


def pairwise(setup: Setup) -> Pairwise:
    """The config of a run whose policy is trained on pairs (SPIN, IRFT)."""
    config = setup.config
    if config.learned_reward != "implicit":
        raise TypeError(f"{config.method} does not train its policy on pairs")
    return config


def with_reward(setup: Setup) -> RFTConfig:
    """The config of a run that learns an explicit reward (RFT)."""
    config = setup.config
    if config.learned_reward != "explicit":
        raise TypeError(f"{config.method} has no reward model")
    return config


def tokens_of(sides: Iterable[tuple[Sequence[int], Response]]) -> int:
    """Tokens of prompts with their responses."""
    return sum(len(prompt) + len(response.ids) for prompt, response in sides)


def pair_tokens(pairs: Iterable[Pair], known: Container[Side] = ()) -> int:
    """Tokens of the different sides of pairs that are not known; the prompt counts for each."""
    sides = {side for pair in pairs for side in pair.sides if side not in known}
    return sum(len(prompt) + len(response) for prompt, response in sides)


def output_hash(path: Path) -> str:
    """What a phase's output is recognised by: a model by its content, a file or another folder by its bytes."""
    if not path.is_dir():
        return file_hash(path)
    is_model = (path / "config.json").exists() or (path / "adapter_config.json").exists()
    return content_hash(path) if is_model else folder_hash(path)


def chunks(rows: Sequence[Any], size: int) -> list[Any]:
    """Consecutive pieces of at most `size` rows."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]
