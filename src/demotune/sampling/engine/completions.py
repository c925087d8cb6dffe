"""One request to `/v1/completions` of vLLM, token ids in and out, and what its answer must keep."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from demotune.common.errors import DemotuneError
from demotune.common.http_client import PassingError
from demotune.records import Response
from demotune.sampling.options import SamplingOptions

MOST_BYTES = 64 * 2**20
"""Of an answer; one of 10,000 tokens with log-probabilities has about one MiB."""
NEVER = -100.0
"""The lowest bias that the protocol knows."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server drew, and the log-probability of each token, where they were asked for."""

    response: Response
    logps: tuple[float, ...] | None


def request_seed(seed: int, stream: int) -> int:
    """63 bits from a hash of both. All bits change with either: some generators use the lower 32 only."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{stream}".encode()).digest()[:8]) >> 1


def completion_request(
    model: str,
    prompt: Sequence[int],
    *,
    seed: int,
    stream: int,
    options: SamplingOptions,
    excluded: Sequence[int],
    logps: bool = False,
) -> dict[str, Any]:
    """The body of a request for one response.

    Every setting of the distribution is given: a server takes those that are left out from the model's folder.
    `excluded` are ids that must not be drawn.
    """
    return {
        "model": model,
        "prompt": list(prompt),
        "add_special_tokens": False,
        "return_token_ids": True,
        "max_tokens": options.limit(len(prompt)),
        "stop_token_ids": sorted(options.stop_ids),
        "ignore_eos": True,  # of the model's folder; stop_token_ids are all that end a response
        "seed": request_seed(seed, stream),
        "temperature": options.temperature,
        "top_p": options.top_p,
        "top_k": options.top_k,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "user": f"demotune {seed}/{stream}",
        **({"logit_bias": {str(token): NEVER for token in excluded}} if excluded else {}),
        **({"logprobs": 0} if logps else {}),
    }


def read_answer(received: bytes, asked: Mapping[str, Any], options: SamplingOptions, address: str) -> Answer:
    """The answer to a request.

    Raises PassingError for half an answer, DemotuneError for one that no repetition makes better.
    """
    try:
        found = json.loads(received)
        choice = found["choices"][0]
        reason, model = choice["finish_reason"], found["model"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise PassingError(f"its answer is no whole completion ({type(error).__name__}: {error})") from error
    if not isinstance(choice.get("token_ids"), list) or not isinstance(choice.get("prompt_token_ids"), list):
        raise DemotuneError(
            f"the server at {address} returns no token ids (return_token_ids); give the address of a vLLM server, "
            "version 0.10.2 or later"
        )
    if model != asked["model"]:
        raise _wrong(address, f"answers as model {model!r}, and {asked['model']!r} was asked")
    if choice["prompt_token_ids"] != asked["prompt"]:
        raise _wrong(address, "read another prompt than the one that it was sent: its tokenizer or template interferes")
    if reason not in ("stop", "length"):
        raise PassingError(f"it ended a response with finish_reason {reason!r}")
    ids = tuple(choice["token_ids"])
    _check(ids, reason, asked["max_tokens"], options, address)
    return Answer(Response(ids, finished=ids[-1] in options.stop_ids), _logps(choice, ids))


def _check(ids: Sequence[Any], reason: str, limit: int, options: SamplingOptions, address: str) -> None:
    """Raise DemotuneError unless the tokens keep the contract of `Sampler`."""
    if not ids or not all(type(token) is int for token in ids):
        raise _wrong(address, f"drew {list(ids[:3])!r}, which are no tokens")
    if not options.stop_ids.isdisjoint(ids[:-1]):
        raise _wrong(address, "wrote on after a stop token")
    ended = ids[-1] in options.stop_ids  # with the last token that may be drawn, too, which some call length
    if reason == "stop" and not ended:
        raise _wrong(address, f"ended a response with token {ids[-1]}, which is no stop token")
    if len(ids) > limit or (len(ids) < limit and not ended):
        raise _wrong(address, f"drew {len(ids)} tokens with finish_reason {reason!r}, and max_tokens is {limit}")
    if options.vocabulary is not None and not options.vocabulary.issuperset(ids):
        raise _wrong(address, f"drew ids without a token: {sorted(set(ids) - options.vocabulary)[:3]}")


def _logps(choice: Mapping[str, Any], ids: Sequence[int]) -> tuple[float, ...] | None:
    logps = (choice.get("logprobs") or {}).get("token_logprobs")
    if not isinstance(logps, list) or len(logps) != len(ids):
        return None
    return tuple(map(float, logps)) if all(isinstance(logp, int | float) for logp in logps) else None


def _wrong(address: str, what: str) -> DemotuneError:
    return DemotuneError(
        f"the server at {address} {what}; use vLLM's own server, without a proxy or plugin that changes requests"
    )
