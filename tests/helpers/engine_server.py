"""A server with vLLM's addresses and JSON whose tokens are drawn by our own sampler, and everything that can go wrong.

It reads seed and stream from `user`, so a run that draws here draws what it would draw in its own process.
"""

import json
import os
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch

from demotune.models.policy import load_policy
from demotune.models.reference_logps import token_logps
from demotune.records import Completion
from demotune.sampling import SamplingOptions, sample_responses
from demotune.sampling.engine.completions import request_seed

Fault = Callable[["TinyEngine", dict[str, Any]], Any]
"""What happens to a completion: it returns None (nothing), a status code, or an answer instead; or it calls `drop`."""


class DroppedError(Exception):
    """The connection is closed without an answer, or after half of one."""


class TinyEngine:
    """Serves the model in a folder, and any other one that it is given.

    `fault` is asked at each completion but those that prove weights (they want log-probabilities), before anything is
    drawn. With `dev_mode` it takes weights, with `lora_mode` adapters.
    """

    def __init__(self, folder: str | Path, *, dev_mode: bool = True, lora_mode: bool = True, port: int = 0) -> None:
        self.started_with, self.dev_mode, self.lora_mode = Path(folder), dev_mode, lora_mode
        self.fault: Fault = lambda *_: None
        self.refusals: list[int] = []
        """Status codes of the next requests that are no completions."""
        self.asked: list[tuple[int, int]] = []
        """(seed, stream) of each completion that was answered whole."""
        self.given: list[str] = []
        """Folders of weights, in the order in which they came."""
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.name, self.longest = "tiny", 256
        self._lock = threading.RLock()
        self._life, self.asleep = 0, False
        self.begin_anew()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.headers.append(dict(self.headers))
                base = {"id": outer.name, "parent": None, "max_model_len": outer.longest}
                answers = {"/v1/models": {"data": [base]}, "/is_sleeping": {"is_sleeping": outer.asleep}}
                self._send(200, answers.get(self.path, {}))

            def do_POST(self) -> None:
                life = outer._life
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.headers.append(dict(self.headers))
                try:
                    with outer._lock:
                        if life != outer._life:
                            raise DroppedError
                        status, answer, headers = outer.answer(self.path, body)
                except DroppedError as half:
                    if half.args:
                        self._send(200, half.args[0], whole=False)
                    self.close_connection = True
                    return
                self._send(status, answer, **headers)

            def _send(self, status: int, answer: Any, whole: bool = True, **headers: str) -> None:
                data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(data))} | headers).items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(data if whole else data[: len(data) // 2])

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def begin_anew(self) -> None:
        """As a server that was started again: the first weights, no adapters, no request from before."""
        with self._lock:
            self._life += 1
            self.adapters: dict[str, Any] = {}
            self._load(self.started_with)

    def serve(self, name: str) -> None:
        """Serve until the process is ended."""
        self.name = name
        threading.Event().wait()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        if path in ("/sleep?level=1", "/wake_up") and self.dev_mode:
            self.asleep = path != "/wake_up"
            return 200, {}, {}
        if self.asleep:
            return 500, {"error": {"message": "asleep"}}, {}
        return self._complete(body) if path == "/v1/completions" else self._take(path, body)

    def _take(self, path: str, body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        """Weights that it is given."""
        if self.refusals:
            return self.refusals.pop(0), {"error": {"message": "fault"}}, {}
        if path == "/collective_rpc" and self.dev_mode:
            assert body["method"] == "reload_weights"
            self._load(Path(body["kwargs"]["weights_path"]))
            self.given.append(body["kwargs"]["weights_path"])
            return 200, {"results": [None]}, {}
        if path == "/reset_prefix_cache" and self.dev_mode:
            return 200, {}, {}
        if path == "/v1/load_lora_adapter" and self.lora_mode:
            self.adapters[body["lora_name"]] = self._read(Path(body["lora_path"]))
            self.given.append(body["lora_path"])
            return 200, {}, {}
        if path == "/v1/unload_lora_adapter" and self.lora_mode and self.adapters.pop(body["lora_name"], None):
            return 200, {}, {}
        return 404, {"detail": "Not Found"}, {}

    def _complete(self, body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        if "logprobs" not in body:
            self.bodies.append(body)
            found = self.fault(self, body)
            if found is not None:
                return found if isinstance(found, tuple) else (found, {"error": {"message": "fault"}}, {})
        if body["model"] != self.name and body["model"] not in self.adapters:
            return 404, {"error": {"message": f"The model {body['model']} does not exist."}}, {}
        answer = self.completion(body)
        if "logprobs" not in body:
            self.asked.append(self.identity(body))
        return 200, answer, {}

    @staticmethod
    def identity(body: dict[str, Any]) -> tuple[int, int]:
        seed, stream = map(int, body["user"].removeprefix("demotune ").split("/"))
        assert body["seed"] == request_seed(seed, stream)
        return seed, stream

    def completion(self, body: dict[str, Any]) -> dict[str, Any]:
        """The JSON of one response."""
        seed, stream = self.identity(body)
        policy = self._policy if body["model"] == self.name else self.adapters[body["model"]]
        excluded = {int(token) for token in body.get("logit_bias", {})}
        rows = policy.get_input_embeddings().weight.shape[0]
        options = SamplingOptions(
            max_new_tokens=body["max_tokens"],
            stop_ids=frozenset(body["stop_token_ids"]),
            temperature=body["temperature"],
            top_p=body["top_p"],
            top_k=body["top_k"],
            vocabulary=frozenset(range(rows)) - excluded,
        )
        ((_, response),) = sample_responses(policy, [body["prompt"]], [stream], seed, options, slots=1)
        choice = {
            "index": 0,
            "text": "",
            "token_ids": list(response.ids),
            "prompt_token_ids": body["prompt"],
            "finish_reason": "stop" if response.finished else "length",
            "logprobs": None,
        }
        if "logprobs" in body:
            completion = Completion(tuple(body["prompt"]), response)
            (logps,) = token_logps(policy, [completion], bf16=False)
            choice["logprobs"] = {"token_logprobs": list(logps)}
        return {"id": "cmpl-1", "object": "text_completion", "model": body["model"], "choices": [choice]}

    def _load(self, folder: Path) -> None:
        self._policy = self._read(folder)

    @staticmethod
    def _read(folder: Path) -> Any:
        return load_policy(folder, dtype="float32", attn_implementation=None, device=torch.device("cpu")).eval()


def drop(*half: Any) -> None:
    """Close the connection, after half of an answer where one is given."""
    raise DroppedError(*half)


def once_at(number: int, fault: Fault) -> Fault:
    """The fault at the completion of that number only, counted from 1."""
    count = 0

    def play(engine: TinyEngine, body: dict[str, Any]) -> Any:
        nonlocal count
        count += 1
        return fault(engine, body) if count == number else None

    return play


VLLM = """
import sys
from helpers.engine_server import TinyEngine
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
TinyEngine(given["--model"], port=int(given["--port"])).serve(given["--served-model-name"])
"""


def write_vllm(folder: Path, server: str = VLLM) -> str:
    """A Python that has a package of vllm's name, whose server is the script `server`."""
    package = folder / "site" / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    for parent in (package, package.parent, package.parents[1]):
        (parent / "__init__.py").touch()
    (package / "api_server.py").write_text(server)
    python, path = folder / "python", os.pathsep.join([str(folder / "site"), *sys.path])
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{path}" exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return str(python)
