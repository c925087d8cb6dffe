"""What every sampler must keep, whichever draws the tokens; a new implementation joins SAMPLERS."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from functools import cache
from pathlib import Path

import pytest
import torch
from helpers.engine_server import TinyEngine
from helpers.tiny import save_tiny, tiny_model
from torch import nn

from demotune.models.attention import ATTENTION, carries_layouts, register_attention
from demotune.models.logprobs import naive_response_logps
from demotune.records import Response
from demotune.sampling import Engine, EngineSampler, InProcessSampler, Sampler, SamplingOptions

register_attention()
MAX_LENGTH = 16
STOP_IDS = frozenset(range(0, 250, 7))
VOCABULARY = frozenset(range(0, 250))
PROMPTS = [(20, 31, 42), (20, 31, 42), (11,), tuple(range(40, 52)), (9, 9)]
STREAMS = [3, 1, 4, 15, 9]


def in_process(attention: str) -> Callable[[Path], AbstractContextManager[Sampler]]:
    def make(_: Path) -> AbstractContextManager[Sampler]:
        model = tiny_model()
        model.set_attn_implementation(attention)
        assert carries_layouts(model) == (attention == ATTENTION)
        return nullcontext(InProcessSampler(lambda: model, slots=2))

    return make


@contextmanager
def by_engine(folder: Path) -> Iterator[Sampler]:
    with closing(TinyEngine(save_tiny(folder / "start"))) as server:
        engine = Engine([server.url], folder / "handed-over", in_flight=3)
        yield EngineSampler(cache(tiny_model), engine, "the policy")


SAMPLERS = {"slots": in_process(ATTENTION), "batches": in_process("eager"), "engine": by_engine}


@pytest.fixture(params=SAMPLERS)
def sampler(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sampler]:
    with SAMPLERS[request.param](tmp_path) as made:
        yield made


def options(**more: float) -> SamplingOptions:
    limits = {"max_new_tokens": 8, "max_length": MAX_LENGTH, "stop_ids": STOP_IDS, "vocabulary": VOCABULARY}
    return SamplingOptions(**(limits | more))


def draw(sampler: Sampler, how: SamplingOptions, chosen: slice = slice(None)) -> dict[int, Response]:
    found = list(sampler.draw(PROMPTS[chosen], STREAMS[chosen], 5, how))
    assert sorted(stream for stream, _ in found) == sorted(STREAMS[chosen])
    return dict(found)


def test_a_response_ends_at_its_stop_token_or_at_the_limit(sampler):
    how = options()
    drawn = draw(sampler, how)
    for prompt, stream in zip(PROMPTS, STREAMS, strict=True):
        response = drawn[stream]
        assert VOCABULARY.issuperset(response.ids)
        assert STOP_IDS.isdisjoint(response.ids[:-1])
        assert response.finished == (response.ids[-1] in STOP_IDS)
        if not response.finished:
            assert len(response.ids) == min(8, MAX_LENGTH - len(prompt))
    assert {response.finished for response in drawn.values()} == {True, False}


def test_greedy_draws_the_likeliest_token(sampler):
    drawn = draw(sampler, options(temperature=0.0))
    model = tiny_model()
    for prompt, stream in zip(PROMPTS, STREAMS, strict=True):
        ids = list(prompt)
        for token in drawn[stream].ids:
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([ids])).logits[0, -1, : len(VOCABULARY)]
            assert token == int(logits.argmax())
            ids.append(token)


@pytest.mark.parametrize("more", [{}, {"temperature": 0.7}, {"top_p": 0.9}, {"top_k": 5}, {"bf16": True}])
def test_kept_log_probabilities_are_those_of_the_policy(sampler, more):
    how = options(**more)
    drawn = draw(sampler, how)
    assert sampler.keeps_logps(how) == (not more and isinstance(sampler, InProcessSampler))
    for prompt, stream in zip(PROMPTS, STREAMS, strict=True):
        response = drawn[stream]
        assert (response.logps is not None) == sampler.keeps_logps(how)
        if response.logps is not None:
            expected = naive_response_logps(tiny_model(), prompt, response.ids).tolist()
            assert response.logps == pytest.approx(expected, abs=1e-4)


def test_what_is_drawn_depends_on_seed_and_stream_alone(sampler):
    whole = draw(sampler, options())
    rest = draw(sampler, options(), slice(2, None))
    assert rest == {stream: whole[stream] for stream in STREAMS[2:]}
    assert whole[3] != whole[1]  # the same prompt, another stream
    assert dict(sampler.draw(PROMPTS, STREAMS, 6, options())) != whole


def test_it_can_be_made_ready_for_several_draws(sampler):
    with sampler.ready(PROMPTS, options()):
        assert draw(sampler, options(), slice(2)).items() <= draw(sampler, options()).items()


def test_the_policy_is_loaded_only_when_something_is_to_be_drawn():
    loaded: list[nn.Module] = []

    def load() -> nn.Module:
        loaded.append(tiny_model())
        return loaded[-1]

    sampler = InProcessSampler(load, slots=2)
    assert list(sampler.draw([], [], 0, options())) == []
    assert loaded == []
    draw(sampler, options())
    assert len(loaded) == 1
