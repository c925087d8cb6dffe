"""Whether what a command names can be there at all: checked before torch is imported, which takes seconds."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from demotune.common.errors import DemotuneError
from demotune.config.evaluation import EvaluationConfig
from demotune.config.loggers import refuse_unknown_loggers
from demotune.config.methods import AnyConfig
from demotune.data import as_prompt, parse_columns, read_prompt_file, refuse_missing_source
from demotune.records import Message


def refuse_missing_inputs(config: AnyConfig) -> None:
    """Raise DemotuneError for a model, data, prompts or logger that a run names and that cannot be there."""
    refuse_unknown_loggers(config.report_to)
    parse_columns(config.columns)
    refuse_missing_data((*config.data, *config.eval_data))
    for file in config.prompts:
        read_prompt_file(Path(file))
    for model in filter(None, (config.model, config.reward_model)):
        refuse_missing_model(model)


def refuse_missing_test_inputs(config: EvaluationConfig) -> None:
    """The same for what an evaluation names."""
    refuse_missing_data(config.data)
    for model in (config.model, *config.baseline, *config.reward):
        refuse_missing_model(model)


def refuse_missing_data(sources: Iterable[str]) -> None:
    for source in sources:
        refuse_missing_source(source)


def read_prompts(texts: Sequence[str], file: Path | None) -> list[tuple[Message, ...]]:
    """Conversations from texts and from a file. Raises DemotuneError where there is none, or one that is no text."""
    found = []
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:  # bytes of the command line that its encoding does not know
            raise DemotuneError(f"--prompt {text!r} is not UTF-8; put it into a file and give --prompts") from error
        found.append(as_prompt(text))
    if file is not None:
        found += [prompt for _, prompt in read_prompt_file(file)]
    if not found:
        raise DemotuneError("there is no prompt; give --prompt TEXT or --prompts FILE")
    return found


def refuse_missing_model(source: str) -> None:
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
        raise DemotuneError(
            f"model {source!r} is no folder or GGUF file here ({Path.cwd()}), and no possible hub id; check the path "
            "or the hub id"
        )


def refuse_missing_runs(folders: Iterable[Path]) -> None:
    for folder in folders:
        if not folder.is_dir():
            raise DemotuneError(f"{folder} holds no run; name the folder that a run wrote with --output")
