"""A reward model that takes steps between on-policy batches: a naive loop over its files, kills, the next stage."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.killing import Killed, die_at, die_before
from helpers.rft_runs import config, make_world, read, state_of, weights
from torch import nn
from torch.nn.functional import logsigmoid
from transformers import AutoModelForSequenceClassification

from demotune import RFTConfig, resume, run
from demotune.common.files import read_json, read_rows
from demotune.estimation.estimate import estimate_config

# One optimizer step an update, without momentum: a naive loop gives the same numbers to rounding.
ONE_STEP: dict[str, Any] = {
    "optim": "sgd",
    "learning_rate": 0.01,
    "reward_learning_rate": 0.1,
    "gradient_accumulation_steps": 64,
    "reward_every": 2,
    "reward_replay": 0.0,
    "policy_batches": 5,
    "max_grad_norm": 1.0,
}
TAUGHT: dict[str, Any] = {"reward_every": 1, "policy_batches": 5, "save_steps": 2}
"""Both with AdamW and several steps an update."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("co-training"))


@pytest.fixture(scope="module")
def one_step(place: Path) -> Path:
    return run(config(place, "one-step", **ONE_STEP)).run_folder


@pytest.fixture(scope="module")
def taught(place: Path) -> Path:
    return run(config(place, "taught", **TAUGHT)).run_folder


def score(model: nn.Module, prompt: list[int], response: list[int]) -> torch.Tensor:
    return model(torch.tensor([prompt + response])).logits[0, 0]


def demonstrations(folder: Path) -> dict[tuple[int, ...], list[int]]:
    rows = [row for row in read(folder, 0, "samples.jsonl.gz") if not row["heldout"]]
    return {tuple(row["prompt_ids"]): row["demo_ids"] for row in rows}


def test_two_updates_are_those_of_a_naive_loop(one_step: Path) -> None:
    """Rewards in each batch, and the published reward after the last whole two batches of five."""
    stage = one_step / "stages" / "00"
    model = AutoModelForSequenceClassification.from_pretrained(stage / "reward").eval()
    model.get_input_embeddings().padding_idx = None  # a policy may write padding, so its row is trained, too
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    demos = demonstrations(one_step)
    for number in range(5):
        rows = read(one_step, 0, f"rollouts/{number:04d}.jsonl.gz")
        facts = read_json(stage / "rollouts" / f"{number:04d}.json")
        wins: list[float] = []
        for row in rows:
            with torch.no_grad():
                earned = float(score(model, row["prompt_ids"], row["response"]["ids"]))
                demo = float(score(model, row["prompt_ids"], demos[tuple(row["prompt_ids"])]))
            assert row["reward"] == pytest.approx(earned, abs=1e-4)
            same = row["response"]["ids"] == demos[tuple(row["prompt_ids"])]
            wins.append(0.5 if same else float(demo > earned))
        assert facts["reward_model/accuracies"] == pytest.approx(sum(wins) / len(wins))
        if number % 2:
            learned = [*read(one_step, 0, f"rollouts/{number - 1:04d}.jsonl.gz"), *rows]
            losses = [
                -logsigmoid(
                    score(model, row["prompt_ids"], demos[tuple(row["prompt_ids"])])
                    - score(model, row["prompt_ids"], row["response"]["ids"])
                )
                for row in learned
                if row["response"]["finished"] and row["response"]["ids"] != demos[tuple(row["prompt_ids"])]
            ]
            assert 2 < len(losses) <= 12
            optimizer.zero_grad()
            torch.stack(losses).mean().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    for name, found in weights(stage / "co-trained-reward").items():
        torch.testing.assert_close(found, model.state_dict()[name], atol=1e-5, rtol=0)
    moved = max(float((weight - before[name]).abs().max()) for name, weight in model.state_dict().items())
    assert moved > 0.01


def test_the_stage_s_reward_stays_and_the_next_one_starts_from_the_co_trained(one_step: Path) -> None:
    """reward/ is what the reward phase judged; the held-out loss before the next stage's steps is the other one's."""
    stage = one_step / "stages" / "00"
    state = state_of(one_step, 0)
    assert set(state["policy"]["outputs"]) == {"model", "metrics.jsonl", "rollouts", "co-trained-reward"}
    assert state["policy"]["outputs"]["co-trained-reward"] != state["reward"]["outputs"]["reward"]
    first = next(row for row in read(one_step, 1, "reward-metrics.jsonl") if "eval_loss" in row)
    assert first["step"] == 0
    losses = []
    for folder in (stage / "co-trained-reward", stage / "reward"):
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        rows = [row for row in read(one_step, 1, "samples.jsonl.gz") if row["heldout"] and row["finished"]]
        with torch.no_grad():
            margins = [
                float(
                    score(model, row["prompt_ids"], row["demo_ids"])
                    - score(model, row["prompt_ids"], row["sample_ids"])
                )
                for row in rows
            ]
        losses.append(sum(math.log1p(math.exp(-margin)) for margin in margins) / len(margins))
    assert first["eval_loss"] == pytest.approx(losses[0], abs=1e-5)
    assert abs(losses[0] - losses[1]) > 1e-3


def test_what_lies_in_the_folder(taught: Path) -> None:
    """Weights and optimizer after the last update at a checkpoint; tokens of both kinds of steps are counted."""
    names = {file.name for file in (taught / "stages" / "00" / "rollouts").glob("reward-*")}
    assert names == {"reward-0004.pt", "reward-0004.sealed"}
    record = state_of(taught, 0)["policy"]
    policy_tokens = [row["num_tokens"] for row in read_rows(taught / "stages" / "00" / "metrics.jsonl")][-1]
    assert record["trained_tokens"] > policy_tokens


def test_killed_and_resumed_is_uninterrupted(place: Path, taught: Path) -> None:
    """At moments spread over the run at which a file becomes durable."""
    with pytest.MonkeyPatch.context() as patch:
        count = die_at(0, patch)
        run(config(place, "counted", **TAUGHT))
        moments = count()
    for number in range(moments // 5, moments, moments // 8):
        name = f"killed-at-{number}"
        with pytest.MonkeyPatch.context() as patch:
            die_at(number, patch)
            with pytest.raises(Killed):
                run(config(place, name, **TAUGHT))
        resume(place / name)
        assert_equal_runs(place / name, taught)


@pytest.mark.parametrize("use_peft", [False, True])
def test_killed_between_two_kept_states(use_peft: bool, place: Path, taught: Path) -> None:
    """Nothing of the reward is kept in the first four batches: its updates are taken again from their files."""
    fields = {**TAUGHT, "save_steps": 4, "use_peft": use_peft}
    expected = run(config(place, f"whole-{use_peft}", **fields)).run_folder if use_peft else taught
    name = f"between-{use_peft}"
    with pytest.MonkeyPatch.context() as patch:
        die_before("0003.json", patch)
        with pytest.raises(Killed):
            run(config(place, name, **fields))
    assert not [*(place / name / "stages" / "00" / "rollouts").glob("reward-*")]
    resume(place / name)
    assert_equal_runs(place / name, expected)


def assert_equal_runs(found: Path, expected: Path) -> None:
    patterns = ("*.jsonl.gz", "check.json", "rollouts/[0-9]*", "*/*.safetensors")
    names = [str(file.relative_to(expected)) for each in patterns for file in expected.glob(f"stages/*/{each}")]
    assert len(names) > 2 * (4 + 1 + 15 + 3) - 2
    for name in sorted(names):
        assert (found / name).read_bytes() == (expected / name).read_bytes(), name


def test_the_estimate_counts_the_steps_of_the_updates(place: Path) -> None:
    fields: dict[str, Any] = {"policy_batches": 5, "stages": 1}
    plain, learning = (
        estimate_config(RFTConfig(**{**vars(config(place, "-", **fields)), "reward_every": every}), None)[0]
        for every in (None, 1)
    )
    tokens = [sum(work.trained_tokens for work in estimate.work) for estimate in (plain, learning)]
    assert tokens[1] > 1.5 * tokens[0]
    assert learning.seconds > plain.seconds
    assert learning.memory > plain.memory
