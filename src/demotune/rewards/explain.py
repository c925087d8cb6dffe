"""What a reward looks at: its named weights, the responses at both ends, its correlation with length and more."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from demotune.common.errors import DemotuneError
from demotune.common.files import write_json
from demotune.common.json_records import as_json
from demotune.common.progress import console, say
from demotune.config.commands import RowReading
from demotune.rewards.features import FEATURES, WITHOUT_LENGTH
from demotune.rewards.output import say_each, say_refused
from demotune.rewards.reward import Reward
from demotune.rewards.scalar import ScalarReward
from demotune.rewards.score import JudgedResponse, judge_responses

SHOWN = 5


@dataclass(frozen=True, slots=True)
class Explanation:
    """Of one reward on some rows."""

    feature_weights: Mapping[str, float]
    """The reward's own, of the named features it reads; empty where it reads none."""
    correlations: Mapping[str, float]
    """Of each named feature with the reward (Pearson), of length where the reward reads it; nan where one of the two is
    constant."""
    length_correlation: float
    """Of the response's tokens with the reward; nan where one of the two is constant."""
    highest: tuple[JudgedResponse, ...]
    """Best first; of equal rewards the earlier row."""
    lowest: tuple[JudgedResponse, ...]
    """Worst first."""


def explain(rows: Sequence[JudgedResponse], feature_weights: Mapping[str, float], shown: int = SHOWN) -> Explanation:
    """Explain the rewards of `rows`; `shown` is how many rows stand at either end."""
    rewards = [row.reward for row in rows]
    counted = [name for name in FEATURES if name in WITHOUT_LENGTH or name in feature_weights]
    return Explanation(
        feature_weights=dict(feature_weights),
        correlations={
            name: _correlation([FEATURES[name](row.completion) for row in rows], rewards) for name in counted
        },
        length_correlation=_correlation([float(len(row.completion.response.ids)) for row in rows], rewards),
        highest=tuple(sorted(rows, key=lambda row: -row.reward)[:shown]),
        lowest=tuple(sorted(rows, key=lambda row: row.reward)[:shown]),
    )


def explain_reward(reward: Reward, sources: Sequence[str], reading: RowReading, output: Path | None) -> None:
    """`demotune explain`: weights, correlations and both ends on the screen; all of it as JSON in `output`."""
    if output is not None and output.suffix != ".json":
        raise DemotuneError(f"output {output} must end in .json")
    say(reward.name)
    rows, refused = judge_responses(reward, sources, reading)
    found = explain(rows, reward.feature_weights if isinstance(reward, ScalarReward) else {})
    _show_features(found, len(rows))
    for name, end in (("highest", found.highest), ("lowest", found.lowest)):
        _show_rows(name, end)
    if output is not None:
        write_json(output, {"reward": reward.name, "hash": reward.hash, "responses": len(rows), **_as_json(found)})
        say(f"written to {output}")
    say_refused(refused, None)
    say_each(reward.renderer.remarks())


def _show_features(found: Explanation, count: int) -> None:
    table = Table(title=f"on {count} responses", title_justify="left", box=box.SIMPLE)
    for heading in ("", *(["weight"] if found.feature_weights else []), "correlation with score"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    names = {**dict.fromkeys(found.feature_weights), **found.correlations}
    correlations = {"length": found.length_correlation, **found.correlations}
    for name in dict.fromkeys(["length", *names]):
        weights = [f"{found.feature_weights[name]:+.4g}" if name in found.feature_weights else ""]
        correlation = correlations.get(name, math.nan)
        shown = "-" if math.isnan(correlation) else f"{correlation:+.2f}"
        table.add_row(name, *(weights if found.feature_weights else []), shown)
    console.print(table)


def _show_rows(name: str, rows: Sequence[JudgedResponse]) -> None:
    """One line each, cut to the screen."""
    table = Table(box=box.SIMPLE, expand=True)
    table.add_column(f"{name} scores", justify="right", no_wrap=True)
    table.add_column("prompt", ratio=2, no_wrap=True, overflow="ellipsis")
    table.add_column("response", ratio=3, no_wrap=True, overflow="ellipsis")
    for row in rows:
        texts = (_prompt(row), row.demonstration.response)
        table.add_row(f"{row.reward:.4g}", *(Text(" ".join(text.split())) for text in texts))
    console.print(table)


def _prompt(row: JudgedResponse) -> str:
    return row.demonstration.prompt[-1]["content"]


def _as_json(found: Explanation) -> dict[str, object]:
    def shown(row: JudgedResponse) -> dict[str, object]:
        demonstration = row.demonstration
        return {
            "score": row.reward,
            "tokens": len(row.completion.response.ids),
            "source": demonstration.source,
            "prompt": [dict(turn) for turn in demonstration.prompt],
            "response": demonstration.response,
        }

    return {
        "feature_weights": dict(found.feature_weights),
        "correlations": as_json({"length": found.length_correlation, **found.correlations}),
        "highest": [shown(row) for row in found.highest],
        "lowest": [shown(row) for row in found.lowest],
    }


def _correlation(values: Sequence[float], rewards: Sequence[float]) -> float:
    if len(rewards) < 2 or min(np.ptp(values), np.ptp(rewards)) == 0:
        return math.nan
    return float(np.corrcoef(values, rewards)[0, 1])
