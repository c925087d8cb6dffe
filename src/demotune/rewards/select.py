"""The best demonstrations by a reward: `demotune select`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from demotune.common.errors import DemotuneError
from demotune.common.files import write_rows
from demotune.common.processes import main_process
from demotune.common.progress import say
from demotune.config.commands import RowReading
from demotune.rewards.output import check_output, say_each, say_refused, scored_together, show_rewards
from demotune.rewards.reward import Reward
from demotune.rewards.score import ScoredRow, score_rows, scored_columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which rows to keep: the `top` best, or all that score `threshold` or more. Exactly one of the two is given."""

    top: int | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        if (self.top is None) == (self.threshold is None):
            given = "neither" if self.top is None else "both"
            raise DemotuneError(f"{given} of --top and --threshold given; say --top N or --threshold SCORE")
        if self.top is not None and self.top < 1:
            raise DemotuneError(f"top must be at least 1, got {self.top}; say how many rows to keep")


def select_rows(rows: Sequence[ScoredRow], choice: Choice) -> list[ScoredRow]:
    """The rows to keep, in the order of the data; of equal scores at the border of `top` the earlier ones stay.

    Raises DemotuneError where no row reaches the threshold.
    """
    if choice.threshold is None:
        best = sorted(range(len(rows)), key=lambda number: (-rows[number].reward, number))[: choice.top]
        return [rows[number] for number in sorted(best)]
    kept = [row for row in rows if row.reward >= choice.threshold]
    if not kept:
        highest = max(row.reward for row in rows)
        raise DemotuneError(
            f"no row scores {choice.threshold:g} or more, the best has {highest:.6g}; lower --threshold"
        )
    return kept


def select(reward: Reward, sources: Sequence[str], reading: RowReading, choice: Choice, output: Path) -> None:
    """`demotune select`: the best demonstrations as JSONL that trains again, and what was kept on the screen."""
    check_output(output, sources)
    say(reward.name)
    by = {"reward": {"name": reward.name, "hash": reward.hash}}  # so that it is known if this reward judges later
    with scored_together(reward, reading, output):
        found = score_rows(reward, sources, reading)
        kept = select_rows(found.rows, choice)
        if main_process():
            write_rows(output, (scored_columns(row) | by for row in kept))
    groups = {"all": found.rows, "kept": kept}
    show_rewards({name: [(row.reward, row.tokens) for row in rows] for name, rows in groups.items()})
    if choice.top is not None and choice.top > len(kept):
        say(f"only {len(kept)} rows have a score, fewer than --top {choice.top}: all are kept")
    say(f"{len(kept)} of {len(found.rows)} rows kept, in the order of the data, in {output}")
    say_refused(found.refused, output)
    say_each(reward.renderer.remarks())
