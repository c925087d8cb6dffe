"""`learn_reward`: a linear reward from texts in memory, kept in a folder."""

from pathlib import Path
from typing import Any

import pytest
from helpers.tiny import save_tiny

from demotune import DemotuneError, learn_reward, load_reward

PROMPTS = [f"say {number}" for number in range(12)]
DEMOS = [f"{number}, of course" for number in range(12)]
SAMPLES = [f"no no no no no {number}" for number in range(12)]


def learn(folder: Path, **fields: Any) -> Any:
    texts = {"prompts": PROMPTS, "demonstrations": DEMOS, "samples": SAMPLES} | fields
    model = save_tiny(folder / "start")
    return learn_reward(model, output=folder / "reward", bf16=False, **texts)


@pytest.mark.parametrize("fields", [{}, {"question": "ok?", "features": ["repetition"]}])
def test_it_ranks_what_it_learned_from_and_is_kept(tmp_path: Path, fields: dict[str, Any]) -> None:
    reward = learn(tmp_path, **fields)
    demos, samples = reward.score_texts(PROMPTS, DEMOS), reward.score_texts(PROMPTS, SAMPLES)
    assert all(demo > sample for demo, sample in zip(demos, samples, strict=True))
    again = load_reward(tmp_path / "reward", bf16=False)
    assert again.score_texts(PROMPTS, DEMOS) == demos
    assert list(reward.feature_weights) == fields.get("features", [])
    if fields:
        assert reward.feature_weights["repetition"] < 0
        assert "'ok?'" in (tmp_path / "reward" / "README.md").read_text()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"samples": SAMPLES[:3]}, "12 prompts, 12 demonstrations and 3 samples"),
        ({"features": ["length"]}, "no feature length; known are finished, repetition"),
        ({"question": ""}, "question '' has no token"),
        ({"features": ["repetition", "repetition"]}, r"features names one twice \(repetition, repetition\)"),
        ({"features": ["finished"]}, "every text counts as finished"),
        ({"samples": DEMOS}, r"only 0 prompts have a pair whose sides differ \(12 pairs have equal sides\)"),
        ({"prompts": ["", *PROMPTS[1:]]}, r"prompts\[0\]"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(DemotuneError, match=message):
        learn(tmp_path, **fields)
    assert not (tmp_path / "reward").exists()


def test_only_a_reward_or_an_empty_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "reward").mkdir()
    learn(tmp_path)
    learn(tmp_path, features=["repetition"])
    assert load_reward(tmp_path / "reward").feature_weights.keys() == {"repetition"}
    (tmp_path / "run").mkdir()
    kept = tmp_path / "run" / "run.yaml"
    kept.touch()
    for output in (tmp_path / "run", kept):
        with pytest.raises(DemotuneError, match="is there, and is no reward; name a new folder"):
            learn_reward(tmp_path / "start", PROMPTS, DEMOS, SAMPLES, output)
    assert kept.is_file()
