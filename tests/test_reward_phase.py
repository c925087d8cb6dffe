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
from micro import ARCHITECTURES, END, Architecture, letter_tokenizer, parameters, random_pairs, tiny_lm, train
from peft import AutoPeftModelForSequenceClassification, PeftModel
from safetensors.torch import load_file
from test_rft import TEMPLATE, adapted, config, make_world, read, state_of, weights
from tiny import save_tiny, write_rows
from tokenizers import Tokenizer, models
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from demotune import DemotuneError, RFTConfig, run
from demotune.common.files import read_rows
from demotune.models.policy import attach_adapter, load_policy, lora_config, save_policy
from demotune.models.reward import (
    RewardFacts,
    RewardModel,
    freeze_lower_layers,
    is_reward_model,
    load_reward_model,
    padding_id,
    read_facts,
    reward_from_policy,
    save_reward_model,
)
from demotune.models.reward_head import completion_rewards, head_scores, reward_batch, right_padded
from demotune.records import Completion, Pair, Response
from demotune.training.callbacks import KeepBest, best_judgement
from demotune.training.losses import reward_loss
from demotune.training.objectives import RewardObjective
from demotune.training.phases import reward as reward_phase

CPU = torch.device("cpu")
LOG_2 = 0.6931471805599453


def completion(prompt: Sequence[int], response: Sequence[int]) -> Completion:
    return Completion(tuple(prompt), Response(tuple(response), response[-1] == END))


def some_completions(seed: int = 0, count: int = 7) -> list[Completion]:
    pairs = random_pairs(seed, count)
    return [Completion(pair.prompt_ids, side) for pair in pairs for side in (pair.demo, pair.sample)]


def with_random_head(model: RewardModel, seed: int = 0) -> RewardModel:
    torch.manual_seed(seed)
    for name, weight in model.named_parameters():
        if name.endswith(("score.weight", "score.modules_to_save.default.weight")):
            nn.init.normal_(weight)
    return model


def scores(model: nn.Module, completions: Sequence[Completion], pad_id: int = 0) -> Tensor:
    with torch.no_grad():
        return head_scores(model, reward_batch(completions, pad_id))


# A reward made from a policy.


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_reward_starts_at_exactly_zero(architecture: Architecture) -> None:
    reward = reward_from_policy(tiny_lm(architecture), 0)
    assert scores(reward, some_completions()).tolist() == [0.0] * 14
    assert all(weight.requires_grad for weight in reward.parameters())


def test_a_reward_beside_an_adapter_starts_at_zero_with_a_copy_of_it() -> None:
    policy = adapted()
    reward = cast(PeftModel, reward_from_policy(policy, 0))
    completions = [completion([2, 3], [4, END]), completion([5], [6, 7, 8])]
    assert scores(reward, completions).tolist() == [0.0, 0.0]
    ours, theirs = (
        {name: weight for name, weight in model.named_parameters() if "lora" in name} for model in (reward, policy)
    )
    assert len(ours) == len(theirs) == 2 * 2 * 7  # A and B of two layers with seven linear maps
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert all(ours[name].data_ptr() != theirs[name].data_ptr() for name in theirs)
    trained = {name for name, weight in reward.named_parameters() if weight.requires_grad}
    assert trained == ours.keys() | {"base_model.model.score.modules_to_save.default.weight"}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_head_reads_the_last_token(architecture: Architecture) -> None:
    """Equal to the last hidden state of each row alone, times the head's weights; an end token counts as the last."""
    reward = with_random_head(reward_from_policy(tiny_lm(architecture), 0))
    completions = [completion([2, 3, 4], [5, END]), completion([6], [7]), completion([8, 9], [10, 11, 12, 13, END])]
    expected = []
    for one in completions:
        ids = torch.tensor([[*one.prompt_ids, *one.response.ids]])
        with torch.no_grad():
            hidden = reward.base_model(ids).last_hidden_state[0, -1]
        expected.append(float((hidden.double() * reward.score.weight[0].double()).sum()))
    assert scores(reward, completions).tolist() == pytest.approx(expected, abs=1e-5)
    assert max(expected) - min(expected) > 1


def test_a_batch_by_hand() -> None:
    batch = right_padded(reward_batch([completion([5, 6], [7, END]), completion([8], [9])], pad_id=3))
    assert batch["input_ids"].tolist() == [[5, 6, 7, 1], [8, 9, 3, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("pad_id", [0, 40])
def test_padding_and_company_change_no_reward(architecture: Architecture, pad_id: int) -> None:
    reward = with_random_head(reward_from_policy(tiny_lm(architecture, vocabulary=64), pad_id))
    completions = [
        one
        for one in some_completions(1, 9)
        if pad_id not in (one.response.ids[-1], *one.prompt_ids, *one.response.ids)
    ]
    assert len(completions) > 9
    alone = [float(scores(reward, [one], pad_id)) for one in completions]
    assert scores(reward, completions, pad_id).tolist() == pytest.approx(alone, abs=1e-5)
    shuffled = random.Random(0).sample(range(len(completions)), len(completions))
    found = scores(reward, [completions[row] for row in shuffled], pad_id).tolist()
    assert found == pytest.approx([alone[row] for row in shuffled], abs=1e-5)
    for size in (1, 2, 5):
        settings: dict[str, Any] = {"pad_id": pad_id, "bound": None, "bf16": False}
        assert completion_rewards(reward, completions, batch_size=size, **settings) == pytest.approx(alone, abs=1e-5)
    batch = right_padded(reward_batch(completions, pad_id))
    wide = {
        name: torch.nn.functional.pad(tensor, (0, 5), value=pad_id if name == "input_ids" else 0)
        for name, tensor in batch.items()
    }
    with torch.no_grad():
        assert head_scores(reward, wide).tolist() == pytest.approx(alone, abs=1e-5)


def test_bounded_scores() -> None:
    """3 * sigmoid of the head."""
    reward = with_random_head(reward_from_policy(tiny_lm(), 0))
    completions = some_completions()
    found = completion_rewards(reward, completions, pad_id=0, bound=3.0, batch_size=4, bf16=False)
    assert found == pytest.approx(
        [3 / (1 + math.exp(-score)) for score in scores(reward, completions).tolist()], abs=1e-5
    )


# Padding is never an end token.


def words_tokenizer(**specials: Any) -> PreTrainedTokenizerFast:
    """Six words with the ids 0 to 5: a b c d e f."""
    vocabulary = {letter: number for number, letter in enumerate("abcdef")}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="f")), **specials)


@pytest.mark.parametrize(
    ("specials", "stops", "expected"),
    [
        ({"pad_token": "c", "eos_token": "b", "unk_token": "f"}, [1], 2),  # a padding token of its own
        ({"pad_token": "b", "eos_token": "b", "unk_token": "f"}, [1], 5),  # padding is the end token
        ({"eos_token": "b", "unk_token": "f"}, [1], 5),  # no padding token
        ({"pad_token": "b", "eos_token": "b", "bos_token": "e"}, [1], 4),  # no unknown token, another special one
        ({"pad_token": "b", "eos_token": "b"}, [1], 0),  # nothing but the end token
        ({"pad_token": "a", "eos_token": "a"}, [0, 1], 2),  # two stop ids, at the start of the vocabulary
        ({"pad_token": "b", "eos_token": "c", "unk_token": "b"}, [1, 2], 0),
        ({}, [0, 1, 2], 3),
    ],
)
def test_padding_id(specials: dict[str, str], stops: list[int], expected: int) -> None:
    assert padding_id(words_tokenizer(**specials), stops) == expected


# Saved and loaded.


def padded_batch(tokenizer: PreTrainedTokenizerBase, completions: Sequence[Completion]) -> dict[str, Tensor]:
    """As a user pads: by the saved folder's tokenizer."""
    rows = [[*one.prompt_ids, *one.response.ids] for one in completions]
    return dict(tokenizer.pad({"input_ids": rows}, padding_side="right", return_tensors="pt"))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("pad_token", ["<pad>", "</s>", None])
def test_plain_transformers_reads_a_saved_reward_alike(
    architecture: Architecture, pad_token: str | None, tmp_path: Path
) -> None:
    """Also where the policy's tokenizer pads with the end token, or with nothing."""
    tokenizer = letter_tokenizer()
    tokenizer.pad_token = pad_token
    pad_id = padding_id(tokenizer, [END])
    model = tiny_lm(architecture, pad_token_id=END if pad_token == "</s>" else None)
    reward = with_random_head(reward_from_policy(model, pad_id))
    save_reward_model(reward, tokenizer, RewardFacts("logistic", 2.0, "x{prompt}"), tmp_path / "reward", "# card")
    assert tokenizer.pad_token == pad_token  # the caller's own is left alone
    completions = some_completions()
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward").eval()
    saved = PreTrainedTokenizerFast.from_pretrained(tmp_path / "reward")
    assert saved.pad_token_id == pad_id != END
    with torch.no_grad():
        logits = loaded(**padded_batch(saved, completions)).logits.squeeze(-1)
    expected = [float(scores(reward, [one], pad_id)) for one in completions]
    assert logits.tolist() == pytest.approx(expected, abs=1e-5)
    ours = load_reward_model(tmp_path / "reward", dtype="float32", attn_implementation="eager", device=CPU)
    assert scores(ours, completions, pad_id).tolist() == pytest.approx(expected, abs=1e-5)
    assert read_facts(tmp_path / "reward") == RewardFacts("logistic", 2.0, "x{prompt}")
    assert (tmp_path / "reward" / "README.md").read_text() == "# card"
    assert is_reward_model(tmp_path / "reward")


def test_a_reward_from_elsewhere_has_no_facts(tmp_path: Path) -> None:
    assert read_facts(tmp_path) == RewardFacts(link="unknown", bound=None, template=None)


def adapted_tiny(folder: Path) -> PeftModel:
    save_tiny(folder)
    base = load_policy(folder, dtype="float32", attn_implementation="eager", device=CPU)
    policy = attach_adapter(base, lora_config(4, 8, ("all-linear",)), 0)
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    return policy


@pytest.mark.parametrize("base_padding", [0, 2])
def test_peft_reads_a_saved_adapter_alike(base_padding: int, tmp_path: Path) -> None:
    """As its card says, also on a base that pads with the end token; and on the policy's own base weights."""
    policy = adapted_tiny(tmp_path / "start")
    base_config = tmp_path / "start" / "config.json"
    base_config.write_text(json.dumps(json.loads(base_config.read_text()) | {"pad_token_id": base_padding}))
    reward = with_random_head(reward_from_policy(policy, 0))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path / "start")
    save_reward_model(reward, tokenizer, RewardFacts("logistic", None, None), tmp_path / "reward", "")
    assert is_reward_model(tmp_path / "reward")
    assert not (tmp_path / "reward" / "model.safetensors").exists()
    completions = [Completion((5, 6, 7), Response((8, 2), True)), Completion((9,), Response((10, 11, 12, 13), False))]
    expected = [float(scores(reward, [one])) for one in completions]
    assert abs(expected[0] - expected[1]) > 0.01
    loaded = AutoPeftModelForSequenceClassification.from_pretrained(str(tmp_path / "reward"), num_labels=1).eval()
    loaded.config.pad_token_id = AutoTokenizer.from_pretrained(tmp_path / "reward").pad_token_id
    with torch.no_grad():
        logits = loaded(**padded_batch(tokenizer, completions)).logits.squeeze(-1)
    assert logits.tolist() == pytest.approx(expected, abs=1e-5)
    for share in (None, policy):
        ours = load_reward_model(
            tmp_path / "reward", dtype="float32", attn_implementation="eager", device=CPU, share=share
        )
        assert scores(ours, completions).tolist() == pytest.approx(expected, abs=1e-5)


# Frozen layers.


def moved(model: RewardModel, folder: Path) -> set[str]:
    """The parameters that four steps on pairs change."""
    before = parameters(model)
    objective = RewardObjective("logistic", None, 0.0, 0)
    train(cast(Any, model), objective, [random_pairs(seed, 4, all_finished=True) for seed in range(4)], folder)
    after = parameters(model)
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_frozen_layers_stay_and_all_others_move(tmp_path: Path) -> None:
    everything = {name for name, _ in reward_from_policy(tiny_lm(), 0).named_parameters()}
    reward = reward_from_policy(tiny_lm(), 0)
    freeze_lower_layers(reward, 0)
    assert moved(reward, tmp_path / "none") == everything
    reward = reward_from_policy(tiny_lm(), 0)
    freeze_lower_layers(reward, 1)
    lower = {name for name in everything if name.startswith("model.layers.0.")}
    assert len(lower) == 9
    assert moved(reward, tmp_path / "one") == everything - lower - {"model.embed_tokens.weight"}


def test_position_embeddings_are_embeddings_too(tmp_path: Path) -> None:
    reward = reward_from_policy(tiny_lm("gpt2"), 0)
    freeze_lower_layers(reward, 1)
    found = moved(reward, tmp_path)
    stays = ("transformer.wte.", "transformer.wpe.", "transformer.h.0.")
    assert found == {name for name, _ in reward.named_parameters() if not name.startswith(stays)}


def test_frozen_layers_of_an_adapter_stay(tmp_path: Path) -> None:
    policy = attach_adapter(tiny_lm(), lora_config(2, 4, ("all-linear",)), 0)
    reward = reward_from_policy(policy, 0)
    freeze_lower_layers(reward, 1)
    found = moved(reward, tmp_path)
    head = "base_model.model.score.modules_to_save.default.weight"
    upper = {name for name, _ in reward.named_parameters() if ".layers.1." in name and "lora" in name}
    assert len(upper) == 14
    assert found == upper | {head}


@pytest.mark.parametrize("count", [2, 3])
def test_freezing_all_layers_is_refused(count: int) -> None:
    with pytest.raises(DemotuneError, match=f"reward_frozen_layers is {count}, the reward has 2 layers; freeze fewer"):
        freeze_lower_layers(reward_from_policy(tiny_lm(), 0), count)


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
    assert record["check"]["accuracy"] == pytest.approx(accuracy)
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
    with pytest.raises(DemotuneError, match=r"no sample of stage 0 ends by itself.*--max-new-.*--no-finished-only"):
        run(config(tmp_path, "unfinished", **fields))
    assert "reward" not in state_of(tmp_path / "unfinished", 0)


def all_unfinished(pairs: Sequence[Pair]) -> list[Pair]:
    return [Pair(pair.key, pair.prompt_ids, pair.demo, Response(pair.sample.ids, finished=False)) for pair in pairs]


def test_held_out_samples_that_never_end_cannot_stop_the_steps(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sampled_pairs = reward_phase.sampled_pairs

    def without_an_end(setup: Any, number: int, heldout: bool = False) -> list[Pair]:
        pairs = sampled_pairs(setup, number, heldout)
        return all_unfinished(pairs) if heldout else pairs

    monkeypatch.setattr(reward_phase, "sampled_pairs", without_an_end)
    result = run(config(place, "heldout-unfinished", stages=1))
    record = state_of(result.run_folder, 0)["reward"]
    assert "no held-out sample of stage 0 ends by itself: nothing can stop the" in " ".join(
        capsys.readouterr().out.split()
    )
    assert (record["on_heldout"], record["kept_step"], record["check"]) == (False, record["steps"], {})
    assert record["steps"] == 3 * -(-record["pairs"] // 4)
    check = result.stages[0]["check"]
    assert "reward" not in check
    assert check["policy"]["prompts"] == 9
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


# Values that make no sense.


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"reward_link": "linear"}, "a linear reward_link without reward_bound has no optimum"),
        ({"reward_bound": 1.0, "center_rewards_coefficient": 0.1}, "center_rewards_coefficient pulls rewards to 0"),
        ({"reward_bound": 0.0}, "reward_bound must be > 0, got 0.0"),
        ({"reward_learning_rate": 0.0}, "reward_learning_rate must be > 0, got 0.0"),
        ({"reward_eval_steps": 0}, "reward_eval_steps must be > 0, got 0"),
        ({"reward_patience": 0}, "reward_patience must be > 0, got 0"),
        ({"reward_epochs": 0.0}, "reward_epochs must be > 0, got 0.0"),
        ({"reward_steps": 0}, "reward_steps must be > 0, got 0"),
        ({"center_rewards_coefficient": -1.0}, "center_rewards_coefficient must be >= 0, got -1.0"),
        ({"reward_frozen_layers": -1}, "reward_frozen_layers must be >= 0, got -1"),
        ({"beta": 0.0}, "beta must be > 0, got 0.0"),
        ({"policy_epochs": 0.0}, "policy_epochs must be > 0, got 0.0"),
        ({"policy_batches": 0}, "policy_batches must be > 0, got 0"),
        ({"prompts_per_batch": 0}, "prompts_per_batch must be > 0, got 0"),
        ({"num_generations": 0}, "num_generations must be > 0, got 0"),
        ({"num_generations": 1}, "advantage rloo compares responses to one prompt, num_generations is 1"),
        ({"num_generations": 1, "advantage": "group"}, "advantage group compares responses"),
        ({"num_iterations": 0}, "num_iterations must be > 0, got 0"),
        ({"num_mini_batches": 0}, "num_mini_batches must be > 0, got 0"),
        ({"num_mini_batches": 5}, "64 responses of a batch cannot be cut into 5 equal mini-batches"),
        ({"epsilon": 0.0}, "epsilon must be > 0, got 0.0"),
        ({"lam": 0.9}, "lam belongs to gae, not rloo"),
        ({"lam": 1.1, "advantage": "gae"}, "lam must be 0 to 1, got 1.1"),
        ({"kl_target": 0.0}, "kl_target must be > 0, got 0.0"),
        ({"reward_clip": -1.0}, "reward_clip must be > 0, got -1.0"),
        ({"missing_eos_penalty": -0.5}, "missing_eos_penalty must be >= 0, got -0.5"),
        ({"stop_kl": -1.0}, "stop_kl must be >= 0, got -1.0"),
        ({"stop_length_ratio": -1.0}, "stop_length_ratio must be >= 0"),
        ({"stop_unfinished": -0.1}, "stop_unfinished must be >= 0"),
        ({"stop_reward_margin": -2.0}, "stop_reward_margin must be >= 0"),
        ({"stages": 0}, "stages must be at least 1, got 0"),
    ],
    ids=str,
)
def test_a_value_out_of_range_says_what_it_is_and_what_to_do(values: dict[str, Any], message: str) -> None:
    RFTConfig(output="x")
    with pytest.raises(DemotuneError) as refusal:
        RFTConfig(**{"output": "x", **values})
    problem, _, fix = str(refusal.value).rpartition("; ")
    assert message in problem
    assert len(fix) > 3


def test_one_response_per_prompt_is_enough_for_a_value_head() -> None:
    assert RFTConfig(output="x", num_generations=1, advantage="gae", lam=0.5).lam == 0.5


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
