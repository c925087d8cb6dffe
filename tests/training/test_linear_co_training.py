"""A linear reward that learns between on-policy batches: every update worked out from the run's files; kills."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.killing import Killed, die_at, die_before
from helpers.rft_runs import FIELDS, make_world, read, state_of, word
from numpy.typing import NDArray
from safetensors.numpy import load_file
from scipy.optimize import minimize
from transformers import AutoModelForCausalLM

from demotune import DemotuneError, RFTConfig, resume, run
from demotune.common.files import read_json, read_rows
from demotune.estimation.estimate import estimate_config
from demotune.report.charts.training import curve_charts
from demotune.rewards.linear import PairColumns, refit
from demotune.runs.run import load_run
from demotune.training.phases.policy import Limits

Floats = NDArray[np.float64]
FULL = ("reward_learning_rate", "reward_epochs", "reward_eval_steps")
LINEAR: dict[str, Any] = {name: value for name, value in FIELDS.items() if name not in FULL} | {
    "reward_kind": "linear",
    "reward_every": 2,
    "reward_replay": 0.25,
    "policy_batches": 6,
    "prompts_per_batch": 4,
    "stages": 1,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The usual world, and prompts without demonstrations."""
    folder = make_world(tmp_path_factory.mktemp("co-training"))
    rng = random.Random(5)
    known = {row["prompt"] for row in map(json.loads, (folder / "rows.jsonl").read_text().splitlines())}
    further = sorted({word(rng, 1, 5) for _ in range(20)} - known)[:8]
    (folder / "prompts.txt").write_text("".join(f"{prompt}\n" for prompt in further))
    return folder


def config(place: Path, name: str, **fields: Any) -> RFTConfig:
    where = {"model": str(place / "start"), "data": (str(place / "rows.jsonl"),), "output": str(place / name)}
    return RFTConfig(**{**where, **LINEAR, "prompts": (str(place / "prompts.txt"),), **fields})


@pytest.fixture(scope="module")
def plain(place: Path) -> Path:
    return run(config(place, "plain")).run_folder


class ByHand:
    """The stage's pairs and each batch's, as differences of hidden states, read from files and plain transformers."""

    def __init__(self, folder: Path, place: Path) -> None:
        self.folder = folder
        self._model = AutoModelForCausalLM.from_pretrained(place / "start", attn_implementation="eager").eval()
        rows = [row for row in read(folder, 0, "samples.jsonl.gz") if not row["heldout"] and row["demo_finished"]]
        self.demos = {tuple(row["prompt_ids"]): row["demo_ids"] for row in rows}
        assert len(self.demos) == len({row["key"] for row in rows})
        self.own = [
            (tuple(row["prompt_ids"]), self.state(row["prompt_ids"], row["demo_ids"], row["sample_ids"]))
            for row in rows
            if row["finished"] and row["sample_ids"] != row["demo_ids"]
        ]
        self.scale = np.sqrt(_weights(self.own, 1.0) @ np.stack([found for _, found in self.own]) ** 2)

    def state(self, prompt: list[int], *responses: list[int]) -> Floats:
        """At the last token that is no padding of the first response, less that of the second.

        A policy may write padding; a classifier takes the token before it.
        """
        lengths = [1 + max(place for place, token in enumerate(response) if token) for response in responses]
        rows = [torch.tensor([prompt + ids[:length]]) for ids, length in zip(responses, lengths, strict=True)]
        with torch.no_grad():
            found = [self._model(row, output_hidden_states=True).hidden_states[-1][0, -1] for row in rows]
        return (found[0] if len(found) == 1 else found[0] - found[1]).double().numpy()

    def rows(self, number: int) -> list[dict[str, Any]]:
        return read(self.folder, 0, f"rollouts/{number:04d}.jsonl.gz")

    def batch(self, number: int) -> list[tuple[tuple[int, ...], Floats]]:
        return [
            (prompt, self.state(row["prompt_ids"], demo, row["response"]["ids"]))
            for row in self.rows(number)
            if (demo := self.demos.get(prompt := tuple(row["prompt_ids"])))
            and row["response"]["finished"]
            and row["response"]["ids"] != demo
        ]

    def weights(self, update: int) -> Floats:
        return load_file(self.folder / "stages" / "00" / "rollouts" / f"reward-{update:04d}.safetensors")["weights"]

    def head(self, update: int) -> Floats:
        if update:
            return self.weights(update) / self.scale
        saved = load_file(self.folder / "stages" / "00" / "reward" / "model.safetensors")
        return saved["score.weight"][0].astype(np.float64)


def _weights(pairs: list[tuple[tuple[int, ...], Floats]], share: float) -> Floats:
    counts = Counter(prompt for prompt, _ in pairs)
    return np.array([share / len(counts) / counts[prompt] for prompt, _ in pairs])


@pytest.fixture(scope="module")
def by_hand(plain: Path, place: Path) -> ByHand:
    return ByHand(plain, place)


@pytest.mark.parametrize("update", [1, 2])
def test_an_update_is_a_fit_by_hand(update: int, by_hand: ByHand) -> None:
    """Three quarters for the two batches before it, a quarter for everything earlier; each prompt alike in its part."""
    fresh = [pair for number in range(2 * update - 2, 2 * update) for pair in by_hand.batch(number)]
    earlier = by_hand.own + [pair for number in range(2 * update - 2) for pair in by_hand.batch(number)]
    differences = np.stack([found for _, found in (*fresh, *earlier)]) / by_hand.scale
    weights = np.concatenate([_weights(fresh, 0.75), _weights(earlier, 0.25)])
    l2 = state_of(by_hand.folder, 0)["reward"]["l2"]

    def objective(point: Floats) -> float:
        return float(weights @ np.logaddexp(0, -differences @ point) + l2 * point @ point / 2)

    def slope(point: Floats) -> Floats:
        return -(weights / (1 + np.exp(differences @ point))) @ differences + l2 * point

    best = minimize(objective, np.zeros(len(by_hand.scale)), jac=slope, tol=1e-12)
    found = by_hand.weights(update)
    assert found == pytest.approx(best.x, abs=1e-3 * np.abs(best.x).max())
    assert np.abs(found - by_hand.head(update - 1) * by_hand.scale).max() > 0.05 * np.abs(found).max()


def test_each_batch_earns_the_reward_of_its_time(by_hand: ByHand) -> None:
    """And separates demonstrations from fresh responses by it; prompts without demonstrations are in the batches."""
    without, untaught = 0, 0
    for number in range(6):
        head = by_hand.head(number // 2)
        demos: dict[tuple[int, ...], float] = {}
        wins: list[float] = []
        for row in by_hand.rows(number):
            earned = float(by_hand.state(row["prompt_ids"], row["response"]["ids"]) @ head)
            assert row["reward"] == pytest.approx(earned, abs=1e-4)
            prompt = tuple(row["prompt_ids"])
            if prompt not in by_hand.demos:
                without += 1
                continue
            demos[prompt] = float(by_hand.state(row["prompt_ids"], by_hand.demos[prompt]) @ head)
            same = row["response"]["ids"] == by_hand.demos[prompt]
            wins.append(0.5 if same else float(demos[prompt] > earned))
        facts = read_json(by_hand.folder / "stages" / "00" / "rollouts" / f"{number:04d}.json")
        if not wins:
            untaught += 1
            assert "reward_model/accuracies" not in facts
            continue
        assert facts["reward_model/accuracies"] == pytest.approx(sum(wins) / len(wins))
        assert facts["reward_model/chosen"] == pytest.approx(sum(demos.values()) / len(demos), abs=1e-4)
    assert without > 0
    assert untaught == 1  # a batch of four prompts without demonstrations


def test_what_lies_in_the_folder(plain: Path) -> None:
    """No update after the last batch; the stage's reward is still that of the reward phase."""
    names = {file.name for file in (plain / "stages" / "00" / "rollouts").glob("reward-*")}
    assert names == {f"reward-{number:04d}.{kind}" for number in (1, 2) for kind in ("safetensors", "sealed")}
    record = state_of(plain, 0)
    published = load_file(plain / "reward" / "model.safetensors")["score.weight"]
    assert (published == load_file(plain / "stages" / "00" / "reward" / "model.safetensors")["score.weight"]).all()
    assert 0 <= record["policy"]["last"]["reward_model/accuracies"] <= 1
    recorded = [row for row in read_rows(plain / "metrics.jsonl") if "reward_model/accuracies" in row]
    assert len(recorded) == 5
    assert "Accuracy of the co-trained reward on fresh samples" in [
        chart.title for chart in curve_charts([load_run(plain)])
    ]


def test_killed_and_resumed_is_uninterrupted(place: Path, plain: Path) -> None:
    """At moments spread over the run at which a file becomes durable."""
    with pytest.MonkeyPatch.context() as patch:
        count = die_at(0, patch)
        run(config(place, "counted", save_steps=2))
        moments = count()
    for number in range(moments // 3, moments, moments // 7):
        name = f"killed-at-{number}"
        with pytest.MonkeyPatch.context() as patch:
            die_at(number, patch)
            with pytest.raises(Killed):
                run(config(place, name, save_steps=2))
        resume(place / name)
        assert_same_stage(place / name, plain)


@pytest.mark.parametrize("update", [1, 2])
def test_killed_before_an_update_is_kept(
    update: int, place: Path, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    name = f"killed-before-{update}"
    with monkeypatch.context() as patch:
        die_before(f"reward-{update:04d}.safetensors", patch)
        with pytest.raises(Killed):
            run(config(place, name, save_steps=1))
    resume(place / name)
    assert_same_stage(place / name, plain)


def assert_same_stage(found: Path, expected: Path) -> None:
    names = [
        str(file.relative_to(expected))
        for pattern in ("stages/00/*.jsonl.gz", "stages/00/check.json", "stages/00/rollouts/*", "model/*.safetensors")
        for file in expected.glob(pattern)
    ]
    assert len(names) > 24
    for name in sorted(names):
        assert (found / name).read_bytes() == (expected / name).read_bytes(), name


@pytest.mark.parametrize("fields", [{"use_peft": True, "reward_question": "e"}, {"reward_features": ("log_length",)}])
def test_with_lora_a_question_and_features(fields: dict[str, Any], place: Path) -> None:
    folder = run(config(place, "-".join(fields), **fields)).run_folder
    first, second = (
        load_file(folder / "stages" / "00" / "rollouts" / f"reward-{update:04d}.safetensors")["weights"]
        for update in (1, 2)
    )
    assert first.shape == (16 + ("reward_features" in fields),)
    assert (first != second).any()


def test_a_guard_follows_what_demonstrations_earn() -> None:
    limits = Limits(kl=1.0, longest=2.0, unfinished=0.5, reward=3.0)
    assert limits.following({"reward_model/chosen": 7.0}, 2.0).reward == 9.0
    assert limits.following({}, 2.0) == limits
    off = Limits(kl=1.0, longest=2.0, unfinished=0.5, reward=None)
    assert off.following({"reward_model/chosen": 7.0}, 0.0) == off


def test_replay_without_co_training_is_refused() -> None:
    with pytest.raises(DemotuneError, match=r"reward_replay belongs to co-training.*give --reward-every 1"):
        RFTConfig(output="x", reward_replay=0.3)


def test_the_estimate_counts_the_tokens_of_the_updates(place: Path) -> None:
    fields = [{"reward_every": None, "reward_replay": 0.5}, {"reward_every": 1}]
    plain, taught = (estimate_config(config(place, "-", **each), None)[0] for each in fields)
    tokens = [sum(work.forward_tokens for work in estimate.work) for estimate in (plain, taught)]
    assert tokens[1] > tokens[0]
    assert taught.seconds > plain.seconds


# The refit alone.


def columns(rng: np.random.Generator, count: int) -> PairColumns:
    return PairColumns(rng.normal(0.5, 1, (count, 3)), rng.normal(0, 1, (count, 3)), tuple(range(count)))


def test_a_refit_depends_on_its_start_by_rounding_only() -> None:
    rng = np.random.default_rng(0)
    fresh, earlier = [columns(rng, 20), columns(rng, 5)], [columns(rng, 40)]
    settings: dict[str, Any] = {"scale": np.ones(3), "l2": 0.1, "replay": 0.5}
    one, other = (refit(np.full(3, start), fresh, earlier, **settings) for start in (0.0, 5.0))
    assert one == pytest.approx(other, abs=1e-4)
    alone = refit(np.zeros(3), fresh, earlier, **{**settings, "replay": 0.0})
    assert alone == pytest.approx(refit(np.zeros(3), fresh, [], **settings), abs=1e-4)
    assert np.abs(alone - one).max() > 1e-2


def test_without_fresh_pairs_the_weights_stay() -> None:
    start = np.array([1.0, 2.0, 3.0])
    empty = PairColumns(np.zeros((0, 0)), np.zeros((0, 0)), ())
    assert refit(start, [empty], [columns(np.random.default_rng(0), 4)], scale=np.ones(3), l2=1.0, replay=0.5) is start
