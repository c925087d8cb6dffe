"""The reward as a model: how it starts, what it reads, how padding and files leave it alone, what stays frozen."""

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from helpers.micro import ARCHITECTURES, END, Architecture, letter_tokenizer, parameters, random_pairs, tiny_lm, train
from helpers.rewards import adapted_tiny, with_random_head
from helpers.rft_runs import adapted
from peft import AutoPeftModelForSequenceClassification, PeftModel
from tokenizers import Tokenizer, models
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from demotune import DemotuneError
from demotune.models.policy import attach_adapter, lora_config
from demotune.models.reward import (
    RewardModel,
    freeze_lower_layers,
    is_reward_model,
    load_reward_model,
    padding_id,
    reward_from_policy,
    save_reward_model,
)
from demotune.models.reward_facts import RewardFacts, read_facts
from demotune.models.reward_head import completion_rewards, head_scores, reward_batch, right_padded
from demotune.records import Completion, Response
from demotune.training.objectives import RewardObjective

CPU = torch.device("cpu")


def completion(prompt: Sequence[int], response: Sequence[int]) -> Completion:
    return Completion(tuple(prompt), Response(tuple(response), response[-1] == END))


def some_completions(seed: int = 0, count: int = 7) -> list[Completion]:
    pairs = random_pairs(seed, count)
    return [Completion(pair.prompt_ids, side) for pair in pairs for side in (pair.demo, pair.sample)]


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
