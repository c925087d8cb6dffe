"""The explicit reward: how it starts, what it reads, how it is kept, and what its phase does with held-out pairs."""

import itertools
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from helpers.micro import END, letter_tokenizer, random_pairs, tiny_lm
from helpers.rewards import adapted_tiny, with_random_head
from helpers.rft_runs import TEMPLATE, config, make_world, read, state_of, weights, word
from helpers.tiny import save_tiny, write_rows
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from demotune import DemotuneError, run
from demotune.common.files import read_rows
from demotune.models.policy import load_policy, save_policy
from demotune.models.reward import reward_from_policy, save_reward_model
from demotune.models.reward_facts import RewardFacts
from demotune.models.reward_head import head_scores, reward_batch
from demotune.records import Completion, Pair, Response
from demotune.runs.folder import RunFolder
from demotune.training.callbacks import KeepBest, best_judgement
from demotune.training.contrast import LearnedPairs
from demotune.training.losses import reward_loss
from demotune.training.objectives import RewardObjective
from demotune.training.phases.reward import _too_few
from demotune.training.prepare import prepare_run
from demotune.training.stage import Stage

CPU = torch.device("cpu")
LOG_2 = 0.6931471805599453


def completion(prompt: Sequence[int], response: Sequence[int]) -> Completion:
    return Completion(tuple(prompt), Response(tuple(response), response[-1] == END))


def some_completions(seed: int = 0, count: int = 7) -> list[Completion]:
    pairs = random_pairs(seed, count)
    return [Completion(pair.prompt_ids, side) for pair in pairs for side in (pair.demo, pair.sample)]


def scores(model: nn.Module, completions: Sequence[Completion], pad_id: int = 0) -> Tensor:
    with torch.no_grad():
        return head_scores(model, reward_batch(completions, pad_id))


# The judge that keeps the best reward.


def decide(
    losses: Sequence[float], accuracies: Sequence[float], *, every: int, patience: int, steps: int
) -> tuple[list[int], int]:
    """Follow a scripted judge through a phase. Returns (steps whose reward was published, last step made)."""
    script = iter(zip(losses, accuracies, strict=True))
    state, control, published = TrainerState(max_steps=steps), TrainerControl(), list[int]()
    arguments = cast(TrainingArguments, None)
    keep = KeepBest(every, patience, lambda: published.append(state.global_step))

    def judge() -> None:
        loss, accuracy = next(script)
        state.log_history.append({"eval_loss": loss, "eval_rewards/accuracies": accuracy, "step": state.global_step})
        keep.on_evaluate(arguments, state, control)

    keep.judge = judge
    keep.on_train_begin(arguments, state, control)
    while not control.should_training_stop and state.global_step < steps:
        state.global_step += 1
        state.log_history.append({"loss": 1.0, "step": state.global_step})
        keep.on_step_end(arguments, state, control)
        if control.should_evaluate:
            control.should_evaluate = False
            judge()
    assert next(script, None) is None, "not all of the script was needed"
    assert best_judgement(state.log_history)["step"] == published[-1]
    return published, state.global_step


@pytest.mark.parametrize(
    ("losses", "accuracies", "settings", "expected"),
    [
        # Better throughout: the last one is kept, all steps are made.
        ([0.7, 0.6, 0.5, 0.4], [0.5] * 4, {"every": 2, "patience": 1, "steps": 6}, ([0, 2, 4, 6], 6)),
        # A judgement at the last step, which `every` does not divide.
        ([0.7, 0.6, 0.5], [0.5] * 3, {"every": 2, "patience": 3, "steps": 3}, ([0, 2, 3], 3)),
        # Worse from the start: step 0 is kept; two judgements without a gain end it.
        ([0.7, 0.8, 0.9], [0.5] * 3, {"every": 5, "patience": 2, "steps": 100}, ([0], 10)),
        # A worse one, then the best of all, then two worse ones.
        ([0.7, 0.8, 0.6, 0.65, 0.61], [0.5] * 5, {"every": 1, "patience": 2, "steps": 9}, ([0, 2], 4)),
        # The loss grows from step 3 on, but accuracy has a new height at 6: only after 12 nothing has gained for long.
        ([0.7, 0.8, 0.9, 1.0, 1.1], [0.5, 0.5, 0.6, 0.6, 0.6], {"every": 3, "patience": 2, "steps": 60}, ([0], 12)),
        # Equal is no gain, and the first of equals is kept.
        ([0.7, 0.6, 0.6, 0.6], [0.5] * 4, {"every": 1, "patience": 2, "steps": 9}, ([0, 1], 3)),
        # A loss that falls again to below the start, but not below its best, is no gain.
        ([0.7, 0.5, 0.9, 0.6], [0.5] * 4, {"every": 1, "patience": 2, "steps": 9}, ([0, 1], 3)),
        # An accuracy that comes back to its best is no gain either.
        ([0.7, 0.7, 0.7], [0.9, 0.5, 0.9], {"every": 1, "patience": 2, "steps": 9}, ([0], 2)),
    ],
)
def test_what_is_kept_and_when_it_ends(
    losses: list[float], accuracies: list[float], settings: dict[str, int], expected: tuple[list[int], int]
) -> None:
    assert decide(losses, accuracies, **settings) == expected


@pytest.mark.parametrize(("losses", "ends"), [([0.7, 0.8, 0.9], True), ([0.7, 0.8], False), ([0.7, 0.8, 0.6], False)])
def test_a_resumed_phase_decides_by_its_history(losses: list[float], ends: bool) -> None:
    """Nothing is judged or published again; a phase whose patience had run out ends at once."""
    history = [{"eval_loss": loss, "eval_rewards/accuracies": 0.5, "step": step} for step, loss in enumerate(losses)]
    state, control = TrainerState(max_steps=9, global_step=2, log_history=history), TrainerControl()
    touched = []
    keep = KeepBest(1, 2, lambda: touched.append("published"))
    keep.judge = lambda: touched.append("judged")
    keep.on_train_begin(cast(TrainingArguments, None), state, control)
    assert control.should_training_stop == ends
    assert not touched


# The phase in a run.


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("reward-phase"))


def judgements(folder: Path, stage: int) -> list[dict[str, Any]]:
    return [row for row in read(folder, stage, "reward-metrics.jsonl") if "eval_loss" in row]


def heldout_loss(folder: Path, stage: int, link: str = "logistic") -> tuple[float, float]:
    """(mean loss, accuracy) by the rewards of held-out pairs in rewards.jsonl.gz that the reward may see."""
    rows = [row for row in read(folder, stage, "rewards.jsonl.gz") if row["heldout"] and row["usable"]]
    margins = [row["demo_reward"] - row["sample_reward"] for row in rows]
    losses = [math.log1p(math.exp(-margin)) if link == "logistic" else -margin for margin in margins]
    return sum(losses) / len(rows), sum((margin > 0) + 0.5 * (margin == 0) for margin in margins) / len(rows)


def judged_by(model: nn.Module, rows: Sequence[dict[str, Any]]) -> float:
    """Mean logistic loss of a model on sampled rows, each side alone without padding."""
    losses = []
    for row in rows:
        sides = [torch.tensor([row["prompt_ids"] + row[f"{side}_ids"]]) for side in ("demo", "sample")]
        with torch.no_grad():
            demo, sample = (float(model(ids).logits) for ids in sides)
        losses.append(math.log1p(math.exp(sample - demo)))
    return sum(losses) / len(losses)


def usable_rows(folder: Path, stage: int, *, heldout: bool) -> list[dict[str, Any]]:
    rows = read(folder, stage, "samples.jsonl.gz")
    return [row for row in rows if row["heldout"] == heldout and row["finished"] and row["demo_finished"]]


@pytest.fixture(scope="module")
def overfitted(place: Path) -> Path:
    """Far too many reward steps at far too high a rate."""
    fields = {"reward_learning_rate": 3e-2, "reward_epochs": 60.0, "reward_eval_steps": 1, "reward_patience": 4}
    return run(config(place, "overfitted", **fields)).run_folder


@pytest.mark.parametrize("stage", [0, 1])
def test_an_earlier_reward_is_kept(overfitted: Path, stage: int) -> None:
    """The published reward is the one of the lowest held-out loss, which its file gives again."""
    judged, record = judgements(overfitted, stage), state_of(overfitted, stage)["reward"]
    best = min(judged, key=lambda row: row["eval_loss"])
    assert [row["step"] for row in judged] == list(range(len(judged)))
    assert record["steps"] == judged[-1]["step"] < 60
    assert record["kept_step"] == best["step"] < record["steps"]
    assert judged[-1]["eval_loss"] > best["eval_loss"] + 0.01
    loss, accuracy = heldout_loss(overfitted, stage)
    assert loss == pytest.approx(best["eval_loss"], abs=1e-5)
    assert accuracy == pytest.approx(best["eval_rewards/accuracies"])
    assert record["check"]["accuracy"]["value"] == pytest.approx(accuracy)
    # Patience: four judgements without a gain in loss or accuracy, and no such four before.
    gains, loss, accuracy = [0], judged[0]["eval_loss"], judged[0]["eval_rewards/accuracies"]
    for row in judged[1:]:
        if row["eval_loss"] < loss or row["eval_rewards/accuracies"] > accuracy:
            gains.append(row["step"])
        loss, accuracy = min(loss, row["eval_loss"]), max(accuracy, row["eval_rewards/accuracies"])
    assert record["steps"] - gains[-1] == 4
    assert all(later - earlier <= 4 for earlier, later in itertools.pairwise(gains))


def test_steps_that_end_before_the_first_record(place: Path) -> None:
    """One judgement that is worse than the start ends the phase; no step has been recorded by then."""
    fields = {"logging_steps": 100, "reward_learning_rate": 30.0, "reward_eval_steps": 1, "reward_patience": 1}
    folder = run(config(place, "unrecorded", stages=1, reward_epochs=20.0, finished_only=False, **fields)).run_folder
    assert not [row for row in read(folder, 0, "reward-metrics.jsonl") if "loss" in row]
    record = state_of(folder, 0)["reward"]
    assert record["steps"] == judgements(folder, 0)[-1]["step"] < 20
    assert record["end"] == {}


def test_the_overfitted_run_keeps_more_than_its_start(overfitted: Path) -> None:
    assert state_of(overfitted, 0)["reward"]["kept_step"] > 0
    assert judgements(overfitted, 0)[0]["eval_loss"] == pytest.approx(LOG_2, abs=1e-6)
    assert judgements(overfitted, 0)[0]["eval_rewards/accuracies"] == 0.5


def test_the_next_stage_goes_on_from_the_published_reward(overfitted: Path) -> None:
    """Stage 1's first judgement, before any step, is stage 0's reward on stage 1's held-out pairs."""
    reward = AutoModelForSequenceClassification.from_pretrained(overfitted / "stages" / "00" / "reward").eval()
    expected = judged_by(reward, usable_rows(overfitted, 1, heldout=True))
    assert judgements(overfitted, 1)[0]["eval_loss"] == pytest.approx(expected, abs=1e-5)
    assert abs(expected - LOG_2) > 1e-3


def test_the_next_stage_goes_on_with_lora_too(place: Path) -> None:
    fields = {"use_peft": True, "lora_r": 4, "reward_learning_rate": 3e-2}
    folder = run(config(place, "lora", **fields)).run_folder
    loss, accuracy = heldout_loss(folder, 0)
    best = best_judgement(judgements(folder, 0))
    assert (best["eval_loss"], best["eval_rewards/accuracies"]) == pytest.approx((loss, accuracy), abs=1e-5)
    assert best["step"] > 0
    # On stage 1's held-out samples, by stage 0's adapter on the start model (not on stage 1's policy).
    base = load_policy(place / "start", dtype="float32", attn_implementation="eager", device=CPU)
    reward = reward_from_policy(cast(Any, base), 0)
    loaded = PeftModel.from_pretrained(cast(Any, reward), str(folder / "stages" / "00" / "reward")).eval()
    expected = judged_by(loaded, usable_rows(folder, 1, heldout=True))
    assert judgements(folder, 1)[0]["eval_loss"] == pytest.approx(expected, abs=1e-5)


# Which pairs the reward may see.


@pytest.mark.parametrize("finished_only", [True, False])
def test_finished_only_keeps_cut_off_responses_from_the_reward(
    finished_only: bool, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: set[str] = set()
    collate = RewardObjective.collate

    def noting(self: RewardObjective, records: Sequence[Pair]) -> Any:
        seen.update(record.key for record in records)
        return collate(self, records)

    monkeypatch.setattr(RewardObjective, "collate", noting)
    name = f"finished-{finished_only}"
    folder = run(config(place, name, stages=1, finished_only=finished_only)).run_folder
    rows = [row for row in read(folder, 0, "samples.jsonl.gz") if not row["heldout"]]
    ended = {row["key"] for row in rows if row["finished"]}
    assert 0 < len(ended) < len(rows)
    assert seen == (ended if finished_only else {row["key"] for row in rows})
    assert state_of(folder, 0)["reward"]["pairs"] == len(seen)
    said = f"{len(ended)} of {len(rows)} pairs train the reward; the others were cut off"
    assert (said in " ".join(capsys.readouterr().out.split())) == finished_only
    files = read(folder, 0, "rewards.jsonl.gz")
    usable = {row["key"] for row in files if row["usable"] and not row["heldout"]}
    assert usable == seen
    heldout = sum(row["usable"] for row in files if row["heldout"])
    assert state_of(folder, 0)["reward"]["check"]["pairs"] == heldout
    assert ("responses that end by themselves only" in (folder / "reward" / "README.md").read_text()) == finished_only


def test_no_finished_sample_is_an_error_that_names_the_ways_out(tmp_path: Path) -> None:
    save_tiny(tmp_path / "start")  # its samples of six tokens never end by themselves
    fields = {"template": None, "max_length": 64, "data": (write_rows(tmp_path / "rows.jsonl"),)}
    with pytest.raises(
        DemotuneError,
        match=r"stage 1 has 9 pairs; 9 were cut off; no pair is left.*--max-new-.*--no-finished-only",
    ):
        run(config(tmp_path, "unfinished", **fields))
    assert "reward" not in state_of(tmp_path / "unfinished", 0)


@pytest.mark.parametrize(
    ("prompts", "left", "every", "equal", "message"),
    [
        (0, 0, 9, 9, "stage 1 has 9 pairs; 9 have equal sides; no pair is left to train the reward on: give more demo"),
        (4, 4, 9, 2, "stage 1 has 9 pairs; 2 have equal sides and 3 were cut off; the others are of 4 prompts, and a "),
        (
            4,
            4,
            4,
            0,
            "stage 1 has 4 pairs; they are of 4 prompts, and a linear reward needs 5: give more demonstrations",
        ),
    ],
)
def test_too_few_pairs_are_an_error_with_its_causes_and_their_remedies(
    prompts: int, left: int, every: int, equal: int, message: str, place: Path
) -> None:
    stage = Stage(prepare_run(config(place, "few"), RunFolder(place / "few"), ()), 0)
    pairs = LearnedPairs(random_pairs(0, left), every, equal)
    found = str(_too_few(stage, prompts, pairs))
    assert message in found
    assert ("--max-new-tokens" in found) == (pairs.unfinished > 0)


def test_held_out_samples_that_never_end_cannot_stop_the_steps(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Held-out prompts leave room for two tokens, and none of the three samples ends in them."""
    rng = random.Random(29)
    rows = [{"prompt": word(rng, 21, 21), "completion": word(rng, 1, 1)} for _ in range(3)]
    (place / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run(config(place, "heldout-unfinished", stages=1, eval_data=(str(place / "long.jsonl"),)))
    heldout = [row for row in read(result.run_folder, 0, "samples.jsonl.gz") if row["heldout"]]
    assert [row["finished"] for row in heldout] == [False] * 3
    record = state_of(result.run_folder, 0)["reward"]
    assert "no held-out sample of stage 1 ends by itself: nothing can stop the" in " ".join(
        capsys.readouterr().out.split()
    )
    assert (record["on_heldout"], record["kept_step"], record["check"]) == (False, record["steps"], {})
    assert record["steps"] == 3 * -(-record["pairs"] // 4)
    check = result.stages[0]["check"]
    assert "reward" not in check
    assert check["policy"]["prompts"] == 3
    rows = [row for row in read(result.run_folder, 0, "rewards.jsonl.gz") if not row["heldout"] and row["usable"]]
    assert record["demo_reward"] == pytest.approx(sum(row["demo_reward"] for row in rows) / len(rows))


def test_without_held_out_rows_the_last_reward_is_kept(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(config(place, "none-held-out", eval_share=0.0, stop_reward_margin=50.0))
    for stage in (0, 1):
        record = state_of(result.run_folder, stage)["reward"]
        assert (record["on_heldout"], record["kept_step"], record["check"]) == (False, record["steps"], {})
        assert judgements(result.run_folder, stage) == []
        assert result.stages[stage]["check"] == {}
        rows = [row for row in read(result.run_folder, stage, "rewards.jsonl.gz") if row["usable"]]
        assert record["demo_reward"] == pytest.approx(sum(row["demo_reward"] for row in rows) / len(rows))
    assert result.start_nll_per_token is None
    assert "no held-out rows" in capsys.readouterr().out
    assert any(value.any() for name, value in weights(result.run_folder / "reward").items() if "score" in name)


# The loss that is trained, and a bound.


def test_a_bounded_linear_reward(place: Path) -> None:
    fields = {"reward_bound": 2.0, "reward_link": "linear", "reward_learning_rate": 3e-2, "stages": 1}
    folder = run(config(place, "bounded", **fields)).run_folder
    rows = read(folder, 0, "rewards.jsonl.gz")
    rewards = [row[f"{side}_reward"] for row in rows for side in ("demo", "sample")]
    rewards += [row["reward"] for row in read(folder, 0, "rollouts/0001.jsonl.gz")]
    assert 0 < min(rewards) < 1 < max(rewards) < 2
    judged = judgements(folder, 0)
    assert judged[0]["eval_loss"] == pytest.approx(0, abs=1e-7)
    best = best_judgement(judged)
    assert best["step"] > 0
    assert (best["eval_loss"], best["eval_rewards/accuracies"]) == pytest.approx(
        heldout_loss(folder, 0, "linear"), abs=1e-5
    )
    first = next(row for row in read(folder, 0, "reward-metrics.jsonl") if "loss" in row)
    assert (first["loss"], first["rewards/chosen"], first["rewards/rejected"]) == (0, 1, 1)
    assert json.loads((folder / "reward" / "reward.json").read_text()) == {
        "link": "linear",
        "bound": 2.0,
        "template": TEMPLATE,
        "features": {},
    }
    assert "Reward of a response: 2 * sigmoid(the head's number)" in (folder / "reward" / "README.md").read_text()
    # The published head is the number under the sigmoid.
    reward = AutoModelForSequenceClassification.from_pretrained(folder / "reward").eval()
    for row in [row for row in read(folder, 0, "samples.jsonl.gz") if not row["heldout"]][:3]:
        with torch.no_grad():
            head = float(reward(torch.tensor([row["prompt_ids"] + row["demo_ids"]])).logits)
        found = next(other for other in rows if other["key"] == row["key"] and not other["heldout"])
        assert found["demo_reward"] == pytest.approx(2 / (1 + math.exp(-head)), abs=1e-5)


def test_centring_is_part_of_what_the_judge_sees(place: Path) -> None:
    """log(1 + e^-m) + 0.5 (r + r')^2, on held-out pairs, of the reward that is kept."""
    fields = {"center_rewards_coefficient": 0.5, "stages": 1}
    folder = run(config(place, "centred", **fields)).run_folder
    rows = [row for row in read(folder, 0, "rewards.jsonl.gz") if row["heldout"] and row["usable"]]
    demos, samples = (torch.tensor([row[f"{side}_reward"] for row in rows]) for side in ("demo", "sample"))
    expected = sum(
        math.log1p(math.exp(float(sample - demo))) + 0.5 * float(demo + sample) ** 2
        for demo, sample in zip(demos, samples, strict=True)
    ) / len(rows)
    assert best_judgement(judgements(folder, 0))["eval_loss"] == pytest.approx(expected, abs=1e-5)
    assert float(reward_loss(demos, samples, "logistic").mean()) < expected - 1e-6


# A reward that the user names.


def save_scalar_reward(folder: Path, *, vocabulary: int = 12) -> Path:
    """A sequence classifier with one label and random weights."""
    reward = with_random_head(reward_from_policy(tiny_lm(seed=5, vocabulary=vocabulary), 0))
    save_reward_model(reward, letter_tokenizer(vocabulary), RewardFacts("logistic", None, TEMPLATE), folder, "")
    return folder


def test_a_named_reward_is_where_the_reward_starts(place: Path) -> None:
    named = save_scalar_reward(place / "named")
    fields = {"reward_model": str(named), "reward_steps": 1, "reward_learning_rate": 1e-12, "stages": 1}
    folder = run(config(place, "from-named", **fields)).run_folder
    reward = AutoModelForSequenceClassification.from_pretrained(named).eval()
    expected = judged_by(reward, usable_rows(folder, 0, heldout=True))
    assert abs(expected - LOG_2) > 0.01
    assert judgements(folder, 0)[0]["eval_loss"] == pytest.approx(expected, abs=1e-5)
    first = next(row for row in read(folder, 0, "reward-metrics.jsonl") if "loss" in row)
    assert abs(first["rewards/margins"]) > 0.01
    found, begun = weights(folder / "reward"), weights(named)
    assert found.keys() == begun.keys()
    assert all(torch.allclose(found[name], value, atol=1e-9) for name, value in begun.items())
    assert f"Start: {named}" in (folder / "reward" / "README.md").read_text()


def test_a_named_language_model_gets_a_head_of_zeros(place: Path) -> None:
    other = tiny_lm(seed=6, vocabulary=12)
    save_policy(other, letter_tokenizer(12), place / "other-lm")
    fields = {"reward_model": str(place / "other-lm"), "reward_steps": 1, "reward_learning_rate": 1e-12, "stages": 1}
    folder = run(config(place, "from-lm", **fields)).run_folder
    assert judgements(folder, 0)[0]["eval_loss"] == pytest.approx(LOG_2, abs=1e-6)
    found, begun = weights(folder / "reward"), load_file(place / "other-lm" / "model.safetensors")
    assert found.keys() == {name for name in begun if name != "lm_head.weight"} | {"score.weight"}
    assert all(torch.allclose(value, begun[name], atol=1e-9) for name, value in found.items() if name in begun)
    assert found["score.weight"].abs().max() < 1e-9


@pytest.mark.parametrize("kind", ["reward", "language model"])
def test_a_named_model_under_lora_is_published_as_it_was_trained(kind: str, place: Path) -> None:
    """Its adapter stands on the named model, not on the policy's base: when scored, and when stage 1 goes on."""
    if kind == "reward":
        named = save_scalar_reward(place / "named-for-lora")
    else:
        named = place / "lm-for-lora"
        save_policy(tiny_lm(seed=6, vocabulary=12), letter_tokenizer(12), named)
    fields = {"use_peft": True, "reward_model": str(named), "reward_learning_rate": 1e-3}
    folder = run(config(place, f"lora-{kind}", **fields)).run_folder
    for stage in (0, 1):
        best = best_judgement(judgements(folder, stage))
        assert heldout_loss(folder, stage)[0] == pytest.approx(best["eval_loss"], abs=1e-5)
    if kind == "reward":
        reward = AutoModelForSequenceClassification.from_pretrained(named).eval()
        expected = judged_by(reward, usable_rows(folder, 0, heldout=True))
        assert judgements(folder, 0)[0]["eval_loss"] == pytest.approx(expected, abs=1e-5)
    assert "AutoPeftModelForSequenceClassification.from_pretrained" in (folder / "reward" / "README.md").read_text()


def test_the_card_of_a_named_adapter_says_how_to_load_it(tmp_path: Path) -> None:
    """The run trains all weights of the policy; its reward stays the adapter that it began as."""
    reward = with_random_head(reward_from_policy(adapted_tiny(tmp_path / "start"), 0))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path / "start")
    save_reward_model(reward, tokenizer, RewardFacts("logistic", None, None), tmp_path / "named", "")
    data = (write_rows(tmp_path / "rows.jsonl"),)
    fields = {"template": None, "max_length": 64, "data": data, "finished_only": False, "stages": 1}
    folder = run(config(tmp_path, "run", reward_model=str(tmp_path / "named"), **fields)).run_folder
    assert (folder / "reward" / "adapter_config.json").exists()
    assert "AutoPeftModelForSequenceClassification.from_pretrained" in (folder / "reward" / "README.md").read_text()
    best = best_judgement(judgements(folder, 0))
    assert heldout_loss(folder, 0)[0] == pytest.approx(best["eval_loss"], abs=1e-5)


def two_labels(folder: Path) -> Path:
    model = reward_from_policy(tiny_lm(vocabulary=12), 0)
    model.config.num_labels = 2
    model.score = nn.Linear(16, 2, bias=False)
    save_policy(cast(Any, model), letter_tokenizer(12), folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("two labels", r"two-labels has 2 labels; a reward has one number: give a model with one label"),
        ("another vocabulary", r"reward_model .*other-words has another vocabulary than .*start.*demotune select"),
        ("nothing", r"nowhere.* is no folder or GGUF file here.*check the path or the hub id"),
    ],
)
def test_a_reward_that_does_not_fit_is_refused(kind: str, message: str, place: Path) -> None:
    if kind == "two labels":
        named = two_labels(place / "two-labels")
    elif kind == "another vocabulary":
        save_tiny(place / "other-words")
        named = place / "other-words"
    else:
        named = place / "nowhere"
    with pytest.raises(DemotuneError, match=message):
        run(config(place, f"refused-{kind.replace(' ', '-')}", reward_model=str(named)))


def test_too_many_frozen_layers_are_refused_in_a_run(place: Path) -> None:
    with pytest.raises(DemotuneError, match="reward_frozen_layers is 2, the reward has 2 layers; freeze fewer"):
        run(config(place, "frozen", reward_frozen_layers=2))


def test_rows_of_metrics_and_files_belong_together(overfitted: Path) -> None:
    """reward-metrics.jsonl is what metrics.jsonl holds for the reward phase, stage by stage."""
    for stage in (0, 1):
        own = read(overfitted, stage, "reward-metrics.jsonl")
        shared = [
            {name: value for name, value in row.items() if name not in ("stage", "phase")}
            for row in read_rows(overfitted / "metrics.jsonl")
            if row["stage"] == stage and row["phase"] == "reward" and not row.get("finished")
        ]
        assert shared == own
