"""Rows without padding and with shared prompts, against the definition: one row at a time, all logits."""

import random
from functools import cache
from pathlib import Path
from typing import cast

import pytest
import torch
from helpers.micro import ARCHITECTURES, END, VOCABULARY, Architecture, random_ids, tiny_lm
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from demotune.models import logprobs, packing
from demotune.models.attention import ATTENTION, carries_layouts, register_attention
from demotune.models.logprobs import naive_response_logps, response_logps, response_states
from demotune.models.packing import aligned, cut_to_budget, pack, predictors
from demotune.models.policy import attach_adapter, load_policy, lora_config
from demotune.models.reference_logps import pair_logps
from demotune.models.reward import reward_from_policy
from demotune.models.reward_head import head_scores, reward_batch, right_padded
from demotune.records import Completion, Pair, Response, ScoredPair
from demotune.training.objectives import PairObjective

Row = tuple[tuple[int, ...], tuple[int, ...]]
ids = st.lists(st.integers(2, VOCABULARY - 1), min_size=1, max_size=9).map(tuple)
PROMPTS = st.builds(
    lambda start, ends: [start + end for end in ends if start + end] or [(2,)],
    st.lists(st.integers(2, VOCABULARY - 1), max_size=5).map(tuple),
    st.lists(ids | st.just(()), min_size=1, max_size=3, unique=True),
)
"""From which the rows of a batch choose, so that some share one; all have a beginning in common, or none."""


@cache
def model_of(architecture: Architecture) -> PreTrainedModel:
    register_attention()
    return tiny_lm(architecture, attention=ATTENTION)


def batch_of(rows: list[Row]) -> dict[str, Tensor]:
    return pack([prompt for prompt, _ in rows], [response for _, response in rows])


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def assert_same_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Each parameter's, within a thousandth of its own largest number; rounding of the largest of all is forgiven."""
    assert found.keys() == expected.keys()
    rounding = 1e-6 * max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        limit = 1e-3 * float(gradient.abs().max()) + rounding
        assert float((found[name] - gradient).abs().max()) <= limit, name


# The layout ----------------------------------------------------------------------------------------------------------


def test_a_pack_by_hand() -> None:
    """Two prompts, the first with two responses: 5 6 | 7 1 | 8, then 9 | 2 3 1."""
    batch = pack([(5, 6), (9,), (5, 6)], [(7, END), (2, 3, END), (8,)])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 1, 8, 9, 2, 3, 1]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 2, 0, 1, 2, 3]]
    assert batch["prompt_slots"].tolist() == [[0, 1], [-1, 5]]
    assert batch["response_slots"].tolist() == [[2, 3, -1], [6, 7, 8], [4, -1, -1]]
    assert batch["prompt_of"].tolist() == [0, 1, 0]
    assert batch["response_mask"].tolist() == [[True, True, False], [True, True, True], [True, False, False]]
    assert int(batch["tokens"]) == 2 + 2 + 1 + 3 + 2 + 1
    assert predictors(batch).tolist() == [1, 2, 5, 6, 7, 1]
    padded = aligned(batch)
    assert padded["input_ids"].tolist() == [[5, 6, 7, 1, 0], [0, 9, 2, 3, 1], [5, 6, 8, 0, 0]]
    assert padded["attention_mask"].tolist() == [[1, 1, 1, 1, 0], [0, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert padded["position_ids"].tolist() == [[0, 1, 2, 3, 3], [0, 0, 1, 2, 3], [0, 1, 2, 2, 2]]


def test_what_all_prompts_begin_with_is_there_once() -> None:
    """5 6 | 7 | 1 | 8 1 | 9: prompts 5 6 7 and 5 6, whose last token is shared; 5 6 begins both."""
    batch = pack([(5, 6, 7), (5, 6), (5, 6)], [(END,), (8, END), (9,)])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 1, 8, 1, 9]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 2, 3, 2]]
    assert batch["prompt_slots"].tolist() == [[0, 1, 2], [-1, 0, 1]]
    assert batch["response_slots"].tolist() == [[3, -1], [4, 5], [6, -1]]
    assert batch["shared_slots"].tolist() == [[0, 4], [1, 5]]
    assert predictors(batch).tolist() == [2, 1, 4, 1]
    assert aligned(batch)["input_ids"].tolist() == [[5, 6, 7, 1, 0], [0, 5, 6, 8, 1], [0, 5, 6, 9, 0]]
    layout = packing.Packing.of(batch)
    assert layout.slots.tolist() == [0, 1, 2, 6, 8, 9, 10]
    assert layout.unread.nonzero().flatten().tolist() == [3, 4, 5, 7, 11]
    assert len(pack([(5, 6)] * 2, [(7,), (8,)])["shared_slots"]) == 0  # one prompt shares with nobody


def test_a_row_without_response_is_refused_by_number() -> None:
    with pytest.raises(ValueError, match="row 1 has 2 prompt and 0 response tokens"):
        pack([(5,), (6, 7)], [(8,), ()])


def test_parts_within_a_budget_by_hand() -> None:
    """Numbers stand for their own tokens: a part ends before it would go beyond the budget; 9 is too long for any."""
    assert cut_to_budget([3, 2, 4, 9, 1, 1], int, 5) == [[3, 2], [4], [9], [1, 1]]
    assert cut_to_budget([3, 2, 4, 9], int, None) == [[3, 2, 4, 9]]
    assert cut_to_budget([], int, 5) == []


@pytest.mark.parametrize("square", [packing.SQUARE, 0], ids=["products", "fused"])
def test_attention_by_hand_where_values_have_another_size_than_keys(
    square: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 query heads on 2 keys of width 5, values of width 3: each token against a softmax over what it sees."""
    monkeypatch.setattr(packing, "SQUARE", square)
    torch.manual_seed(0)
    batch = pack([(5, 6, 7), (5, 6, 8, 9)], [(2, 3), (4,)])
    sees = {2: [0, 1, 2], 4: [0, 1, 2, 3, 4], 6: [0, 1, 5, 6], 7: [0, 1, 5, 6, 7]}  # of the pack 5 6 | 7 2 3 | 8 9 4
    query, key, value = torch.randn(4, 8, 5), torch.randn(2, 8, 5), torch.randn(2, 8, 3)
    found = packing.Packing.of(batch).attend(0, query, key, value, 0.7)
    assert found.shape == (8, 4, 3)
    for place, seen in sees.items():
        for head in range(4):
            weights = (0.7 * key[head // 2, seen] @ query[head, place]).softmax(dim=0)
            assert_close(found[place, head], weights @ value[head // 2, seen], atol=1e-5, rtol=0)


# Values and gradients ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("square", [packing.SQUARE, 0], ids=["products", "fused"])
@settings(max_examples=8, deadline=None, derandomize=True)
@given(prompts=PROMPTS, drawn=st.lists(st.tuples(st.integers(0, 2), ids), min_size=1, max_size=6))
def test_packed_equals_the_definition(
    architecture: Architecture, square: int, prompts: list[tuple[int, ...]], drawn: list[tuple[int, tuple[int, ...]]]
) -> None:
    """Log-probabilities, hidden states and every parameter's gradient, whatever is beside a row in the pack."""
    rows = [(prompts[which % len(prompts)], response) for which, response in drawn]
    model, batch = model_of(architecture), batch_of(rows)
    weights = torch.linspace(-1, 1, len(rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "SQUARE", square)
        found = response_logps(model, batch)
        ours = gradients(model, (found.summed() * weights).sum())
    alone = [naive_response_logps(model, prompt, response) for prompt, response in rows]
    for number, expected in enumerate(alone):
        assert_close(found.logps[number, : len(expected)], expected, atol=2e-5, rtol=0)
        assert not found.logps[number, len(expected) :].any()
    weighted = torch.stack([weight * logps.sum() for weight, logps in zip(weights, alone, strict=True)])
    assert_same_gradients(ours, gradients(model, weighted.sum()))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packed_equals_padded(architecture: Architecture) -> None:
    rng = random.Random(1)
    prompts = [random_ids(rng, 1, 8) for _ in range(3)] * 3
    batch = pack(prompts, [random_ids(rng, 1, 7) for _ in prompts])
    model = model_of(architecture)
    with torch.no_grad():
        one, other = response_logps(model, batch), response_logps(model, aligned(batch))
        states = response_states(model, aligned(batch)).masked_fill(~batch["response_mask"].unsqueeze(-1), 0.0)
        assert_close(response_states(model, batch), states, atol=2e-5, rtol=0)
    assert_close(one.logps, other.logps, atol=2e-5, rtol=0)
    assert_close(one.entropy, other.entropy, atol=2e-5, rtol=0)
    assert torch.equal(one.greedy, other.greedy)


def others() -> list[PreTrainedModel]:
    """Llama-like models with what differs between them: grouped queries, biases, a window wider than any row."""
    shape = {"vocab_size": VOCABULARY, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 6, "num_key_value_heads": 2, "attn_implementation": ATTENTION}
    register_attention()
    torch.manual_seed(0)
    return [
        LlamaForCausalLM(LlamaConfig(**shape, **heads, tie_word_embeddings=True)),
        MistralForCausalLM(MistralConfig(**shape, **heads, sliding_window=None)),
        Qwen2ForCausalLM(Qwen2Config(**shape, **heads)),
    ]


def test_architectures_beside_the_three_of_the_tests() -> None:
    rng = random.Random(2)
    rows = [(random_ids(rng, 2, 9), random_ids(rng, 1, 9)) for _ in range(4)]
    for model in others():
        assert carries_layouts(model), type(model).__name__
        with torch.no_grad():
            found = response_logps(model, batch_of(rows)).summed()
            expected = torch.stack([naive_response_logps(model, *row).sum() for row in rows])
        assert_close(found, expected, atol=5e-5, rtol=0)


def test_a_sliding_window_is_computed_with_padding() -> None:
    """A layout does not know windows, so such a model says that it carries none, and is computed as it always was."""
    register_attention()
    torch.manual_seed(0)
    model = MistralForCausalLM(
        MistralConfig(vocab_size=VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                      num_attention_heads=2, num_key_value_heads=2, sliding_window=4, attn_implementation=ATTENTION)
    )  # fmt: skip
    assert not carries_layouts(model)
    row = ((2, 3, 4, 5, 6, 7), (8, 9, END))
    with torch.no_grad():
        found = response_logps(model, batch_of([row])).logps[0]
        assert_close(found, naive_response_logps(model, *row), atol=2e-5, rtol=0)


def test_a_lora_policy_is_packed_too() -> None:
    policy = attach_adapter(tiny_lm(attention=ATTENTION), lora_config(4, 8, ("all-linear",)), seed=0)
    for name, weight in policy.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.3)
    rng = random.Random(4)
    rows = [(random_ids(rng, 2, 9), random_ids(rng, 1, 9)) for _ in range(4)]
    assert carries_layouts(policy)
    found = response_logps(policy, batch_of(rows)).summed()
    alone = torch.stack([naive_response_logps(policy, *row).sum() for row in rows])
    assert_close(found, alone, atol=2e-5, rtol=0)
    assert_same_gradients(gradients(policy, found.sum()), gradients(policy, alone.sum()))


def test_the_softmax_in_chunks_equals_log_softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values and gradient, also when a chunk holds one row and the last chunk is short."""
    torch.manual_seed(0)
    targets, upstream = torch.randint(0, 50, (7,)), torch.randn(7)
    for at_once in (1, 100, 2**22):
        monkeypatch.setattr(logprobs, "ROWS_AT_ONCE", at_once)
        logits = (10 * torch.randn(7, 50)).requires_grad_()
        logps, entropy, greedy = logprobs._TokenLogps.apply(logits, targets)
        every = logits.log_softmax(dim=-1)
        assert_close(logps, every.gather(-1, targets.unsqueeze(-1)).squeeze(-1))
        assert_close(entropy, -(every.exp() * every).sum(dim=-1), atol=1e-5, rtol=1e-5)
        assert torch.equal(greedy, logits.argmax(dim=-1) == targets)
        (ours,) = torch.autograd.grad((logps * upstream).sum(), logits)
        (theirs,) = torch.autograd.grad((every.gather(-1, targets.unsqueeze(-1)).squeeze(-1) * upstream).sum(), logits)
        assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


# What builds on it ---------------------------------------------------------------------------------------------------


def test_a_pair_shares_its_prompt_and_starts_at_log_two_in_bfloat16() -> None:
    """The prompt is computed once; scored and trained in one pack, the first loss is log 2 to the last bit."""
    rng = random.Random(5)
    pairs = [
        Pair(str(number), random_ids(rng, 4, 9), *(Response(random_ids(rng, 2, 9), True) for _ in range(2)))
        for number in range(4)
    ]
    model, objective = model_of("llama"), PairObjective(0.1, "logistic", 0.0)
    scores = pair_logps(model, pairs, bf16=True)
    batch = objective.collate([ScoredPair(pair, *both) for pair, both in zip(pairs, scores, strict=True)])
    assert batch["input_ids"].numel() == sum(len(p.prompt_ids) + len(p.demo.ids) + len(p.sample.ids) for p in pairs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first = objective(model, batch).at_start
    assert_close(cast(Tensor, first), torch.full((4,), 2.0).log(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packed_rewards_equal_padded_ones(architecture: Architecture) -> None:
    """Three responses share a prompt; one response ends with the padding's id, which transformers reads past."""
    reward = reward_from_policy(tiny_lm(architecture, attention=ATTENTION), 0)
    nn.init.normal_(cast(nn.Linear, reward.score).weight)
    assert carries_layouts(reward)
    completions = [
        Completion(prompt, Response(response, True))
        for prompt, response in [((2, 3), (4, END)), ((2, 3), (5,)), ((6, 7, 8), (9, 0)), ((2, 3), (9, 9, 9, END))]
    ]
    batch = reward_batch(completions, pad_id=0)
    found, expected = head_scores(reward, batch), head_scores(reward, right_padded(batch))
    assert_close(found, expected, atol=2e-5, rtol=0)
    weights = torch.tensor([1.0, -2.0, 3.0, 0.5])
    assert_same_gradients(gradients(reward, (found * weights).sum()), gradients(reward, (expected * weights).sum()))


def test_a_saved_model_does_not_name_our_attention(tmp_path: Path) -> None:
    """Other programs load what we publish."""
    tiny_lm(attention=ATTENTION).save_pretrained(tmp_path)
    assert ATTENTION not in (tmp_path / "config.json").read_text(encoding="utf-8")
    policy = load_policy(tmp_path, dtype="float32", attn_implementation=None, device=torch.device("cpu"))
    assert carries_layouts(policy)
