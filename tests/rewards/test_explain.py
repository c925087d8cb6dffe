"""`demotune explain`: both ends, weights and correlations of any reward, on the screen and as JSON."""

from pathlib import Path

import numpy as np
import pytest
from helpers.command import call
from helpers.rewards import save_reward

from demotune import ScalarReward, load_reward
from demotune.common.files import read_json, write_json, write_rows
from demotune.config.commands import RowReading
from demotune.rewards.explain import explain_reward
from demotune.rewards.features import FEATURES
from demotune.rewards.score import judge_responses

RESPONSES = ["one", "two " * 6, "[bold]three[/bold]", "the answer is one " * 3, "\x1b[31mred", "yes, of course"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = ({"prompt": f"what is {number}?\n[red]say", "completion": text} for number, text in enumerate(RESPONSES))
    write_rows(tmp_path / "rows.jsonl", rows)
    return tmp_path / "rows.jsonl"


def test_all_is_shown_and_written(tmp_path: Path, data: Path) -> None:
    """Weights and correlations by hand; text of the data is not markup and cannot control the terminal."""
    folder, output = save_reward(tmp_path / "reward"), tmp_path / "explained.json"
    facts = read_json(folder / "reward.json") | {"features": {"repetition": -2.5, "log_length": 0.25}}
    write_json(folder / "reward.json", facts)
    code, shown = call("explain", str(folder), f"--data={data}", "--no-bf16", f"--output={output}", columns=100)
    assert code == 0, shown
    reward = ScalarReward(folder, bf16=False)
    rows, refused = judge_responses(reward, [str(data)], RowReading())
    assert refused == []
    rewards = [row.reward for row in rows]
    assert rewards == pytest.approx(reward.rewards_of([row.completion for row in rows]), abs=1e-5)
    found = read_json(output)
    assert found["feature_weights"] == {"repetition": -2.5, "log_length": 0.25}
    assert (found["responses"], found["hash"]) == (6, reward.hash)
    lengths = [len(row.completion.response.ids) for row in rows]
    assert found["correlations"]["length"] == pytest.approx(np.corrcoef(lengths, rewards)[0, 1])
    repeated = [FEATURES["repetition"](row.completion) for row in rows]
    assert found["correlations"]["repetition"] == pytest.approx(np.corrcoef(repeated, rewards)[0, 1])
    length = [FEATURES["log_length"](row.completion) for row in rows]  # the reward reads it, so it is explained
    assert found["correlations"]["log_length"] == pytest.approx(np.corrcoef(length, rewards)[0, 1])
    assert found["correlations"]["finished"] is None  # all are
    by_reward = sorted(rows, key=lambda row: row.reward)
    assert [row["response"] for row in found["lowest"]] == [row.demonstration.response for row in by_reward[:5]]
    assert [row["score"] for row in found["highest"]] == [row.reward for row in by_reward[::-1][:5]]
    assert found["lowest"][0]["prompt"][-1]["content"].endswith("?\n[red]say")
    assert "-2.5" in shown
    assert f"{found['correlations']['length']:+.2f}" in shown
    assert "[bold]three[/bold]" in shown
    assert "?\\n[red]say" not in shown  # one line a row
    assert "? [red]say" in shown
    assert "\x1b" not in shown
    assert max(map(len, shown.splitlines()[2:])) <= 100 or str(tmp_path) in shown


def test_both_sides_of_preferences_count_and_rows_can_be_bounded(tmp_path: Path) -> None:
    pairs = [{"prompt": f"p {number}", "chosen": f"good {number}", "rejected": f"bad {number}"} for number in range(4)]
    write_rows(tmp_path / "pairs.jsonl", pairs)
    reward = load_reward(save_reward(tmp_path / "reward"), bf16=False)
    rows, _ = judge_responses(reward, [str(tmp_path / "pairs.jsonl")], RowReading(max_rows=3))
    texts = [row.demonstration.response for row in rows]
    assert texts == ["good 0", "bad 0", "good 1", "bad 1", "good 2", "bad 2"]


def test_with_answer_after_the_answer_alone_is_explained(tmp_path: Path) -> None:
    folder = save_reward(tmp_path / "reward")
    write_json(folder / "reward.json", read_json(folder / "reward.json") | {"answer_after": "</think>"})
    rows = [{"prompt": "p", "completion": text} for text in ("a long thought</think>one", "one")]
    write_rows(tmp_path / "rows.jsonl", rows)
    reward = load_reward(folder, bf16=False)
    judged, _ = judge_responses(reward, [str(tmp_path / "rows.jsonl")], RowReading())
    assert judged[0].completion == judged[1].completion
    assert judged[0].reward == pytest.approx(judged[1].reward)
    assert judged[0].demonstration.response == "a long thought</think>one"


def test_a_reward_without_named_features_has_no_weights(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    explain_reward(load_reward(save_reward(tmp_path / "reward"), bf16=False), [str(data)], RowReading(), None)
    shown = capsys.readouterr().out
    assert "weight" not in shown
    assert "correlation with score" in shown


def test_output_must_be_json(tmp_path: Path, data: Path) -> None:
    code, shown = call("explain", str(save_reward(tmp_path / "reward")), f"--data={data}", "--output=x.txt")
    assert code != 0
    assert "output x.txt must end in .json" in shown
