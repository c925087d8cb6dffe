"""Log-probabilities of responses: the fast form against the definition, under padding of every kind."""

import copy
import math
import random
from functools import cache

import pytest
import torch
from helpers.micro import ARCHITECTURES, END, VOCABULARY, Architecture, Bigram, align, random_ids, tiny_lm
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import PreTrainedModel

from demotune.models.logprobs import naive_response_logps, response_logps, sequence_logps
from demotune.models.packing import Batch, positions
from demotune.models.policy import attach_adapter, lora_config, merged

# Float32: sums of at most 9 log-probabilities of up to some 10 nats.
CLOSE = {"atol": 2e-5, "rtol": 0}
EVERY_KERNEL = [(architecture, attention) for architecture in ARCHITECTURES for attention in ("eager", "sdpa")]

Row = tuple[tuple[int, ...], tuple[int, ...]]
ids = st.lists(st.integers(2, VOCABULARY - 1), min_size=1, max_size=9).map(tuple)


@cache
def model_of(architecture: Architecture, attention: str) -> PreTrainedModel:
    return tiny_lm(architecture, attention=attention)


def random_rows(seed: int, count: int) -> list[Row]:
    rng = random.Random(seed)
    return [(random_ids(rng, 1, 8), (*random_ids(rng, 0, 7), END)) for _ in range(count)]


def aligned(rows: list[Row]) -> Batch:
    return align([prompt for prompt, _ in rows], [response for _, response in rows])


def naive(model: nn.Module, rows: list[Row]) -> list[Tensor]:
    return [naive_response_logps(model, prompt, response) for prompt, response in rows]


def padded_by_hand(rows: list[Row], left: int, right: int, filler: int) -> Batch:
    """The aligned layout with extra columns on both sides, and any ids and positions in the padding."""
    batch = aligned(rows)

    def widen(tensor: Tensor, left: int, value: int) -> Tensor:
        return nn.functional.pad(tensor, (left, right), value=value)

    mask = widen(batch["attention_mask"], left, 0)
    hidden = mask == 0
    return {
        "input_ids": widen(batch["input_ids"], left, 0).masked_fill(hidden, filler),
        "attention_mask": mask,
        "position_ids": positions(mask).masked_fill(hidden, 3),
        "response_mask": widen(batch["response_mask"], 0, 0),
    }


def padded_right(rows: list[Row]) -> Batch:
    """Every row starts in the first column, as most collators do it."""
    width = max(len(prompt) + len(response) for prompt, response in rows)
    batch = {name: torch.zeros(len(rows), width, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    is_response = torch.zeros(len(rows), width, dtype=torch.bool)
    for number, (prompt, response) in enumerate(rows):
        end = len(prompt) + len(response)
        batch["input_ids"][number, :end] = torch.tensor([*prompt, *response])
        batch["attention_mask"][number, :end] = 1
        is_response[number, len(prompt) : end] = True
    batch["position_ids"] = positions(batch["attention_mask"])
    batch["response_mask"] = is_response[:, min(len(prompt) for prompt, _ in rows) :]
    return batch


# The layout ----------------------------------------------------------------------------------------------------------


def test_align_puts_the_first_response_token_of_all_rows_in_one_column() -> None:
    batch = align([(5, 6, 7), (8,)], [(9, END), (10, 11, END)])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 9, 1, 0], [0, 0, 8, 10, 11, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 4], [0, 0, 0, 1, 2, 3]]
    assert batch["response_mask"].tolist() == [[True, True, False], [True, True, True]]


@pytest.mark.parametrize(("prompts", "responses"), [([(5,), ()], [(6,), (7,)]), ([(5,), (6,)], [(7,), ()])])
def test_a_row_without_prompt_or_response_is_refused_by_number(
    prompts: list[tuple[int, ...]], responses: list[tuple[int, ...]]
) -> None:
    with pytest.raises(ValueError, match=r"row 1 has \d prompt and \d response tokens"):
        align(prompts, responses)


def test_more_responses_than_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="argument 2"):
        align([(5,)], [(6,), (7,)])


# Values --------------------------------------------------------------------------------------------------------------


def test_a_worked_example() -> None:
    """Bigram policy: from 2 to 3 with 1/2, from 3 to the end token with 1/4, from 2 to the end token with 1/8."""
    policy = Bigram([[0.25] * 4, [0.25] * 4, [0.25, 0.125, 0.125, 0.5], [0.125, 0.25, 0.5, 0.125]])
    batch = align([(3, 2), (2,)], [(3, END), (END,)])
    found = response_logps(policy, batch)
    bit = math.log(2)
    assert_close(found.logps, torch.tensor([[-bit, -2 * bit], [-3 * bit, 0.0]]), atol=1e-6, rtol=0)
    assert_close(found.summed(), torch.tensor([-3 * bit, -3 * bit]), atol=1e-6, rtol=0)
    assert_close(sequence_logps(policy, batch), found.summed(), atol=0, rtol=0)
    # Both distributions hold 1/2, 1/4, 1/8, 1/8: 1/2 + 2/4 + 3/8 + 3/8 = 1.75 bits.
    assert_close(found.entropy, torch.tensor([[1.75 * bit, 1.75 * bit], [1.75 * bit, 0.0]]), atol=1e-6, rtol=0)
    assert found.greedy.tolist() == [[True, False], [False, False]]
    assert found.mask.tolist() == [[True, True], [True, False]]


@pytest.mark.parametrize(("architecture", "attention"), EVERY_KERNEL)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(rows=st.lists(st.tuples(ids, ids), min_size=1, max_size=5))
def test_the_fast_form_equals_the_definition(architecture: Architecture, attention: str, rows: list[Row]) -> None:
    model = model_of(architecture, attention)
    with torch.no_grad():
        found = response_logps(model, aligned(rows))
        for number, expected in enumerate(naive(model, rows)):
            assert_close(found.logps[number, : len(expected)], expected, **CLOSE)
            assert not found.logps[number, len(expected) :].any()
            assert_close(found.summed()[number], expected.sum(), **CLOSE)


@pytest.mark.parametrize(("architecture", "attention"), EVERY_KERNEL)
def test_padding_on_any_side_changes_nothing(architecture: Architecture, attention: str) -> None:
    model, rows = model_of(architecture, attention), random_rows(1, 5)
    layouts = [padded_by_hand(rows, left, right, filler) for left, right, filler in [(4, 0, 7), (0, 3, 9), (5, 6, END)]]
    with torch.no_grad():
        expected = torch.stack([logps.sum() for logps in naive(model, rows)])
        for layout in [aligned(rows), *layouts, padded_right(rows)]:
            assert_close(response_logps(model, layout).summed(), expected, **CLOSE)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_rest_of_the_batch_changes_nothing(architecture: Architecture) -> None:
    model, rows = model_of(architecture, "sdpa"), random_rows(2, 6)
    with torch.no_grad():
        together = sequence_logps(model, aligned(rows))
        for order in ([0], [5, 2], [3, 4, 0, 1]):
            assert_close(sequence_logps(model, aligned([rows[n] for n in order])), together[order], **CLOSE)


def test_prompt_tokens_are_conditions_not_terms() -> None:
    """The chain rule: log p(y | x, x') = log p(x', y | x) - log p(x' | x). So no prompt token is in the sum."""
    model = model_of("llama", "eager")
    first, second, response = (5, 6, 7), (8, 9), (10, 11, END)
    with torch.no_grad():
        found = sequence_logps(model, aligned([((*first, *second), response)]))
        more = sequence_logps(model, aligned([(first, (*second, *response)), (first, second)]))
        assert_close(found[0], more[0] - more[1], **CLOSE)
        # The prompt itself matters, through the context alone.
        assert abs(float(found - sequence_logps(model, aligned([((*first, 12, 9), response)])))) > 1e-3


def test_the_end_token_is_a_term() -> None:
    model = model_of("llama", "eager")
    prompt, response = (5, 6), (7, 8)
    with torch.no_grad():
        ended, cut = sequence_logps(model, aligned([(prompt, (*response, END)), (prompt, response)]))
        last = model(input_ids=torch.tensor([[*prompt, *response]])).logits[0, -1].double().softmax(dim=-1)
    assert_close(float(ended - cut), float(last[END].log()), **CLOSE)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_entropy_and_greedy_are_those_of_the_distribution_at_the_position(architecture: Architecture) -> None:
    model, rows = model_of(architecture, "eager"), random_rows(3, 4)
    with torch.no_grad():
        # A response that is greedy at its first token.
        prompt = rows[0][0]
        likeliest = int(model(input_ids=torch.tensor([prompt])).logits[0, -1].argmax())
        rows.append((prompt, (likeliest, END)))
        found = response_logps(model, aligned(rows))
        for number, (prompt, response) in enumerate(rows):
            logits = model(input_ids=torch.tensor([[*prompt, *response]])).logits[0].double()
            for place, token in enumerate(response):
                probabilities = logits[len(prompt) - 1 + place].softmax(dim=-1).tolist()
                entropy = -sum(p * math.log(p) for p in probabilities)
                assert float(found.entropy[number, place]) == pytest.approx(entropy, abs=1e-5)
                assert bool(found.greedy[number, place]) == (probabilities[token] == max(probabilities))
    assert found.greedy[-1, 0]
    assert not found.entropy[~found.mask].any()
    assert not found.greedy[~found.mask].any()


def test_log_softmax_runs_in_float32_for_a_bfloat16_model() -> None:
    """From the model's own bfloat16 logits, unpadded, to float32 log-probabilities: equal to 1e-6, not to 1e-2."""
    model = tiny_lm("llama", dtype=torch.bfloat16)
    row = random_rows(4, 1)
    with torch.no_grad():
        found = response_logps(model, aligned(row)).logps
        expected = naive(model, row)[0]
    assert found.dtype == torch.float32
    assert_close(found[0], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])  # GPT-2 has absolute positions: they must get through
def test_a_lora_policy_scores_like_the_model_it_folds_into(architecture: Architecture) -> None:
    start, rows = model_of(architecture, "eager"), random_rows(5, 3)
    policy = attach_adapter(copy.deepcopy(start), lora_config(4, 8, ("all-linear",)), seed=0)
    with torch.no_grad():
        before = sequence_logps(start, aligned(rows))
        assert_close(sequence_logps(policy, aligned(rows)), before, **CLOSE)
        torch.manual_seed(0)
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
        found = sequence_logps(policy, aligned(rows))
        assert float((found - before).abs().min()) > 1e-2
        plain = merged(policy)
        assert_close(found, torch.stack([logps.sum() for logps in naive(plain, rows)]), **CLOSE)


# Gradients -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("architecture", "attention"), EVERY_KERNEL)
def test_gradients_equal_those_of_the_definition(architecture: Architecture, attention: str) -> None:
    """Weighted sum of four rows of very uneven length; per parameter, relative to the gradient's norm: 1e-4.

    Key biases have no gradient at all (a constant under the softmax): there the bound is absolute, 1e-5.
    """
    model = copy.deepcopy(model_of(architecture, attention))
    rows = [((5,), (6, END)), (tuple(range(2, 14)), (7,)), ((8, 9), tuple(range(20, 31))), *random_rows(6, 1)]
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0])
    (sequence_logps(model, aligned(rows)) * weights).sum().backward()
    fast = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    torch.stack([w * logps.sum() for w, logps in zip(weights, naive(model, rows), strict=True)]).sum().backward()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(fast[name]).all(), name
        error = float((fast[name] - parameter.grad).norm())
        assert error <= 1e-4 * float(parameter.grad.norm()) + 1e-5, f"{name}: {error:.1e}"
    assert sum(float(gradient.norm()) for gradient in fast.values()) > 1


@pytest.mark.parametrize(("architecture", "attention"), EVERY_KERNEL)
def test_padding_gets_no_gradient(architecture: Architecture, attention: str) -> None:
    """40 columns of padding against a row of 2 tokens: no NaN, and the filler's embedding learns nothing."""
    model = copy.deepcopy(model_of(architecture, attention))
    filler = VOCABULARY - 1
    rows: list[Row] = [((5,), (6,)), (tuple(range(2, 12)), (7, END))]
    sequence_logps(model, padded_by_hand(rows, 30, 10, filler)).sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    embedding = model.get_input_embeddings().weight.grad
    assert not embedding[filler].any()
    assert embedding[5].any()
