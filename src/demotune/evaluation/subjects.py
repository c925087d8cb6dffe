"""The models that an evaluation measures: found, named, with the renderer that each of them reads."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from demotune.errors import DemotuneError
from demotune.evaluation.config import EvaluationConfig
from demotune.evaluation.lineage import run_of, trained_prompts
from demotune.models import content_hash, generation_stop_ids, load_tokenizer, longest_input, resolve_model
from demotune.rendering import Renderer
from demotune.run_folder import RunFolder

Role = Literal["model", "baseline"]


@dataclass(frozen=True)
class Subject:
    """One model under evaluation."""

    name: str
    role: Role
    folder: Path
    renderer: Renderer

    @cached_property
    def hash(self) -> str:
        """Content hash of the model's files."""
        return content_hash(self.folder)

    @cached_property
    def trained_prompts(self) -> frozenset[str]:
        """Keys of prompts that the runs behind this model trained on."""
        return trained_prompts(self.folder)

    @property
    def longest(self) -> int | None:
        """Most tokens that it can read."""
        return longest_input(self.folder)


def find_subjects(config: EvaluationConfig) -> list[Subject]:
    """The model, then the baselines. Raises DemotuneError for a missing model and for an unfinished run."""
    given: list[tuple[str, Role]] = [(config.model, "model"), *((name, "baseline") for name in config.baseline)]
    names = _names([source for source, _ in given])
    return [_subject(source, name, role, config) for (source, role), name in zip(given, names, strict=True)]


def model_folder(source: str) -> Path:
    """The model of a finished run, or the model itself. Raises DemotuneError where a run is not finished."""
    run = RunFolder(Path(source))
    if not (run.manifest.exists() or run.config.exists()):
        return resolve_model(source)
    if not run.finished:
        raise DemotuneError(
            f"{source} is an unfinished run, it has no model yet; finish it with: demotune resume {source}"
        )
    return run.model


def _subject(source: str, name: str, role: Role, config: EvaluationConfig) -> Subject:
    folder = model_folder(source)
    template = config.template
    if template is None and (run := run_of(folder)):
        template = RunFolder(run).read_config().template
    return Subject(name, role, folder, Renderer(load_tokenizer(folder), template, generation_stop_ids(folder)))


def _names(sources: list[str]) -> list[str]:
    """Short names that differ: the run's or folder's own, the whole path where two are alike."""
    short = [_short(source) for source in sources]
    counts = Counter(short)
    names = [source if counts[name] > 1 else name for source, name in zip(sources, short, strict=True)]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DemotuneError(f"{twice[0]} is named twice; compare different models")
    return names


def _short(source: str) -> str:
    path = Path(source)
    return path.parent.name if path.name == "model" and path.parent.name else path.name
