"""An engine that draws over HTTP: its weights are given and proved, and no failure loses or doubles a response."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import torch
from helpers.engine_server import VLLM, TinyEngine, drop, once_at, write_vllm
from helpers.tiny import save_tiny
from safetensors.torch import load_file

from demotune.common.errors import DemotuneError
from demotune.models.policy import Policy, attach_adapter, load_policy, lora_config
from demotune.records import Response
from demotune.sampling import Engine, EngineSampler, InProcessSampler, SamplingOptions
from demotune.sampling.engine.completions import completion_request, request_seed
from demotune.sampling.engine.process import ServerSettings, StartedServer
from demotune.sampling.engine.weights import EXACT, ROUNDED, tolerance

PROMPTS = [(20 + row, 31, 42) for row in range(6)]
STREAMS = list(range(3, 9))
OPTIONS = SamplingOptions(
    max_new_tokens=6, max_length=16, stop_ids=frozenset(range(0, 250, 7)), vocabulary=frozenset(range(250))
)
SEED = 5


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine")
    save_tiny(folder / "start")
    save_tiny(folder / "other", seed=1)
    return folder


@pytest.fixture
def serve(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., TinyEngine]]:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    monkeypatch.setattr("demotune.sampling.engine.weights.TOKENS", 3)
    servers: list[TinyEngine] = []

    def start(folder: str = "start", **modes: Any) -> TinyEngine:
        servers.append(TinyEngine(place / folder, **modes))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def policy_in(folder: Path) -> Policy:
    return load_policy(folder, dtype="float32", attn_implementation=None, device=torch.device("cpu"))


def adapter_on(folder: Path) -> Policy:
    return attach_adapter(policy_in(folder), lora_config(4, 8, ("all-linear",)), 0)


def engine_at(tmp_path: Path, *servers: TinyEngine, in_flight: int = 2, pauses: list[float] | None = None) -> Engine:
    waits = [] if pauses is None else pauses
    return Engine(
        [server.url for server in servers],
        tmp_path / "handed-over",
        in_flight=in_flight,
        pause=lambda _, seconds: waits.append(seconds),
    )


def draw(engine: Engine, policy: Policy, count: int = len(PROMPTS)) -> dict[int, Response]:
    sampler = EngineSampler(lambda: policy, engine, "stage 1")
    found = list(sampler.draw(PROMPTS[:count], STREAMS[:count], SEED, OPTIONS))
    assert sorted(stream for stream, _ in found) == STREAMS[:count]
    return dict(found)


def expected(policy: Policy) -> dict[int, Response]:
    return dict(InProcessSampler(lambda: policy, slots=4).draw(PROMPTS, STREAMS, SEED, OPTIONS))


def streams_of(*servers: TinyEngine) -> list[int]:
    return sorted(stream for server in servers for seed, stream in server.asked)


# Weights -------------------------------------------------------------------------------------------------------------


def test_the_engine_is_given_the_weights_and_draws_as_this_process_would(serve, place, tmp_path):
    server, policy = serve(), policy_in(place / "other")
    assert draw(engine_at(tmp_path, server), policy) == expected(policy)
    assert len(server.given) == 1
    assert streams_of(server) == STREAMS


def test_weights_are_written_again_only_where_they_have_changed(serve, place, tmp_path):
    server, policy = serve(), policy_in(place / "start")
    engine = engine_at(tmp_path, server)
    draw(engine, policy, 2)
    draw(engine, policy, 3)
    assert len(set(server.given)) == 1
    with torch.no_grad():
        next(policy.parameters()).add_(1e-6)  # far less than the proof would see
    draw(engine, policy, 2)
    assert len(set(server.given)) == 2
    assert [Path(server.given[-1])] == list((tmp_path / "handed-over").iterdir())
    engine.close()
    assert not (tmp_path / "handed-over").exists()


@pytest.mark.parametrize("adapted", [False, True], ids=["whole", "adapter"])
def test_a_server_that_begins_anew_between_two_drawings_is_given_the_weights_again(adapted, serve, place, tmp_path):
    """In bfloat16 the proof would not see the difference of one stage."""
    server, policy = serve(), adapter_on(place / "start") if adapted else policy_in(place / "other")
    engine = engine_at(tmp_path, server)
    draw(engine, policy, 1)
    server.begin_anew()
    assert draw(engine, policy) == expected(policy)


def test_an_adapter_is_given_again_to_a_server_that_begins_anew_while_it_draws(serve, place, tmp_path):
    server, policy = serve(), adapter_on(place / "start")
    server.fault = once_at(2, lambda *_: server.begin_anew())
    assert draw(engine_at(tmp_path, server, in_flight=1), policy) == expected(policy)


@pytest.mark.parametrize("can_sleep", [True, False])
def test_a_server_that_was_started_sleeps_between_drawings(can_sleep, place, tmp_path, capsys):
    """It leaves the accelerator's memory to training, where it can."""
    python = write_vllm(tmp_path, VLLM if can_sleep else VLLM.replace("port=", "dev_mode=False, port="))
    settings = ServerSettings(tokenizer=place / "start", bf16=False, longest=256, rows=4, lora_rank=None, on_gpu=True)
    engine = Engine(StartedServer(python, settings, tmp_path / "log"), tmp_path / "handed-over", in_flight=2)
    policy, shown = policy_in(place / "start"), ""
    try:
        for _ in range(2):
            assert draw(engine, policy) == expected(policy)
            shown += capsys.readouterr().out
            address = re.findall(r"starting vllm at (http\S+);", shown)[0]
            with urlopen(f"{address}/is_sleeping") as answer:
                assert json.load(answer) == {"is_sleeping": can_sleep}
    finally:
        engine.close()
    assert shown.count("vllm has no sleep mode here") == (not can_sleep)


def test_a_head_that_is_the_embedding_is_handed_over_as_a_head(serve, place, tmp_path):
    server, policy = serve(), policy_in(place / "other")
    draw(engine_at(tmp_path, server), policy, 1)
    (folder,) = map(Path, server.given)
    state = load_file(folder / "model.safetensors")
    assert policy.config.tie_word_embeddings
    assert torch.equal(state["lm_head.weight"], state["model.embed_tokens.weight"])
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False


def test_a_server_that_takes_no_weights_may_draw_from_those_that_it_has(serve, place, tmp_path):
    policy = policy_in(place / "start")
    assert draw(engine_at(tmp_path, serve(dev_mode=False)), policy) == expected(policy)


def test_other_weights_are_refused_before_anything_is_drawn(serve, place, tmp_path):
    server = serve(dev_mode=False)
    with pytest.raises(
        DemotuneError, match=r"does not hold the weights of stage 1: .* nats a token .*; load /"
    ) as caught:
        draw(engine_at(tmp_path, server), policy_in(place / "other"))
    assert "VLLM_SERVER_DEV_MODE=1 python -m vllm" in str(caught.value)
    assert server.asked == []


def test_a_server_that_takes_no_weights_cannot_follow_a_policy_that_changes(serve, place, tmp_path):
    policy, server = policy_in(place / "start"), serve(dev_mode=False)
    engine = engine_at(tmp_path, server)
    draw(engine, policy, 1)
    with torch.no_grad():
        next(policy.parameters()).add_(1e-6)
    with pytest.raises(DemotuneError, match="it takes no new weights"):
        draw(engine, policy, 1)


def test_an_adapter_goes_by_its_name(serve, place, tmp_path):
    policy = adapter_on(place / "start")
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    server = serve(dev_mode=False)
    engine = engine_at(tmp_path, server)
    assert draw(engine, policy) == expected(policy)
    (first,) = server.adapters
    with torch.no_grad():
        next(weight for name, weight in policy.named_parameters() if "lora_B" in name).add_(0.1)
    assert draw(engine, policy) == expected(policy)
    (second,) = server.adapters
    assert first != second
    with pytest.raises(DemotuneError, match=r"does not take the adapter .* --enable-lora --max-lora-rank"):
        draw(engine_at(tmp_path, serve(lora_mode=False)), policy)


def test_an_adapter_finds_its_base_again_after_a_whole_model(serve, place, tmp_path):
    policy = adapter_on(place / "start")
    server = serve()
    engine = engine_at(tmp_path, server)
    draw(engine, policy_in(place / "other"), 2)
    assert draw(engine, policy) == expected(policy)


def test_how_near_log_probabilities_must_be(place):
    policy = policy_in(place / "start")
    assert tolerance(policy, bf16=False) == EXACT
    assert tolerance(policy, bf16=True) == tolerance(policy.to(torch.bfloat16), bf16=False) == ROUNDED


# Requests ------------------------------------------------------------------------------------------------------------


def test_a_request_leaves_nothing_to_the_servers_defaults():
    options = SamplingOptions(max_new_tokens=9, stop_ids=frozenset({7, 2}), temperature=0.7, top_p=0.9, top_k=5)
    body = completion_request("m", [1, 2], seed=3, stream=4, options=options, excluded=[8])
    assert body == {
        "model": "m", "prompt": [1, 2], "add_special_tokens": False, "return_token_ids": True, "max_tokens": 9,
        "stop_token_ids": [2, 7], "ignore_eos": True, "seed": request_seed(3, 4), "temperature": 0.7, "top_p": 0.9,
        "top_k": 5, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
        "user": "demotune 3/4", "logit_bias": {"8": -100.0},
    }  # fmt: skip


def test_seeds_differ_in_their_lower_half_where_seed_or_stream_differ():
    seeds = {request_seed(seed, stream) & 0xFFFFFFFF for seed in range(30) for stream in range(30)}
    assert len(seeds) == 900


def test_at_most_so_many_requests_are_under_way(serve, place, tmp_path):
    """The server holds each request back until another one has come, or nothing is left."""
    server, most, now, changed = serve(), 0, 0, threading.Condition()
    answer = server.answer

    def counting(path: str, body: dict[str, Any]) -> Any:
        nonlocal most, now
        if path != "/v1/completions" or "logprobs" in body:
            return answer(path, body)
        with changed:
            now += 1
            most = max(most, now)
            changed.notify_all()
            changed.wait_for(lambda: most == 3)
            now -= 1
        return answer(path, body)

    server.answer, server._lock = counting, Unlocked()
    draw(engine_at(tmp_path, server, in_flight=3), policy_in(place / "start"))
    assert most == 3


class Unlocked:
    """Stands for a lock that holds nobody up."""

    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def test_a_prompt_that_is_longer_than_the_server_takes_is_refused_early(serve, place, tmp_path):
    server = serve()
    server.longest = 8
    with pytest.raises(DemotuneError, match=r"takes 8 tokens, .* may have 9; start it with --max-model-len 9"):
        draw(engine_at(tmp_path, server), policy_in(place / "start"))


def test_the_key_is_sent_and_a_wrong_one_named(serve, place, tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "sk-1")
    server = serve()
    draw(engine_at(tmp_path, server), policy_in(place / "start"))
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer sk-1"}
    server.fault = lambda *_: (401, {"error": "no sk-1"}, {})
    with pytest.raises(DemotuneError, match=r"refuses \(401: .*\*\*\*.*put the right key into .* VLLM_API_KEY"):
        draw(engine_at(tmp_path, server), policy_in(place / "start"))


# Failures that pass --------------------------------------------------------------------------------------------------

PASSING = {
    "429": lambda *_: (429, {}, {"Retry_After": "7"}),
    "500": lambda *_: 500,
    "503": lambda *_: 503,
    "gone": lambda *_: drop(),
    "half": lambda engine, body: drop(engine.completion(body)),
    "malformed": lambda *_: (200, b'{"choices": [', {}),
    "aborted": lambda engine, body: (200, changed(engine, body, finish_reason="abort"), {}),
    "restarted": lambda engine, body: (engine.begin_anew(), drop()),
}


def changed(engine: TinyEngine, body: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """An answer whose choice has other fields."""
    whole = engine.completion(body)
    return whole | {"choices": [whole["choices"][0] | fields]}


@pytest.mark.parametrize("name", PASSING)
def test_what_fails_once_is_asked_again(name, serve, place, tmp_path):
    server, policy, pauses = serve(), policy_in(place / "other"), []
    server.fault = once_at(4, PASSING[name])
    assert draw(engine_at(tmp_path, server, in_flight=1, pauses=pauses), policy) == expected(policy)
    assert streams_of(server) == STREAMS
    assert pauses == [7.0 if name == "429" else 1.0]
    assert len(server.given) == (1 if name == "429" else 2)  # unless it said so itself, it may have begun anew


@pytest.mark.parametrize("adapted", [False, True], ids=["whole", "adapter"])
def test_weights_that_a_server_cannot_take_now_are_given_again(adapted, serve, place, tmp_path):
    server, policy = serve(), adapter_on(place / "start") if adapted else policy_in(place / "other")
    server.refusals = [500, 503, 429]
    assert draw(engine_at(tmp_path, server), policy) == expected(policy)
    assert server.refusals == []


def test_weights_that_a_server_refuses_end_with_one_sentence(serve, place, tmp_path):
    server = serve()
    server.refusals = [400]
    with pytest.raises(DemotuneError, match=r"the server at \S+ refuses \(400: .*fault.*\); see the server's log"):
        draw(engine_at(tmp_path, server), policy_in(place / "other"))


def test_the_deadline_ends_a_request_that_gets_no_answer(serve, place, tmp_path, monkeypatch):
    monkeypatch.setattr("demotune.sampling.engine.server.SECONDS", 0.2)
    monkeypatch.setattr("demotune.sampling.engine.server.SECONDS_PER_TOKEN", 0.1)
    server, policy, over = serve(), policy_in(place / "start"), threading.Event()
    server._lock = Unlocked()
    server.fault = once_at(2, lambda *_: over.wait())
    try:
        assert draw(engine_at(tmp_path, server, in_flight=1), policy) == expected(policy)
    finally:
        over.set()


def test_one_server_does_the_work_of_another_that_is_gone(serve, place, tmp_path):
    well, ill, policy = serve(), serve(), policy_in(place / "other")
    ill.fault = lambda *_: drop() if len(ill.asked) == 2 else None
    assert draw(engine_at(tmp_path, well, ill), policy) == expected(policy)
    assert streams_of(well, ill) == STREAMS
    assert len(ill.asked) == 2


def test_servers_share_the_prompts(serve, place, tmp_path):
    """Neither answers before both were asked."""
    servers, policy, both = [serve(), serve()], policy_in(place / "start"), threading.Barrier(2)
    for server in servers:
        server.fault = once_at(1, lambda *_: both.wait() and None)
    assert draw(engine_at(tmp_path, *servers, in_flight=1), policy) == expected(policy)
    assert streams_of(*servers) == STREAMS


def test_a_server_that_is_not_there_is_left_out(serve, place, tmp_path, capsys):
    here, lost, policy = serve(), serve(), policy_in(place / "start")
    lost.close()
    assert draw(engine_at(tmp_path, lost, here), policy) == expected(policy)
    assert f"warning: the server at {lost.url} does not answer" in capsys.readouterr().out


def test_with_all_servers_gone_what_came_is_kept(serve, place, tmp_path):
    server, policy = serve(), policy_in(place / "start")
    server.fault = lambda *_: drop() if len(server.asked) == 3 else None
    engine, found = engine_at(tmp_path, server, in_flight=1), []
    with pytest.raises(DemotuneError, match=r"no server that draws gives an answer any more .*resume RUN --sampler"):
        found += EngineSampler(lambda: policy, engine, "stage 1").draw(PROMPTS, STREAMS, SEED, OPTIONS)
    server.fault = lambda *_: None
    assert draw(engine, policy) == expected(policy)  # the same engine, once the server is there again


def test_a_caller_may_stop_early_and_ask_again(serve, place, tmp_path):
    server, policy = serve(), policy_in(place / "start")
    engine = engine_at(tmp_path, server, in_flight=1)
    drawn = EngineSampler(lambda: policy, engine, "stage 1").draw(PROMPTS, STREAMS, SEED, OPTIONS)
    first = dict([next(drawn)])
    drawn.close()
    assert draw(engine, policy) == expected(policy)
    assert first.items() <= expected(policy).items()


# Failures that stay --------------------------------------------------------------------------------------------------

STAYING: dict[str, tuple[Callable[[TinyEngine, dict[str, Any]], Any], str]] = {
    "refused": (lambda *_: (400, {"error": {"message": "too long"}}, {}), r"refuses \(400: .*too long.*server's log"),
    "unknown model": (lambda *_: 404, r"refuses \(404: .*check the address, .*that the model is still served"),
    "wrong model": (
        lambda engine, body: (200, engine.completion(body) | {"model": "gpt"}, {}),
        "answers as model 'gpt', and 'tiny' was asked",
    ),
    "no ids": (lambda engine, body: (200, changed(engine, body, token_ids=None), {}), "returns no token ids"),
    "another prompt": (
        lambda engine, body: (200, changed(engine, body, prompt_token_ids=[1, *body["prompt"]]), {}),
        "read another prompt",
    ),
    "no stop token": (
        lambda engine, body: (200, changed(engine, body, token_ids=[8], finish_reason="stop"), {}),
        "token 8, which is no stop token",
    ),
    "after the end": (
        lambda engine, body: (200, changed(engine, body, token_ids=[7, 8], finish_reason="length"), {}),
        "wrote on after a stop token",
    ),
    "too long": (
        lambda engine, body: (200, changed(engine, body, token_ids=[8] * 7, finish_reason="length"), {}),
        "drew 7 tokens .* max_tokens is 6",
    ),
    "too short": (
        lambda engine, body: (200, changed(engine, body, token_ids=[8] * 5, finish_reason="length"), {}),
        "drew 5 tokens .* max_tokens is 6",
    ),
    "without a token": (
        lambda engine, body: (200, changed(engine, body, token_ids=[8] * 5 + [251], finish_reason="length"), {}),
        r"ids without a token: \[251\]",
    ),
    "malformed for ever": (lambda *_: (200, json.dumps([1]).encode(), {}), "its answer is no whole completion"),
}


@pytest.mark.parametrize("name", STAYING)
def test_what_cannot_get_better_ends_with_one_sentence(name, serve, place, tmp_path):
    server, (fault, message) = serve(), STAYING[name]
    server.fault = lambda engine, body: fault(engine, body) if len(engine.asked) == 2 else None
    with pytest.raises(DemotuneError, match=message) as caught:
        draw(engine_at(tmp_path, server, in_flight=1), policy_in(place / "start"))
    assert "\n" not in str(caught.value)


def test_an_address_that_is_no_vllm_is_named(place, tmp_path, serve):
    engine = Engine([f"{serve().url}/elsewhere"], tmp_path / "handed-over", in_flight=1, pause=lambda *_: None)
    with pytest.raises(DemotuneError, match="answers, but not as vLLM does; check the address"):
        dict(EngineSampler(lambda: policy_in(place / "start"), engine, "it").draw(PROMPTS, STREAMS, 0, OPTIONS))
