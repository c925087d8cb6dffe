"""The sampler of slots: against the plain one, its schedule call by call, its cache, its memory, its adapters."""

import copy
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.micro import ARCHITECTURES, Architecture, random_ids, tiny_lm
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from demotune.common import memory
from demotune.common.errors import DemotuneError
from demotune.models.attention import ATTENTION, carries_layouts, register_attention
from demotune.models.logprobs import naive_response_logps
from demotune.records import Response
from demotune.sampling import SamplingOptions, choose_tokens, sample_responses
from demotune.sampling.in_process import sampler
from demotune.sampling.in_process.adapters import merged_adapters, prepared_for_sampling
from demotune.sampling.in_process.cache import Cache, CacheShape, Decoding, PrefixFill, PromptFill
from demotune.sampling.in_process.sampler import InProcessSampler, common_prefix

register_attention()

STOPS = frozenset(range(0, 60, 4))
NO_STOP = frozenset({10**6})


def options(limit: int = 8, stop: frozenset[int] = STOPS, **more: Any) -> SamplingOptions:
    return SamplingOptions(max_new_tokens=limit, stop_ids=stop, **more)


def prompts_of(seed: int, count: int, longest: int = 9) -> list[tuple[int, ...]]:
    rng = random.Random(seed)
    return [random_ids(rng, 1, longest) for _ in range(count)]


def draw(
    model: nn.Module, prompts: list[tuple[int, ...]], how: SamplingOptions, slots: int, streams: list[int] | None = None
) -> dict[int, Response]:
    """Stream -> response; each is yielded once."""
    streams = list(range(len(prompts))) if streams is None else streams
    drawn = list(sample_responses(model, prompts, streams, 9, how, slots=slots))
    assert sorted(stream for stream, _ in drawn) == sorted(streams)
    return dict(drawn)


def both(architecture: Architecture, seed: int = 2) -> tuple[PreTrainedModel, PreTrainedModel]:
    """One model twice: the fast path and the plain one."""
    fast, plain = (tiny_lm(architecture, seed=seed, attention=name) for name in (ATTENTION, "eager"))
    assert carries_layouts(fast)
    assert not carries_layouts(plain)
    return fast, plain


def note_calls(model: nn.Module) -> list[int]:
    """Tokens of each call of the model from now on; the probe has run before."""
    assert carries_layouts(model)
    calls: list[int] = []
    model.register_forward_pre_hook(
        lambda _, __, named: calls.append(named["input_ids"].shape[1]) or None, with_kwargs=True
    )
    return calls


# Against the plain sampler -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{}, {"temperature": 0.7, "top_p": 0.9}, {"temperature": 0.0}, {"max_length": 12}])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_slots_and_order_do_not_change_what_is_drawn(architecture: Architecture, how: dict[str, Any]) -> None:
    """Rows end at different steps; a quarter of the vocabulary stops. The seed is fixed: rounding could move a draw."""
    fast, plain = both(architecture)
    prompts = prompts_of(4, 20)
    expected = draw(plain, prompts, options(**how), 20)
    if how.get("temperature") != 0:
        assert len({len(response.ids) for response in expected.values()}) >= 4
    for slots in (1, 3, 16):
        assert draw(fast, prompts, options(**how), slots) == expected
    order = random.Random(1).sample(range(20), 20)
    assert draw(fast, [prompts[row] for row in order], options(**how), 3, order) == expected
    some = order[:7]
    assert draw(fast, [prompts[row] for row in some], options(**how), 3, some) == {row: expected[row] for row in some}


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_prompts_in_any_slots_equal_the_plain_sampler(data: st.DataObject) -> None:
    """Shared beginnings and repetitions included."""
    architecture = data.draw(st.sampled_from(ARCHITECTURES))
    fast, plain = MODELS.setdefault(architecture, both(architecture))
    prefix = tuple(data.draw(st.lists(st.integers(2, 59), max_size=14)))
    tails = data.draw(st.lists(st.lists(st.integers(2, 5), min_size=1, max_size=6), min_size=1, max_size=9))
    prompts = [(*prefix, *tail) for tail in tails]
    limit, slots = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 10))
    max_length = data.draw(st.one_of(st.none(), st.integers(5, 25)))
    how = options(limit, max_length=max_length)
    expected = draw(plain, prompts, how, 4)
    assert draw(fast, prompts, how, slots) == expected
    for row, prompt in enumerate(prompts):
        ids = expected[row].ids
        assert expected[row].finished or len(ids) == max(min(limit, (max_length or 99) - len(prompt)), 1)


MODELS: dict[str, tuple[PreTrainedModel, PreTrainedModel]] = {}


def test_in_bfloat16_it_is_as_near_to_float32_as_the_plain_sampler() -> None:
    """About a fifth of 200 responses of 4 tokens differ from those in float32 by rounding, in either sampler."""
    fast, plain = both("llama")
    prompts = [(*range(2, 12), *prompt) for prompt in prompts_of(4, 200)]
    exact = draw(plain, prompts, options(4), 16)
    alike = [
        sum(exact[row] == response for row, response in draw(model, prompts, options(4, bf16=True), 16).items())
        for model in (fast, plain)
    ]
    assert alike[1] > 140
    assert alike[0] >= alike[1] - 10
    assert all(weight.requires_grad for weight in fast.parameters())


# The schedule --------------------------------------------------------------------------------------------------------


def test_waiting_prompts_take_free_slots_and_rows_close_ranks() -> None:
    """Two slots; prompts of 6, 5, 3, 2 tokens get 2, 3, 5, 6 response tokens, to reach 8 in all.

    1: a call to see the shapes. 11 = 6 + 5: both prompts, each with its first token now.
    2: the row of 6 has both tokens and leaves. 3: its slot is filled with the third prompt.
    2: the row of 5 has three and leaves. 2: the last prompt, of two tokens, is filled in.
    2, 2, 2: tokens 3, 4, 5 of the third, which leaves; 2, 3, 4 of the last. 1, 1: the last moved up, tokens 5 and 6.
    """
    model = tiny_lm("llama", attention=ATTENTION)
    calls = note_calls(model)
    prompts = [(5, 6, 7), (9, 8, 7, 6, 5, 4), (3, 3), (11, 12, 13, 14, 15)]
    drawn = draw(model, prompts, options(20, NO_STOP, max_length=8), 2)
    assert calls == [1, 11, 2, 3, 2, 2, 2, 2, 2, 1, 1]
    assert [len(drawn[row].ids) for row in range(4)] == [5, 2, 6, 3]
    assert drawn == draw(tiny_lm("llama"), prompts, options(20, NO_STOP, max_length=8), 4)


def test_rows_are_handed_out_when_they_are_done() -> None:
    model = tiny_lm("llama", attention=ATTENTION)
    calls = note_calls(model)
    found = sample_responses(model, [(5, 6, 7), (3, 3)], [4, 8], 0, options(20, NO_STOP, max_length=5), slots=2)
    assert next(found)[0] == 4
    assert calls == [1, 5, 2]
    assert next(found)[0] == 8
    assert calls == [1, 5, 2, 1]
    assert list(found) == []


def test_long_prompts_are_filled_in_several_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most 9 tokens a call: 6, then 4 + 4, then 3; a prompt of 12 alone has more and is filled alone."""
    monkeypatch.setattr(sampler, "FILLED_TOGETHER", 9)
    model = tiny_lm("llama", attention=ATTENTION)
    calls = note_calls(model)
    prompts = [(2,) * 6, (3,) * 4, (4,) * 4, (5,) * 3, tuple(range(2, 14))]
    drawn = draw(model, prompts, options(1), 5)
    assert calls == [1, 12, 6, 8, 3]
    assert drawn == draw(tiny_lm("llama"), prompts, options(1), 5)


def test_a_common_prefix_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 shared tokens; tails of 1, 2 and 4. The shortest prompt keeps one token, so that it has logits."""
    prefix = tuple(range(20, 30))
    prompts = [(*prefix, 2), (*prefix, 2, 3), (*prefix, 4, 5, 6, 7)]
    model = tiny_lm("llama", attention=ATTENTION)
    calls = note_calls(model)
    drawn = draw(model, prompts, options(5, NO_STOP), 3)
    assert calls == [1, 10, 7, 3, 3, 3, 3]
    calls.clear()
    monkeypatch.setattr(sampler, "SHORTEST_PREFIX", 99)
    assert draw(model, prompts, options(5, NO_STOP), 3) == drawn
    assert calls == [1, 37, 3, 3, 3, 3]


def test_the_common_prefix_worked_by_hand() -> None:
    eight = (1, 2, 3, 4, 5, 6, 7, 8)
    assert common_prefix([(*eight, 9, 1), (*eight, 9, 2)]) == (*eight, 9)
    assert common_prefix([(*eight, 9, 1), (*eight, 9)]) == eight
    assert common_prefix([eight, (*eight, 9)]) == ()  # seven would be too few
    assert common_prefix([(*eight, 9), (0, *eight, 9), (*eight, 9)]) == ()
    assert common_prefix([(*eight, 9)] * 3) == eight
    assert common_prefix([(*eight, 9)]) == ()
    assert common_prefix([]) == ()


def test_identical_prompts_are_computed_once() -> None:
    """Three rows each of A (5 tokens) and B (4), two slots, two response tokens a row.

    5: A for two rows. 2: both leave. 4: the third A is copied, B is computed. 2. The other two B are copied. 2.
    """
    model = tiny_lm("llama", attention=ATTENTION)
    one, other = (5, 6, 7, 8, 9), (5, 6, 7, 8)
    prompts = [other, one, one, other, other, one]
    calls = note_calls(model)
    drawn = draw(model, prompts, options(2, NO_STOP), 2)
    assert calls == [1, 5, 2, 4, 2, 2]
    assert drawn == draw(tiny_lm("llama"), prompts, options(2, NO_STOP), 6)
    assert len({response.ids for response in drawn.values()}) > 2


def test_no_prompts_no_responses() -> None:
    assert draw(tiny_lm("llama", attention=ATTENTION), [], options(), 4) == {}


# The cache -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", [0, 3])
def test_the_layouts_are_plain_attention(prefix: int) -> None:
    """Two prompts, then one decoded token each: 4 query heads on 2 key heads, against a softmax row by row."""
    torch.manual_seed(0)
    cpu, lengths = torch.device("cpu"), [4, 2]
    cache = Cache(CacheShape(((2, 8, 8),), torch.float32), slots=3, columns=6, device=cpu)
    shared = torch.randn(3, 4, prefix, 8)
    query, key, value = (torch.randn(heads, 6, 8) for heads in (4, 2, 2))
    new_query, new_key, new_value = (torch.randn(heads, 2, 8) for heads in (4, 2, 2))
    if prefix:
        PrefixFill(cache).attend(0, shared[0], shared[1, :2], shared[2, :2], 0.3)
    filled = PromptFill(cache, lengths, [0, 1], prefix).attend(0, query, key, value, 0.3)
    decoded = Decoding(cache, lengths).attend(0, new_query, new_key, new_value, 0.3)
    assert filled.shape == (6, 4, 8)
    assert decoded.shape == (2, 4, 8)
    for row, (start, length) in enumerate([(0, 4), (4, 2)]):
        keys = torch.cat([shared[1, :2], key[:, start : start + length], new_key[:, row : row + 1]], dim=1)
        values = torch.cat([shared[2, :2], value[:, start : start + length], new_value[:, row : row + 1]], dim=1)
        for head in range(4):
            for place in range(length + 1):
                asked = query[head, start + place] if place < length else new_query[head, row]
                seen = prefix + place + 1
                weights = (0.3 * keys[head // 2, :seen].double() @ asked.double()).softmax(dim=0)
                expected = weights @ values[head // 2, :seen].double()
                found = filled[start + place, head] if place < length else decoded[row, head]
                assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_responses_come_with_their_log_probabilities(architecture: Architecture) -> None:
    """Of each token, against one plain call a row; both samplers, rows that share prompts and slots that refill."""
    fast, plain = both(architecture)
    for model in (fast, plain):
        assert_told(model, plain)


def test_log_probabilities_with_a_merged_adapter_are_those_of_the_adapter() -> None:
    policy, plain = adapted(), adapted()
    plain.set_attn_implementation("eager")
    assert_told(policy, plain)


def assert_told(model: nn.Module, plain: nn.Module) -> None:
    prompts = prompts_of(6, 7) * 2
    for stream, response in draw(model, prompts, options(12), 3).items():
        assert response.logps is not None
        expected = naive_response_logps(plain, prompts[stream], response.ids)
        assert response.logps == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize(
    "how", [{"temperature": 0.5}, {"temperature": 0.0}, {"top_k": 3}, {"top_p": 0.9}, {"bf16": True}]
)
def test_a_changed_distribution_or_half_precision_keeps_no_log_probabilities(how: dict[str, Any]) -> None:
    for model in both("llama"):
        assert {response.logps for response in draw(model, prompts_of(6, 4), options(5, **how), 3).values()} == {None}


# Tokens --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vocabulary", [3, 255, 256, 257, 1000, 1024])
def test_blocks_of_words_invert_the_plain_cumulative_sum(vocabulary: int) -> None:
    """Against one sum over all words in float64, for random uniform numbers and at both ends; borders to rounding."""
    torch.manual_seed(vocabulary)
    uniforms = torch.cat([torch.tensor([0, 1 - 2**-53]).double(), torch.rand(2000, dtype=torch.float64)])
    for spread in (0.1, 3.0, 30.0):
        logits = torch.randn(1, vocabulary) * spread
        probabilities = logits.softmax(dim=-1)[0].double()
        cumulative = probabilities.cumsum(dim=0) / probabilities.sum()
        chosen, logps = map(
            list, zip(*choose_tokens(logits.expand(len(uniforms), -1), uniforms, options()), strict=True)
        )
        exact = logits[0].double().log_softmax(dim=0)[chosen]
        assert logps == pytest.approx(exact.tolist(), abs=2e-6 * max(spread, 1))
        assert (probabilities[chosen] > 0).all()
        assert (uniforms <= cumulative[chosen] + 1e-6).all()
        assert (uniforms >= (cumulative - probabilities)[chosen] - 1e-6).all()


def test_words_without_probability_are_not_met_at_the_border_of_a_block() -> None:
    """All probability on words 10, 300 and 511 of 1,000: a quarter, a quarter, a half."""
    logits = torch.full((1, 1000), -torch.inf)
    logits[0, [10, 300, 511]] = torch.tensor([0.25, 0.25, 0.5]).log()
    uniforms = torch.tensor([0.0, 0.24, 0.26, 0.49, 0.51, 1 - 2**-53], dtype=torch.float64)
    drawn = choose_tokens(logits.expand(6, -1), uniforms, options())
    assert [token for token, _ in drawn] == [10, 10, 300, 300, 511, 511]


def test_probabilities_that_are_not_finite_are_refused() -> None:
    logits = torch.zeros(2, 600)
    logits[1, 599] = torch.nan
    with pytest.raises(DemotuneError, match="not finite"):
        choose_tokens(logits, torch.rand(2), options())


# Memory --------------------------------------------------------------------------------------------------------------


def lacking(model: nn.Module, most: int, error: Callable[[], Exception]) -> list[int]:
    """From now on the model fails for calls of more than `most` tokens."""
    calls = note_calls(model)

    def fail(_: nn.Module, __: Any, named: dict[str, Tensor]) -> None:
        if named["input_ids"].shape[1] > most:
            raise error()

    model.register_forward_pre_hook(fail, with_kwargs=True)
    return calls


@pytest.mark.parametrize(
    "error",
    [
        lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
        lambda: RuntimeError("not enough memory: you tried to allocate 8 bytes."),
    ],
)
def test_a_lack_of_memory_halves_the_slots_and_draws_again(error: Callable[[], Exception]) -> None:
    """Prompts of 2 and 1 tokens, calls of at most 5: 12 slots fail, 6 and 3 fail too once they fill, 1 or 2 work."""
    model, prompts = tiny_lm("llama", seed=2, attention=ATTENTION), [(5 + row, 6)[: 1 + row % 2] for row in range(12)]
    expected = draw(model, prompts, options(6), 12)
    calls = lacking(model, 5, error)
    assert draw(model, prompts, options(6), 12) == expected
    assert [call for call in calls if call > 5] == [18, 12, 6]


def test_rows_done_before_the_lack_are_not_drawn_again() -> None:
    """The fourth decoding step fails once: what has left by then stays as it is, the rest starts anew."""
    model, prompts = tiny_lm("llama", seed=2, attention=ATTENTION), prompts_of(4, 12)
    expected = draw(model, prompts, options(8), 8)
    calls = note_calls(model)
    failures = [MemoryError]

    def fail(_: nn.Module, __: Any) -> None:
        if len(calls) == 6 and failures:
            failures.pop()
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.register_forward_pre_hook(fail)
    drawn = []
    for stream, response in sample_responses(model, prompts, range(12), 9, options(8), slots=8):
        drawn.append((stream, response, bool(failures)))
    assert {stream: response for stream, response, _ in drawn} == expected
    assert len(drawn) == 12
    assert 0 < sum(before for _, _, before in drawn) < 12


def test_the_plain_sampler_halves_too() -> None:
    model, prompts = tiny_lm("llama", seed=2), prompts_of(4, 6, longest=3)
    expected = draw(model, prompts, options(6), 6)
    rows: list[int] = []

    def fail(_: nn.Module, __: Any, named: dict[str, Tensor]) -> None:
        rows.append(len(named["input_ids"]))
        if rows[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.register_forward_pre_hook(fail, with_kwargs=True)
    assert draw(model, prompts, options(6), 6) == expected
    assert rows[:2] == [6, 3]
    assert max(rows[2:]) <= 2 or rows[1] == 3


def test_one_row_that_does_not_fit_is_an_error_with_a_way_out() -> None:
    model = tiny_lm("llama", attention=ATTENTION)
    lacking(model, 1, lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    with pytest.raises(DemotuneError, match=r"Tried to allocate 2\.00 GiB.*--max-new-tokens"):
        draw(model, [(5, 6), (7, 8)], options(), 2)


def test_another_error_is_not_taken_for_a_lack_of_memory() -> None:
    model = tiny_lm("llama", attention=ATTENTION)
    lacking(model, 1, lambda: RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes"):
        draw(model, [(5, 6), (7, 8)], options(), 2)


def test_free_memory_bounds_the_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 bytes free, of which 800 count: eight rows of 100 bytes, one of 700, one of 900 by luck, none of 1,001."""
    monkeypatch.setattr(memory, "free_bytes", lambda _: 1000)
    cpu = torch.device("cpu")
    assert memory.slots_that_fit(64, 100, cpu) == 8
    assert memory.slots_that_fit(5, 100, cpu) == 5
    assert memory.slots_that_fit(64, 700, cpu) == 1
    assert memory.slots_that_fit(64, 900, cpu) == 1
    with pytest.raises(DemotuneError, match="--max-length"):
        memory.slots_that_fit(64, 1001, cpu)


def test_fewer_slots_than_asked_for_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """One token of the tiny model: 2 layers * 1 key head * (8 + 8) numbers of 4 bytes = 128 bytes.

    A row of 9 + 8 - 1 = 16 columns has 2,048, its logits 60 words * 4 copies * 4 bytes = 960: 3,008; three fit.
    """
    model, prompts = (
        tiny_lm("llama", seed=2, attention=ATTENTION),
        [(5, 6, 7, 8, 9, 10, 11, 12, 13 + n) for n in range(7)],
    )
    monkeypatch.setattr(sampler, "SHORTEST_PREFIX", 99)
    expected = draw(model, prompts, options(8, NO_STOP), 7)
    monkeypatch.setattr(memory, "free_bytes", lambda _: int(3 * 3008 / 0.8) + 1)
    calls = note_calls(model)
    assert draw(model, prompts, options(8, NO_STOP), 7) == expected
    assert calls == [1, 27, *[3] * 7, 27, *[3] * 7, 9, *[1] * 7]


# Adapters ------------------------------------------------------------------------------------------------------------


def adapted(architecture: Architecture = "llama", **more: Any) -> PeftModel:
    model = tiny_lm(architecture, seed=2, attention=ATTENTION, tied=more.pop("tied", False))
    targets = more.pop("target_modules", "all-linear")
    torch.manual_seed(1)
    return get_peft_model(model, LoraConfig(r=2, target_modules=targets, init_lora_weights=False, **more))


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
@pytest.mark.parametrize("more", [{}, {"use_dora": True}, {"lora_bias": True}], ids=str)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_adapters_are_merged_while_sampling_and_the_base_comes_back(
    architecture: Architecture, more: dict[str, bool]
) -> None:
    if (architecture, more) in (("gpt2", {"use_dora": True}), ("llama", {"lora_bias": True})):
        pytest.skip("peft does not merge these")
    policy = adapted(architecture, **more)
    before = {name: (value, value.clone(), value.requires_grad) for name, value in policy.named_parameters()}
    folded = copy.deepcopy(policy).merge_and_unload()
    folded.set_attn_implementation("eager")
    prompts = prompts_of(4, 12)
    expected = draw(folded, prompts, options(), 12)
    seen = []
    layer = next(module for module in policy.modules() if hasattr(module, "lora_A"))
    layer.register_forward_pre_hook(lambda module, _: seen.append(module.merged))
    assert carries_layouts(policy)
    seen.clear()
    policy.train()
    assert draw(policy, prompts, options(), 5) == expected
    assert seen
    assert all(seen)
    assert policy.training
    assert not layer.merged
    after = dict(policy.named_parameters())
    assert after.keys() == before.keys()
    for name, (parameter, value, wants_gradient) in before.items():
        assert after[name] is parameter
        assert torch.equal(parameter, value), name
        assert parameter.requires_grad == wants_gradient


@pytest.mark.filterwarnings("ignore:.*lora_bias")
def test_what_peft_cannot_merge_is_sampled_as_it_is() -> None:
    """lora_bias needs a bias in the base layer to be merged into, and llama's layers have none."""
    policy = adapted(lora_bias=True)
    before = {name: value.clone() for name, value in policy.named_parameters()}
    prompts = prompts_of(4, 6)
    drawn = draw(policy, prompts, options(), 4)
    assert all(torch.equal(value, before[name]) for name, value in policy.named_parameters())
    assert not any(getattr(module, "merged", False) for module in policy.modules())
    policy.set_attn_implementation("sdpa")
    assert draw(policy, prompts, options(), 4) == drawn


def test_the_base_comes_back_when_drawing_is_given_up() -> None:
    policy = adapted()
    before = {name: value.clone() for name, value in policy.named_parameters()}
    weight = next(value for name, value in policy.named_parameters() if "q_proj.base_layer" in name)
    found = sample_responses(policy, prompts_of(4, 12), range(12), 0, options(), slots=3)
    next(found)
    assert not any(torch.equal(weight, value) for value in before.values())
    found.close()
    assert all(torch.equal(value, before[name]) for name, value in policy.named_parameters())


def test_what_merging_would_change_is_not_merged() -> None:
    """A tied embedding under an adapter is the head too; an adapter that is switched off must stay off."""
    tied = adapted(target_modules=["embed_tokens", "q_proj"], tied=True)
    off = adapted()
    with merged_adapters(tied):
        assert not any(getattr(module, "merged", False) for module in tied.modules())
    with off.disable_adapter(), merged_adapters(off):
        assert not any(getattr(module, "merged", False) for module in off.modules())
    with merged_adapters(off):
        assert any(getattr(module, "merged", False) for module in off.modules())
    half = adapted().to(torch.bfloat16)  # a small adapter would be rounded away
    with merged_adapters(half), prepared_for_sampling(off, bf16=True):
        assert not any(getattr(module, "merged", False) for module in (*half.modules(), *off.modules()))
    prompts = prompts_of(4, 6)
    plain = tiny_lm("llama", seed=2)
    with off.disable_adapter():
        assert draw(off, prompts, options(), 4) == draw(plain, prompts, options(), 4)


def test_a_listener_hears_each_token_of_each_stream_in_order() -> None:
    heard: dict[int, list[int]] = {}

    def listen(stream: int, token: int) -> None:
        heard.setdefault(stream, []).append(token)

    sampler = InProcessSampler(lambda: tiny_lm(attention=ATTENTION), slots=2, listen=listen)
    drawn = dict(sampler.draw([(5, 6, 7), (8, 9), (5, 6)], [3, 8, 4], 1, SamplingOptions(9, frozenset({2}))))
    assert heard == {stream: list(response.ids) for stream, response in drawn.items()}
    assert len(heard) == 3
