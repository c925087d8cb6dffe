"""Rows with rewards as `demotune score` and `select` write them, and their summary on the screen."""

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np

from demotune.common.errors import DemotuneError
from demotune.common.files import hash_of
from demotune.common.json_records import write_records
from demotune.common.processes import main_process, this_device, wait_for_everyone
from demotune.common.progress import say, show_table
from demotune.config.commands import RowReading
from demotune.data import BadRow
from demotune.data.intake import reasons
from demotune.records import Context, Demonstration, Message, Preference
from demotune.rewards.reward import Reward
from demotune.runs.shared_work import shared

SHOWN_REFUSALS = 3


def demonstration_columns(row: Demonstration) -> dict[str, object]:
    """The row in TRL's prompt-completion form."""
    return {
        "source": row.source,
        "prompt": list(row.prompt),
        "completion": _reply(row.response, row.reasoning),
        **_context_columns(row.context),
    }


def preference_columns(row: Preference) -> dict[str, object]:
    """The row in TRL's preference form, with explicit prompt."""
    return {
        "source": row.source,
        "prompt": list(row.prompt),
        "chosen": _reply(row.chosen, row.chosen_reasoning),
        "rejected": _reply(row.rejected, row.rejected_reasoning),
        **_context_columns(row.context),
    }


def show_rewards(groups: Mapping[str, Sequence[tuple[float, int]]]) -> None:
    """Distribution of (reward, response tokens), a column for each group, and how far length predicts the reward."""
    columns = [_distribution(pairs) for pairs in groups.values()]
    rows = [(name, *(column[name] for column in columns)) for name in columns[0]]
    show_table(None, ("score", *groups), rows)


def _distribution(pairs: Sequence[tuple[float, int]]) -> dict[str, str]:
    rewards, tokens = np.array(pairs, dtype=float).T
    quantiles = np.quantile(rewards, [0, 0.25, 0.5, 0.75, 1])
    named = {"mean": rewards.mean(), "standard deviation": rewards.std()}
    named |= dict(zip(("lowest", "25%", "median", "75%", "highest"), quantiles, strict=True))
    varied = min(rewards.std(), tokens.std()) > 0
    return {
        "rows": str(len(pairs)),
        **{name: f"{value:.4g}" for name, value in named.items()},
        "response tokens, mean": f"{tokens.mean():.1f}",
        "correlation with length": f"{np.corrcoef(rewards, tokens)[0, 1]:+.2f}" if varied else "-",
    }


def check_output(output: Path | None, sources: Sequence[str]) -> None:
    """Raise DemotuneError for a file that cannot hold the rows, or that is one of the sources."""
    if output is None:
        return
    if not output.name.endswith((".jsonl", ".jsonl.gz")):
        raise DemotuneError(f"output {output} must end in .jsonl or .jsonl.gz: rows are written as JSON Lines")
    if output.resolve() in {Path(source).resolve() for source in sources}:
        raise DemotuneError(f"output {output} is also the data; give another file with --output")


def say_refused(refused: Sequence[BadRow], output: Path | None) -> None:
    """Every row without a score: counted, and named in a file beside the output, else the first ones on the screen."""
    beside = output and output.with_name(f"{output.name.removesuffix('.gz').removesuffix('.jsonl')}.refused.jsonl")
    if beside is not None and main_process():
        beside.unlink(missing_ok=True)  # of an earlier command
    if not refused:
        return
    if beside is not None:
        if main_process():
            write_records(beside, refused)
        say(f"{len(refused)} rows have no score ({reasons(refused)}); each is named in {beside}", style="yellow")
        return
    say(f"{len(refused)} rows have no score ({reasons(refused)}); with --output each is named", style="yellow")
    for row in refused[:SHOWN_REFUSALS]:
        say(f"  {row.source}: {row.reason}: {row.detail}")


@contextmanager
def scored_together(reward: Reward, reading: RowReading, output: Path | None) -> Iterator[None]:
    """In here the processes share what is scored, and keep it beside `output` until that is written.

    All processes must come here. An interrupted command, given again, scores no batch twice.
    """
    if output is None:
        with shared("score", None):
            yield
        return
    precision = [value for name, value in asdict(reading).items() if name in ("dtype", "bf16")]
    asked = [reward.name, reward.hash, str(this_device()), *precision]
    parts = output.with_name(f"{output.name}.parts")
    with shared(hash_of(asked)[:12], parts):
        yield
    wait_for_everyone()  # all have read what goes now
    if main_process():
        shutil.rmtree(parts)
    wait_for_everyone()


def say_each(notes: Iterable[str]) -> None:
    for note in notes:
        say(note)


def _reply(text: str, reasoning: str) -> list[Message]:
    turn = {"role": "assistant", "content": text}
    return [turn | {"reasoning_content": reasoning} if reasoning else turn]


def _context_columns(context: Context) -> dict[str, object]:
    """What a row had beside its conversation, under the names by which it is read again."""
    columns = {"tools": context.tools, "documents": context.documents}
    return {name: [dict(entry) for entry in entries] for name, entries in columns.items() if entries}
