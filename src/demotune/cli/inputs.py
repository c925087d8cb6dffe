"""Whether what a command names can be there at all: checked before torch is imported, which takes seconds."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from demotune.common.errors import DemotuneError, no_such_model
from demotune.config.field import Named, fields_of
from demotune.config.loggers import refuse_unknown_loggers
from demotune.data import parse_columns, read_prompt_file, refuse_missing_source
from demotune.runs.file_names import EVALUATION, TASKS


def refuse_missing_inputs(config: Any) -> None:
    """Raise DemotuneError for a logger, run, file, hub id or model that a config names and that cannot be there."""
    for kind, check in _CHECKS.items():
        for field in fields_of(type(config)).values():
            value = getattr(config, field.name)
            if field.names == kind and value is not None:
                check(value if isinstance(value, tuple) else (value,))


def _refuse_missing_run(folder: Path) -> None:
    if not folder.is_dir():
        raise DemotuneError(f"{folder} holds no run; name the folder that a run wrote with --output")


def _refuse_missing_evaluation(folder: Path) -> None:
    if not any((folder / name).is_file() for name in (EVALUATION, TASKS)):
        raise DemotuneError(f"{folder} holds no evaluation; name the folder that demotune evaluate wrote with --output")


def _refuse_missing_model(source: str) -> None:
    """Raise DemotuneError for a model that is neither here nor possible as a hub id."""
    from huggingface_hub.errors import HFValidationError  # noqa: PLC0415 (a command that names no model needs none)
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # noqa: PLC0415

    if Path(source).expanduser().exists():
        return
    try:
        validate_repo_id(source)
        possible = not source.endswith(".gguf")
    except HFValidationError:
        possible = False
    if not possible:
        raise no_such_model(source)


def _each(check: Callable[[Any], object]) -> Callable[[Sequence[Any]], object]:
    return lambda names: [check(name) for name in names]


_CHECKS: dict[Named, Callable[[Sequence[Any]], object]] = {
    "loggers": refuse_unknown_loggers,
    "columns": _each(parse_columns),
    "run": _each(_refuse_missing_run),
    "evaluation": _each(_refuse_missing_evaluation),
    "rows": _each(refuse_missing_source),
    "prompts": _each(lambda file: read_prompt_file(Path(file))),
    "model": _each(_refuse_missing_model),
}
"""In the order in which they are made."""
