"""The models that an evaluation measures: found, named, with the renderer that each of them reads."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from demotune.common.errors import DemotuneError
from demotune.config.evaluation import EvaluationConfig
from demotune.data.rendering import Renderer, RenderError, content_key
from demotune.evaluation.lineage import runs_behind, trained_prompts
from demotune.models.policy import content_hash, longest_input, resolve_model
from demotune.models.tokenizers import load_tokenizer, renderer_of
from demotune.records import NO_CONTEXT, Context, Message
from demotune.runs.file_names import MODEL, REWARD

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
    def longest(self) -> int | None:
        """Most tokens that it can read."""
        return longest_input(self.folder)

    def trained_on(self, prompt: Sequence[Message], context: Context = NO_CONTEXT) -> bool:
        """Whether a run behind this model is known to have trained on this prompt, with or without reasoning."""
        return any(not keys.isdisjoint(_keys(renderer, prompt, context)) for renderer, keys in self._trained)

    @cached_property
    def _trained(self) -> tuple[tuple[Renderer, frozenset[str]], ...]:
        """For each run behind this model: how it wrote prompts, and the keys of those that it trained on."""
        tokenizer = load_tokenizer(self.folder)
        return tuple(
            (Renderer(tokenizer, run.config["template"]), trained_prompts(run)) for run in runs_behind(self.folder)
        )


def find_subjects(config: EvaluationConfig) -> list[Subject]:
    """The model, then the baselines. Raises DemotuneError for a missing model and for an unfinished run."""
    given: list[tuple[str, Role]] = [(config.model, "model"), *((name, "baseline") for name in config.baseline)]
    sources = [source for source, _ in given]
    if twice := [source for source, count in Counter(sources).items() if count > 1]:
        raise DemotuneError(f"{twice[0]} is named twice; compare different models")
    names = short_names(sources)
    return [_subject(source, name, role, config) for (source, role), name in zip(given, names, strict=True)]


def short_names(sources: Sequence[str]) -> list[str]:
    """Of different sources, names that differ: the run's or folder's own, the whole path where two are alike."""
    short = [_short(source) for source in sources]
    counts = Counter(short)
    return [source if counts[name] > 1 else name for source, name in zip(sources, short, strict=True)]


def _subject(source: str, name: str, role: Role, config: EvaluationConfig) -> Subject:
    folder = resolve_model(source)
    return Subject(name, role, folder, renderer_of(folder, config.template))


def _keys(renderer: Renderer, prompt: Sequence[Message], context: Context) -> set[str]:
    try:
        return {content_key(ids, ()) for ids in renderer.prompt_forms(prompt, context)}
    except RenderError:
        return set()


def _short(source: str) -> str:
    path = Path(source) if Path(source).name else Path(source).resolve()
    if path.name == REWARD:
        return f"{path.parent.name}/{REWARD}"
    return path.parent.name if path.name == MODEL and path.parent.name else path.name
