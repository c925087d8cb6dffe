"""`demotune distill`: of N responses to each prompt the best by a reward, then SFT on them; one folder, resumable."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from demotune.common.errors import DemotuneError, changes
from demotune.common.files import UNFINISHED, read_json, read_rows, write_record, write_rows
from demotune.common.progress import say, warn
from demotune.config.drawing import DistillConfig, GenerationOptions
from demotune.config.field import fields_of
from demotune.config.methods import SFTConfig
from demotune.data import load_demonstrations, read_prompt_file
from demotune.models.policy import resolve_model
from demotune.pipeline import run_or_go_on
from demotune.records import NO_CONTEXT, Message
from demotune.result import RunResult
from demotune.rewards.answer_journal import journal_beside
from demotune.rewards.answers import Answer, BestOf, answer
from demotune.rewards.load import load_reward
from demotune.runs.file_names import LOCK
from demotune.runs.folder import RunFolder
from demotune.runs.run import begun_template

BEST, SFT, SETTINGS = "best.jsonl", "sft", "distill.json"
_OF_THE_DRAW = (
    "model", "reward", "reward_template", "best_of", "prompts", "data", "columns", "every_turn", "max_rows", "template",
    "max_new_tokens", "temperature", "top_p", "top_k", "seed", "dtype",
    "bf16",
)  # fmt: skip
"""Fields that decide best.jsonl."""


def distill(config: DistillConfig) -> RunResult:
    """Write best.jsonl, then run SFT on it in sft/; what an earlier, interrupted command has done is not done again.

    Raises DemotuneError for a folder in which other responses were drawn, or which is no folder of this command.
    """
    folder = RunFolder(Path(config.output))
    with folder.locked():
        _begin(folder.root, config)
        if not (folder.root / BEST).exists():
            _write_best(folder.root, config)
        _show_best(read_rows(folder.root / BEST), config.best_of)
        result = run_or_go_on(sft_config(config))
    say(f"{result.model_folder}: {result.verdict}")
    return result


def sft_config(config: DistillConfig) -> SFTConfig:
    """SFT on best.jsonl, with the fields of `config` that are SFT's; prompts are written as they were for sampling."""
    folder = Path(config.output)
    same = {name: getattr(config, name) for name in fields_of(SFTConfig)}
    own: dict[str, Any] = {
        "data": (str(folder / BEST),),
        "output": str(folder / SFT),
        "template": _template(config),
        "columns": None,
        "every_turn": False,
        "max_rows": None,
    }
    return SFTConfig(**same | own)


def _begin(folder: Path, config: DistillConfig) -> None:
    """Write down what decides the responses, or compare it with what an earlier command wrote."""
    file = folder / SETTINGS
    wanted = {name: _plain(getattr(config, name)) for name in _OF_THE_DRAW}
    if not file.exists():
        others = sorted(path.name for path in folder.iterdir() if path.name not in (LOCK, SETTINGS + UNFINISHED))
        if others:
            raise DemotuneError(
                f"{folder} is not empty (found {', '.join(others[:3])}); choose a new or empty folder with --output"
            )
        write_record(file, wanted)
    if changed := changes(read_json(file), wanted):
        raise DemotuneError(
            f"{folder} was begun with other settings ({changed}); give the same ones to go on, or another --output"
        )


def _plain(value: Any) -> Any:
    return [str(item) for item in value] if isinstance(value, tuple) else value


def _template(config: DistillConfig) -> str | None:
    return begun_template(resolve_model(config.model)) if config.template is None else config.template


def _write_best(folder: Path, config: DistillConfig) -> None:
    prompts = _prompts(config)
    reward = load_reward(config.reward, template=config.reward_template, dtype=config.dtype, bf16=config.bf16)
    options = GenerationOptions(
        max_new_tokens=config.max_new_tokens, temperature=config.temperature, top_p=config.top_p, top_k=config.top_k,
        template=config.template, seed=config.seed, batch_size=config.sample_batch_size, dtype=config.dtype,
        bf16=config.bf16,
    )  # fmt: skip
    journal = journal_beside(folder / BEST)
    answers = answer(config.model, prompts, options, best_of=BestOf(config.best_of, reward), journal=journal)
    rows = [
        _row(prompt, best)
        for prompt, best in zip(prompts, answers, strict=True)
        if best.finished and best.text.strip() and best.reward is not None
    ]
    if not rows:
        raise DemotuneError(
            f"none of {len(prompts)} prompts has a response that says something, ended by itself and has a score; "
            "raise --max-new-tokens, or begin with a model that ends its responses"
        )
    if len(rows) < len(prompts):
        left_out = f"{len(prompts) - len(rows)} of {len(prompts)} prompts"
        warn(f"{left_out} have no finished response with text and a score: left out")
    write_rows(folder / BEST, rows)
    journal.unlink(missing_ok=True)


def _row(prompt: Sequence[Message], best: Answer) -> dict[str, object]:
    return {
        "prompt": [dict(message) for message in prompt],
        "completion": [{"role": "assistant", "content": best.text}],
        "score": best.reward,
        "first_score": best.first_reward,
    }


def _show_best(rows: Sequence[Mapping[str, Any]], count: int) -> None:
    both = [(row["first_score"], row["score"]) for row in rows if row["first_score"] is not None]
    text = f"best of {count}: responses to {len(rows)} prompts"
    if both:
        first, best = (fmean(side) for side in zip(*both, strict=True))
        text += f"; where the first one is finished ({len(both)}) it earns {first:.4g} on average, the best {best:.4g}"
    say(text)


def _prompts(config: DistillConfig) -> list[tuple[Message, ...]]:
    """Each prompt once, those of files first."""
    prompts = [prompt for file in config.prompts for _, prompt in read_prompt_file(Path(file))]
    if config.data:
        loaded = load_demonstrations(config.data, columns=config.columns, every_turn=config.every_turn)
        if loaded.bad_rows:
            warn(f"{len(loaded.bad_rows)} bad rows are left out; the first is {loaded.bad_rows[0].source}")
        rows = loaded.rows[: config.max_rows]
        if asked := next((row.source for row in rows if row.context != NO_CONTEXT), None):
            raise DemotuneError(f"{asked} has tools or documents, which distill does not read; leave such rows out")
        prompts += [row.prompt for row in rows]
    return [*{_key(prompt): prompt for prompt in prompts}.values()]


def _key(prompt: Sequence[Message]) -> tuple[tuple[tuple[str, str], ...], ...]:
    return tuple(tuple(sorted(message.items())) for message in prompt)
