"""One vLLM server by its address: its model, its weights, its answers."""

import json
from collections.abc import Callable, Mapping
from threading import Event, Lock
from typing import Any, TypeVar

from demotune.common.errors import DemotuneError
from demotune.common.http_client import HttpClient, PassingError, Pause, RefusedError, patiently
from demotune.sampling.engine.completions import MOST_BYTES, Answer, read_answer
from demotune.sampling.options import SamplingOptions

KEY_VARIABLE = "VLLM_API_KEY"
"""Environment variable with the key; vLLM's server reads its own from there, too."""
SECONDS, SECONDS_PER_TOKEN = 120.0, 1.0
"""Until a whole answer must be there; of a response so many more for each token that it may have."""
LOADING_SECONDS = 900.0
DEV_MODE = "VLLM_SERVER_DEV_MODE=1 python -m vllm.entrypoints.openai.api_server --model FOLDER"
LORA_MODE = (
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 python -m vllm.entrypoints.openai.api_server --model BASE --enable-lora "
    "--max-lora-rank RANK"
)

Found = TypeVar("Found")


class EngineServer:
    """A server, and what is known of it.

    Every method asks once: it raises PassingError for a failure that may pass, DemotuneError where the server refuses,
    and EndedError where `over` is set. `patiently` tries again.
    """

    def __init__(self, address: str, pause: Pause = Event.wait) -> None:
        self.address, self.over = address, Event()
        """`over` is set while nothing is to be asked of it."""
        self.gone: str | None = None
        """Why nothing is asked of it any more."""
        self.holds: str | None = None
        """The key of the policy that it was given last."""
        self.base: str | None = None
        """The folder of the whole model that it was given last; None: it has the one that it began with."""
        self.doubtful = True
        """It may have begun anew since then, with other weights."""
        self.lock, self.trials, self.trouble = Lock(), 0, ""
        """Held while doubts are settled; how often that was tried, and why it failed last."""
        self.model = ""
        """Name of the model that it began with."""
        self.longest: int | None = None
        """Most tokens of a prompt with its response."""
        self._client, self._pause = HttpClient(KEY_VARIABLE, MOST_BYTES), pause

    def look(self) -> None:
        """Ask which model it serves."""
        received = self._once("/v1/models", None, SECONDS)
        try:
            base = next(one for one in json.loads(received)["data"] if not one.get("parent"))
            self.model, self.longest = str(base["id"]), base.get("max_model_len")
        except (ValueError, LookupError, TypeError, AttributeError, StopIteration) as error:
            raise DemotuneError(
                f"{self.address}/v1/models answers, but not as vLLM does; check the address, http://HOST:PORT"
            ) from error

    def complete(self, body: Mapping[str, Any], options: SamplingOptions) -> Answer:
        """One response."""
        try:
            received = self._once("/v1/completions", body, SECONDS + SECONDS_PER_TOKEN * body["max_tokens"])
        except RefusedError as refusal:
            if refusal.code == 404 and body["model"] != self.model:  # an adapter: it was given, so it began anew
                raise PassingError(f"it serves {body['model']} no longer") from refusal
            raise self._refused(refusal) from refusal
        return read_answer(received, body, options, self.address)

    def reload(self, folder: str) -> bool:
        """Take the weights of a folder; False where the server has no address for that."""
        rpc = {"method": "reload_weights", "kwargs": {"weights_path": folder}}
        try:
            self._once("/collective_rpc", rpc, LOADING_SECONDS)
            self._once("/reset_prefix_cache", {}, SECONDS)
        except RefusedError as refusal:
            if refusal.code in {404, 405}:
                return False
            raise self._refused(refusal) from refusal
        return True

    def load_adapter(self, name: str, folder: str) -> None:
        """Serve a LoRA adapter under a name."""
        try:
            self._once("/v1/load_lora_adapter", {"lora_name": name, "lora_path": folder}, LOADING_SECONDS)
        except RefusedError as refusal:
            if "already" not in refusal.said:
                raise DemotuneError(
                    f"the server at {self.address} does not take the adapter in {folder} ({refusal}); start it with "
                    f"{LORA_MODE}, where it can read that folder"
                ) from refusal

    def unload_adapter(self, name: str) -> None:
        """Serve an adapter no longer, where it is there."""
        self._tried("/v1/unload_lora_adapter", {"lora_name": name})

    def sleep(self) -> bool:
        """Free the accelerator's memory until `wake`; whether the server can."""
        return self._tried("/sleep?level=1", {})

    def wake(self) -> None:
        self._tried("/wake_up", {})

    def healthy(self) -> bool:
        """Whether it answers at all."""
        try:
            self._once("/health", None, SECONDS)
        except (PassingError, RefusedError):
            return False
        return True

    def patiently(self, act: Callable[[], Found]) -> Found:
        """Try again, after pauses, what raises PassingError."""
        return patiently(act, self._pause, self.over)

    def give_up(self, why: str | None) -> None:
        """End what is under way; where there is a reason, until it is given weights again."""
        self.gone = self.gone or why
        self.over.set()
        self._client.interrupt()

    def _once(self, path: str, body: Mapping[str, Any] | None, seconds: float) -> bytes:
        try:
            return self._client.ask(f"{self.address}{path}", body, seconds, self.over)
        except RefusedError as refusal:
            if refusal.code in {401, 403}:
                raise self._refused(refusal) from refusal
            raise

    def _tried(self, path: str, body: Mapping[str, Any]) -> bool:
        try:
            self._once(path, body, LOADING_SECONDS)
        except RefusedError:
            return False
        return True

    def _refused(self, refusal: RefusedError) -> DemotuneError:
        if refusal.code in {401, 403}:
            fix = f"put the right key into the environment variable {KEY_VARIABLE}"
        elif refusal.code == 404:
            fix = "check the address, http://HOST:PORT, and that the model is still served"
        else:
            fix = "see the server's log, and start it with the model and the --max-model-len that the run needs"
        return DemotuneError(f"the server at {self.address} refuses ({refusal}); {fix}")
