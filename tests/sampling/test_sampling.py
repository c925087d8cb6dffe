"""The sampler against generate(), against the model's own probabilities, and against its promises on random streams."""

import itertools
import math
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from helpers.micro import ARCHITECTURES, END, Architecture, random_ids, tiny_lm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from demotune.models.attention import ATTENTION, register_attention
from demotune.models.logprobs import naive_response_logps
from demotune.records import Response
from demotune.sampling import SamplingOptions, choose_tokens, sample_responses
from demotune.sampling.in_process.naive import plan_batches

register_attention()

NO_STOP: frozenset[int] = frozenset({10**6})


def options(limit: int = 8, stop: frozenset[int] = frozenset({END}), **more: Any) -> SamplingOptions:
    return SamplingOptions(max_new_tokens=limit, stop_ids=stop, **more)


def prompts_of(seed: int, count: int, vocabulary: int = 60) -> list[tuple[int, ...]]:
    rng = random.Random(seed)
    return [random_ids(rng, 1, 9, vocabulary) for _ in range(count)]


def sample(
    model: nn.Module, prompts: list[tuple[int, ...]], rows: list[int], seed: int, how: SamplingOptions, slots: int = 64
) -> list[Response]:
    """In the order of `rows`, each of which is drawn once."""
    drawn = list(sample_responses(model, prompts, rows, seed, how, slots=slots))
    assert sorted(row for row, _ in drawn) == sorted(rows)
    return [dict(drawn)[row] for row in rows]


# Against generate() --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["eager", "sdpa", ATTENTION])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_is_generate_token_by_token(architecture: Architecture, attention: str) -> None:
    """Twelve prompts of 1 to 9 tokens, three stop tokens: rows end at different steps, some not at all."""
    model = tiny_lm(architecture, attention=attention, seed=3)
    prompts = prompts_of(1, 12)
    width = max(map(len, prompts))
    left_padded = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts])
    free = model.generate(left_padded, attention_mask=left_padded > 0, do_sample=False, max_new_tokens=10)
    # Stop tokens that really occur, at various places.
    stop = frozenset(int(free[row, width + step]) for row, step in [(0, 2), (1, 6), (2, 0)])
    expected = model.generate(
        left_padded,
        attention_mask=left_padded > 0,
        do_sample=False,
        max_new_tokens=10,
        eos_token_id=sorted(stop),
        pad_token_id=0,
    )
    found = sample(model, prompts, list(range(12)), 0, options(10, stop, temperature=0.0))
    for row, response in enumerate(found):
        ids = expected[row, width:].tolist()
        end = next((place + 1 for place, token in enumerate(ids) if token in stop), 10)
        assert response.ids == tuple(ids[:end])
        assert response.finished == (ids[end - 1] in stop)
    assert len({len(response.ids) for response in found}) >= 3
    assert {response.finished for response in found} == {True, False}


def test_dropout_is_off_while_sampling_and_the_mode_is_given_back() -> None:
    model = tiny_lm("gpt2", dropout=0.5)
    prompts = prompts_of(2, 4)
    calm = sample(model, prompts, [0, 1, 2, 3], 0, options(temperature=0.0))
    model.train()
    assert sample(model, prompts, [0, 1, 2, 3], 0, options(temperature=0.0)) == calm
    assert model.training


# Against probabilities -----------------------------------------------------------------------------------------------


def next_token_probabilities(model: nn.Module, ids: tuple[int, ...]) -> list[float]:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0, -1].double().softmax(dim=-1).tolist()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize(("attention", "slots"), [("eager", 8000), (ATTENTION, 500)])
def test_responses_of_two_tokens_have_the_probability_of_the_policy(
    temperature: float, attention: str, slots: int
) -> None:
    """All responses over 5 tokens, those that end at once included: chi-square over 8,000 draws, p above 0.1%.

    The first token alone and both tokens together; the expected counts come from plain unpadded forward passes.
    """
    model, prompt, draws = tiny_lm("llama", vocabulary=5, seed=1, attention=attention), (2, 4, 3), 8000

    def sharpened(ids: tuple[int, ...]) -> list[float]:
        powers = [p ** (1 / temperature) for p in next_token_probabilities(model, ids)]
        return [power / sum(powers) for power in powers]

    first = sharpened(prompt)
    expected = {(END,): first[END]}
    for one in (token for token in range(5) if token != END):
        for two, probability in enumerate(sharpened((*prompt, one))):
            expected[one, two] = first[one] * probability
    assert math.fsum(expected.values()) == pytest.approx(1, abs=1e-9)
    drawn = sample(model, [prompt] * draws, list(range(draws)), 5, options(2, temperature=temperature), slots)
    firsts, both = Counter(r.ids[0] for r in drawn), Counter(r.ids for r in drawn)
    assert both.keys() <= expected.keys()
    assert p_value([firsts[token] for token in range(5)], first) > 1e-3
    assert p_value([both[ids] for ids in expected], list(expected.values())) > 1e-3


def p_value(counts: list[int], probabilities: list[float]) -> float:
    """Chi-square of a fit; cells that expect fewer than 5 draws are pooled."""
    total = sum(counts)
    cells = [(count, total * p) for count, p in zip(counts, probabilities, strict=True)]
    large = [cell for cell in cells if cell[1] >= 5]
    small = [cell for cell in cells if cell[1] < 5]
    if small and sum(expected for _, expected in small) >= 5:
        large.append((sum(count for count, _ in small), sum(expected for _, expected in small)))
    assert len(large) >= 3
    expected = np.array([expected for _, expected in large])
    observed = np.array([count for count, _ in large])
    return float(stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue)


def chosen(logits: Tensor, uniforms: Tensor, how: SamplingOptions) -> list[int]:
    """The tokens alone."""
    return [token for token, _ in choose_tokens(logits, uniforms, how)]


def shares(logits: Tensor, how: SamplingOptions, draws: int = 20_000) -> Tensor:
    """The distribution that `choose_tokens` inverts, to 1 / draws: from uniform numbers on a grid."""
    uniforms = (torch.arange(draws, dtype=torch.float64) + 0.5) / draws
    tokens = torch.tensor(chosen(logits.expand(draws, -1), uniforms, how))
    return torch.bincount(tokens, minlength=logits.shape[-1]).double() / draws


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({}, (0.5, 0.3, 0.15, 0.05)),
        # square roots .7071 .5477 .3873 .2236 add to 1.8657
        ({"temperature": 2.0}, (0.37899, 0.29356, 0.20758, 0.11985)),
        # squares .25 .09 .0225 .0025 add to .365
        ({"temperature": 0.5}, (0.68493, 0.24658, 0.06164, 0.00685)),
        ({"temperature": 0.0}, (1.0, 0.0, 0.0, 0.0)),
        ({"top_k": 1}, (1.0, 0.0, 0.0, 0.0)),
        ({"top_k": 3}, (0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0.0)),
        ({"top_k": 9}, (0.5, 0.3, 0.15, 0.05)),
        # .5 is not yet .7; .8 is
        ({"top_p": 0.7}, (0.625, 0.375, 0.0, 0.0)),
        ({"top_p": 0.9}, (0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0.0)),
        # at least one token always stays
        ({"top_p": 1e-6}, (1.0, 0.0, 0.0, 0.0)),
        # top_k first: of .5/.8 and .3/.8 the first alone has .6
        ({"top_k": 2, "top_p": 0.6}, (1.0, 0.0, 0.0, 0.0)),
        # temperature first: .685 alone reaches .6
        ({"temperature": 0.5, "top_p": 0.6}, (1.0, 0.0, 0.0, 0.0)),
    ],
)
def test_truncation_worked_by_hand(how: dict[str, float], expected: tuple[float, ...]) -> None:
    """In any order of the vocabulary; tolerance 1e-4, the grid."""
    for order in itertools.islice(itertools.permutations(range(4)), 0, None, 5):
        logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()[list(order)] + 7.0
        found = shares(logits, options(**how))
        assert found.tolist() == pytest.approx([expected[token] for token in order], abs=1e-4)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (3, 1.0), (0, 0.55), (5, 0.8), (2, 0.95)])
def test_truncation_is_that_of_transformers(temperature: float, top_k: int, top_p: float) -> None:
    """Against generate()'s own warpers in their order; tolerance 1e-4, the grid."""
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    for seed in range(3):
        logits = torch.randn(1, 9, generator=torch.Generator().manual_seed(seed)) * 2
        expected = warpers(None, logits)[0].double().softmax(dim=-1)
        found = shares(logits[0], options(temperature=temperature, top_k=top_k, top_p=top_p))
        assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-4)


def test_ties_at_the_border_of_top_k_stay_in() -> None:
    found = shares(torch.tensor([0.0, 1.0, 0.0, -1.0]), options(top_k=2))
    e = math.e
    assert found.tolist() == pytest.approx([1 / (2 + e), e / (2 + e), 1 / (2 + e), 0.0], abs=1e-4)


JUST_BELOW_ONE = 1 - 2**-53  # the largest number that numpy's random() returns


def test_the_ends_of_the_unit_interval() -> None:
    """Tokens 0 and 4 have no probability: neither end of [0, 1) may reach them."""
    logits = torch.tensor([-torch.inf, 0.0, 1.0, 0.0, -torch.inf]).expand(3, -1)
    uniforms = torch.tensor([0.0, JUST_BELOW_ONE, 0.5], dtype=torch.float64)
    assert chosen(logits, uniforms, options()) == [1, 3, 2]
    # A probability that float32 rounds to zero counts as none.
    underflow = torch.tensor([[-300.0, 0.0, -300.0]]).expand(2, -1)
    assert chosen(underflow, uniforms[:2], options()) == [1, 1]


def test_the_border_between_two_tokens_belongs_to_the_second() -> None:
    """[0, 1/2) is token 0, [1/2, 1) is token 1: each has exactly its share of the unit interval."""
    uniforms = torch.tensor([0.5 - 2**-54, 0.5], dtype=torch.float64)
    assert chosen(torch.zeros(2, 2), uniforms, options()) == [0, 1]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    logits=st.lists(st.one_of(st.floats(-100, 100), st.just(-math.inf)), min_size=1, max_size=12).filter(
        lambda values: max(values) > -math.inf
    ),
    uniform=st.one_of(st.sampled_from([0.0, 5e-324, 2.0**-53, 0.5, JUST_BELOW_ONE]), st.floats(0, JUST_BELOW_ONE)),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 3.0]),
    top_k=st.integers(0, 4),
    top_p=st.sampled_from([0.05, 0.5, 0.9, 1.0]),
)
def test_a_token_without_probability_is_never_drawn(
    logits: list[float], uniform: float, temperature: float, top_k: int, top_p: float
) -> None:
    how = options(temperature=temperature, top_k=top_k, top_p=top_p)
    scores = torch.tensor([logits])
    [token] = chosen(scores, torch.tensor([uniform], dtype=torch.float64), how)
    assert (scores / (temperature or 1.0)).softmax(dim=-1)[0, token] > 0
    if top_k:
        assert int((scores[0] > scores[0, token]).sum()) < top_k


# Random streams ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["eager", ATTENTION])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_batch_size_and_order_do_not_change_what_is_drawn(architecture: Architecture, attention: str) -> None:
    """Rows finish at different steps and leave; those that stay go on as if they were alone.

    A quarter of the vocabulary stops. Rounding (1e-6) moves a draw with odds of 1 in 10,000 here; the seed is fixed.
    """
    model = tiny_lm(architecture, seed=2, attention=attention)
    prompts, how = prompts_of(4, 14), options(8, frozenset(range(0, 60, 4)))
    alone = [sample(model, [prompt], [row], 9, how)[0] for row, prompt in enumerate(prompts)]
    assert len({len(response.ids) for response in alone}) >= 4
    assert sample(model, prompts, list(range(14)), 9, how) == alone
    for batches in (plan_batches(prompts, 5), [(3, 9, 0), (13, 1), (12, 2, 4, 5, 6, 7, 8, 10, 11)]):
        for rows in batches:
            assert sample(model, [prompts[row] for row in rows], list(rows), 9, how) == [alone[row] for row in rows]


def test_a_longer_limit_goes_on_where_a_shorter_one_stopped() -> None:
    model, prompts = tiny_lm(), prompts_of(5, 6)
    short, long = (sample(model, prompts, list(range(6)), 3, options(n, NO_STOP)) for n in (4, 9))
    assert [response.ids for response in short] == [response.ids[:4] for response in long]


def test_rows_and_seeds_have_streams_of_their_own() -> None:
    """40 draws of 6 tokens for one prompt: as many different ones as there are (seed, row)."""
    model, prompt = tiny_lm(), (5, 6)
    drawn = [sample(model, [prompt] * 20, list(range(20)), seed, options(6, NO_STOP)) for seed in (1, 2)]
    assert len({response.ids for responses in drawn for response in responses}) == 40


def test_responses_hold_their_stop_token_or_are_unfinished_at_the_limit() -> None:
    model, prompts, stop = tiny_lm(seed=2), prompts_of(6, 30), frozenset({END, 7, 8, 9, 10, 11, 12})
    for response in sample(model, prompts, list(range(30)), 0, options(5, stop)):
        if response.finished:
            assert response.ids[-1] in stop
            assert stop.isdisjoint(response.ids[:-1])
        else:
            assert len(response.ids) == 5
            assert stop.isdisjoint(response.ids)
    lengths = Counter(
        (response.finished, len(response.ids) == 5)
        for response in sample(model, prompts, list(range(30)), 0, options(5, stop))
    )
    assert lengths[True, False] > 3  # finished early
    assert lengths[False, True] > 3  # cut off


def test_a_stop_token_at_the_last_step_finishes_the_response() -> None:
    model, prompt = tiny_lm(), (5, 6, 7)
    [free] = sample(model, [prompt], [0], 0, options(3, NO_STOP, temperature=0.0))
    assert not free.finished
    stop = frozenset({free.ids[2]} - set(free.ids[:2]))
    assert stop, "choose another prompt: its third greedy token repeats an earlier one"
    assert sample(model, [prompt], [0], 0, options(3, stop, temperature=0.0)) == [Response(free.ids, True)]


# Batches -------------------------------------------------------------------------------------------------------------


def test_batches_hold_each_row_once_and_the_longest_prompts_first() -> None:
    prompts = [(1,) * length for length in (2, 5, 1, 5, 3)]
    assert plan_batches(prompts, 2) == [(1, 3), (4, 0), (2,)]
    assert plan_batches(prompts, 9) == [(1, 3, 4, 0, 2)]
    assert plan_batches([], 2) == []


# A padded vocabulary: more embedding rows than tokens ----------------------------------------------------------------

TOKENS = frozenset(range(50)) - {7}
"""Of 60 rows; id 7 is a hole."""


def test_a_token_of_four_by_hand() -> None:
    """Probabilities 0.1, 0.5 (no token), 0.3, 0.1 (no token): 1/4 and 3/4 of what can be drawn."""
    logits = torch.tensor([[0.1, 0.5, 0.3, 0.1]]).log().repeat(4, 1)
    uniforms = torch.tensor([0.0, 0.24, 0.26, 0.999], dtype=torch.float64)
    drawn = choose_tokens(logits, uniforms, options(vocabulary=frozenset({0, 2, 9})))
    assert [token for token, _ in drawn] == [0, 0, 2, 2]
    assert [logp for _, logp in drawn] == pytest.approx([math.log(0.1)] * 2 + [math.log(0.3)] * 2, abs=1e-6)


@pytest.mark.parametrize("more", [{"temperature": 0.0}, {"top_k": 1}, {"top_p": 0.1}, {"temperature": 0.01}])
def test_the_likeliest_token_is_the_likeliest_that_there_is(more: dict[str, float]) -> None:
    logits = torch.tensor([[1.0, 9.0, 3.0, 8.0]])
    [(token, _)] = choose_tokens(
        logits, torch.tensor([0.5], dtype=torch.float64), options(vocabulary=frozenset({0, 2}), **more)
    )
    assert token == 2


@pytest.mark.parametrize(("architecture", "attention"), [("llama", ATTENTION), ("gpt2", "eager")])
def test_ids_without_a_token_are_never_drawn(architecture: Architecture, attention: str) -> None:
    """Both samplers; the log-probabilities are those of training, in which such ids have their share."""
    model, prompts = tiny_lm(architecture, attention=attention), prompts_of(8, 30, 50)
    free = sample(model, prompts, list(range(30)), 5, options(6, NO_STOP))
    assert any(not TOKENS.issuperset(response.ids) for response in free)
    drawn = sample(model, prompts, list(range(30)), 5, options(6, NO_STOP, vocabulary=TOKENS))
    assert all(TOKENS.issuperset(response.ids) for response in drawn)
    for prompt, response in zip(prompts, drawn, strict=True):
        assert response.logps is not None
        assert response.logps == pytest.approx(naive_response_logps(model, prompt, response.ids).tolist(), abs=1e-5)


def test_a_vocabulary_without_holes_changes_no_bit() -> None:
    model, prompts = tiny_lm(attention=ATTENTION), prompts_of(8, 20)
    whole = options(6, NO_STOP, vocabulary=frozenset(range(70)))
    assert sample(model, prompts, list(range(20)), 5, whole) == sample(
        model, prompts, list(range(20)), 5, options(6, NO_STOP)
    )
