"""vLLM beside the sampler of this process: the same tokens, the same frequencies, and how fast.

    python benchmarks/engine.py --model MODEL --vllm-python .venv-vllm/bin/python

In float32 and one thread: OMP_NUM_THREADS=1 VLLM_CPU_OMP_THREADS_BIND=0 before the command. One server is started and
both samplers draw in turns. Results go to benchmarks/results/engine.json.
"""

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from scipy.stats import chi2
from speed.harness import RESULTS, machine

from demotune.common.files import read_rows, write_json
from demotune.common.machine import package_versions
from demotune.common.processes import this_device
from demotune.data.rendering import Renderer
from demotune.models.policy import load_policy, resolve_model
from demotune.models.tokenizers import generation_stop_ids, load_tokenizer
from demotune.sampling import Engine, EngineSampler, InProcessSampler, Sampler, SamplingOptions
from demotune.sampling.engine.process import ServerSettings, StartedServer

SHIPPED = Path(__file__).parents[1] / "src" / "demotune" / "cli" / "shipped" / "support_train.jsonl"
SEED, LENGTH, GREEDY, DRAWS, TURNS = 7, 64, 32, 1000, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--vllm-python", required=True)
    parser.add_argument("--results", type=Path, default=RESULTS / "engine.json")
    given = parser.parse_args()
    folder = resolve_model(given.model)
    renderer = Renderer(load_tokenizer(folder), None, generation_stop_ids(folder))
    prompts = [renderer.prompt_ids(row["prompt"]) for row in read_rows(SHIPPED)[:64]]
    policy = load_policy(folder, dtype="float32", attn_implementation=None, device=this_device()).eval()
    longest = max(map(len, prompts)) + LENGTH
    settings = ServerSettings(tokenizer=folder, bf16=False, longest=longest, rows=64, lora_rank=None, on_gpu=False)
    place = tempfile.mkdtemp()  # the server's log stays there
    started = time.monotonic()
    server = StartedServer(given.vllm_python, settings, Path(place) / "vllm.log")
    with closing(Engine(server, Path(place) / "weights", in_flight=64)) as engine:
        theirs = EngineSampler(cache(lambda: policy), engine, "the model")
        ours = InProcessSampler(lambda: policy, slots=64)
        options = partial(SamplingOptions, stop_ids=frozenset(), vocabulary=renderer.vocabulary)
        with theirs.ready(prompts, options(max_new_tokens=LENGTH)):
            found = {
                "machine": machine(),
                "versions": package_versions(),
                "threads": torch.get_num_threads(),
                "seconds_to_ready": round(time.monotonic() - started, 1),
                "nats_a_token": engine.distance,
                "greedy": greedy(theirs, ours, prompts[:16], options(max_new_tokens=GREEDY, temperature=0.0)),
                "frequencies": {
                    name: frequencies(theirs, ours, policy, prompts[0], options(max_new_tokens=1, **more))
                    for name, more in {"temperature 1": {}, "temperature 0.7": {"temperature": 0.7}}.items()
                },
                "tokens_per_second": {
                    rows: speed(theirs, ours, prompts[:rows], options(max_new_tokens=LENGTH)) for rows in (16, 64)
                },
            }
        found["hand_over"] = hand_over(engine, theirs, policy, prompts, options(max_new_tokens=1))
    write_json(given.results, found)
    print({name: value for name, value in found.items() if name not in ("machine", "versions")})


def greedy(
    theirs: Sampler, ours: Sampler, prompts: Sequence[Sequence[int]], options: SamplingOptions
) -> dict[str, int]:
    """Tokens of greedy responses that are the same, before the first that is not."""
    drawn = [dict(one.draw(prompts, range(len(prompts)), SEED, options)) for one in (theirs, ours)]
    same = 0
    for row in range(len(prompts)):
        pairs = list(zip(drawn[0][row].ids, drawn[1][row].ids, strict=True))
        same += next((place for place, (a, b) in enumerate(pairs) if a != b), len(pairs))
    return {"tokens": sum(len(one.ids) for one in drawn[1].values()), "same": same}


def frequencies(
    theirs: Sampler, ours: Sampler, policy: Any, prompt: Sequence[int], options: SamplingOptions
) -> dict[str, Any]:
    """Chi-square of drawn first tokens against the model's probabilities, rare tokens together."""
    with torch.no_grad():
        ids = torch.tensor([prompt], device=this_device())
        scores = policy(input_ids=ids).logits[0, -1].double().cpu() / options.temperature
    keep = torch.zeros_like(scores, dtype=torch.bool)
    keep[sorted(options.vocabulary or range(len(scores)))] = True
    chances = scores.masked_fill(~keep, -torch.inf).softmax(dim=-1).tolist()
    often = {token: DRAWS * chance for token, chance in enumerate(chances) if DRAWS * chance >= 5}
    return {
        name: chi_square(Counter(r.ids[0] for _, r in one.draw([prompt] * DRAWS, range(DRAWS), SEED, options)), often)
        for name, one in (("vllm", theirs), ("in_process", ours))
    } | {"draws": DRAWS, "cells": len(often) + 1}


def chi_square(counts: Counter[int], often: dict[int, float]) -> dict[str, float]:
    rest = DRAWS - sum(often.values())
    seen_rest = DRAWS - sum(counts[token] for token in often)
    total = sum((counts[token] - expected) ** 2 / expected for token, expected in often.items())
    total += (seen_rest - rest) ** 2 / rest if rest >= 1 else 0.0
    return {"chi_square": round(total, 1), "p": round(float(chi2.sf(total, len(often))), 3)}


def speed(theirs: Sampler, ours: Sampler, prompts: Sequence[Sequence[int]], options: SamplingOptions) -> dict[str, Any]:
    """Tokens a second, the samplers in turns, each turn with streams of its own."""
    rates: dict[str, list[float]] = {"vllm": [], "in_process": []}
    for turn in range(TURNS):
        for name, one in (("vllm", theirs), ("in_process", ours)):
            streams, started = [turn * len(prompts) + row for row in range(len(prompts))], time.monotonic()
            tokens = sum(len(response.ids) for _, response in one.draw(prompts, streams, SEED, options))
            rates[name].append(round(tokens / (time.monotonic() - started), 1))
    return rates | {"tokens": len(prompts) * LENGTH}


def hand_over(
    engine: Engine, theirs: Sampler, policy: Any, prompts: Sequence[Sequence[int]], options: SamplingOptions
) -> dict[str, float | None]:
    """Seconds to write changed weights, give and prove them; and how far log-probabilities are from ours then."""
    with torch.no_grad():
        for weight in policy.parameters():
            weight.mul_(1.001)
    started = time.monotonic()
    with theirs.ready(prompts, options):
        return {"seconds": round(time.monotonic() - started, 2), "nats_a_token": engine.distance}


if __name__ == "__main__":
    main()
