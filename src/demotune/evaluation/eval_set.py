"""The rows of an evaluation: read once, rendered for every model, those that were trained on left out by name."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from demotune.common.errors import DemotuneError
from demotune.common.files import hash_of
from demotune.common.json_records import write_records
from demotune.common.processes import main_process
from demotune.common.progress import say
from demotune.config.evaluation import EvaluationConfig
from demotune.data import BadRow, are_preferences, load_demonstrations, load_preferences
from demotune.data.intake import reasons
from demotune.data.rendering import RenderError
from demotune.evaluation.subjects import Subject
from demotune.records import NO_CONTEXT, Demonstration, Preference, RenderedDemonstration

TRAINED_ON = "trained on"


@dataclass(frozen=True, slots=True)
class EvalRow:
    """A prompt with its demonstration and, of preference rows, the response that was not preferred."""

    key: str
    """Hash of the texts: the same row in every evaluation."""
    demo: Demonstration
    rejected: Demonstration | None


@dataclass(frozen=True, slots=True)
class RenderedRow:
    """A row as one model reads it."""

    demo: RenderedDemonstration
    rejected: RenderedDemonstration | None


@dataclass(frozen=True, slots=True)
class EvalSet:
    """What is measured on: rows that every model can read, and an account of the others."""

    rows: tuple[EvalRow, ...]
    rendered: dict[str, tuple[RenderedRow, ...]]
    """Model name -> its view of `rows`, in their order."""
    left_out: tuple[BadRow, ...]
    trained_on: tuple[BadRow, ...]
    """Rows that stay in although a model was trained on their prompt."""
    hashes: dict[str, str]
    preferences: bool

    @property
    def hash(self) -> str:
        """Of the rows, in their order."""
        return hashlib.sha256(" ".join(row.key for row in self.rows).encode()).hexdigest()


def read_eval_set(config: EvaluationConfig, subjects: Sequence[Subject], quarantine: Path) -> EvalSet:
    """Read and render `config.data`; every row that is left out is named in `quarantine`.

    A row whose prompt one of the models was trained on is left out for all of them, or kept and named with
    `trained_on: keep`. Raises DemotuneError where no row is left.
    """
    preferences = are_preferences(config.data, columns=config.columns)
    rows, left_out, hashes = _read(config, preferences)
    kept: list[EvalRow] = []
    marked: list[BadRow] = []
    views: dict[str, list[RenderedRow]] = {subject.name: [] for subject in subjects}
    for row in rows:
        if len(kept) == config.max_rows:
            break
        try:
            view = {subject.name: _render(row, subject, config.max_length) for subject in subjects}
        except RenderError as refusal:
            left_out.append(BadRow(row.demo.source, refusal.reason, refusal.detail))
            continue
        if trained := [subject.name for subject in subjects if subject.trained_on(row.demo.prompt, row.demo.context)]:
            known = BadRow(row.demo.source, TRAINED_ON, f"the prompt was in the training data of {', '.join(trained)}")
            if config.trained_on == "leave-out":
                left_out.append(known)
                continue
            marked.append(known)
        kept.append(row)
        for name, rendered in view.items():
            views[name].append(rendered)
    if main_process():
        write_records(quarantine, [*left_out, *marked])
    if not kept:
        raise DemotuneError(
            f"no row of {', '.join(config.data)} is left to measure on: {reasons(left_out)}; each is named in "
            f"{quarantine}. Give rows that were not trained on (--trained-on keep takes them all the same) and that "
            "the models can read whole"
        )
    if left_out:
        say(f"{len(left_out)} rows are left out: {reasons(left_out)}; each is named in {quarantine}", style="yellow")
    for subject in subjects:
        for remark in subject.renderer.remarks():
            say(f"{subject.name}: {remark}")
    return EvalSet(
        rows=tuple(kept),
        rendered={name: tuple(view) for name, view in views.items()},
        left_out=tuple(left_out),
        trained_on=tuple(marked),
        hashes=hashes,
        preferences=preferences,
    )


def _read(config: EvaluationConfig, preferences: bool) -> tuple[list[EvalRow], list[BadRow], dict[str, str]]:
    if preferences:
        pairs = load_preferences(config.data, columns=config.columns)
        return [EvalRow(_key(pair), *pair.sides) for pair in pairs.rows], list(pairs.bad_rows), dict(pairs.hashes)
    loaded = load_demonstrations(config.data, columns=config.columns)
    return [EvalRow(_key(row), row, None) for row in loaded.rows], list(loaded.bad_rows), dict(loaded.hashes)


def _key(row: Demonstration | Preference) -> str:
    texts: list[object] = [[dict(message) for message in row.prompt]]
    if isinstance(row, Preference):
        texts += [row.chosen, row.rejected]
        beside = [row.chosen_reasoning, row.rejected_reasoning]
    else:
        texts += [row.response, None]
        beside = [row.reasoning]
    if any(beside) or row.context != NO_CONTEXT:
        texts += [*beside, asdict(row.context)]
    return hash_of(texts)[:16]


def _render(row: EvalRow, subject: Subject, max_length: int | None) -> RenderedRow:
    """Raises RenderError where a side cannot be written, or is too long."""
    sides = [subject.renderer.render(side) for side in (row.demo, row.rejected) if side is not None]
    limits = [limit for limit in (max_length, subject.longest) if limit is not None]
    for side in sides:
        if limits and side.tokens > min(limits):
            raise RenderError("over-long", f"{side.tokens} tokens, {subject.name} may read {min(limits)}")
    return RenderedRow(sides[0], sides[1] if len(sides) > 1 else None)
