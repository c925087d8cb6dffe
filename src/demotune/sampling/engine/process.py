"""A vLLM server that a command starts, and that ends with it, however it ends."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from demotune.common.errors import DemotuneError
from demotune.common.http_client import PassingError
from demotune.common.progress import minutes, say, warn
from demotune.sampling.engine.server import EngineServer

READY_SECONDS = 900.0
"""Until a server that was started must answer; a large model takes minutes to load and to compile."""
LINE_SECONDS = 20.0
END_SECONDS = 15.0
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Limits that vllm knows for the rank of an adapter."""
ONE_GPU = "0.45"
"""Share of the accelerator's memory: the rest is the run's, whose policy is there at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """How a server is started."""

    tokenizer: Path
    """The folder of a model with its tokenizer."""
    bf16: bool
    longest: int | None
    """Most tokens of a prompt with its response; None: as the model has positions."""
    rows: int
    """Responses that it draws together."""
    lora_rank: int | None
    """Of the adapters that it will be given; None: whole models."""
    on_gpu: bool

    def arguments(self, model: str, port: int) -> list[str]:
        given = {
            "--model": model, "--tokenizer": str(self.tokenizer), "--served-model-name": "demotune",
            "--host": "127.0.0.1", "--port": str(port),
            "--dtype": "bfloat16" if self.bf16 else "float32", "--max-num-seqs": str(self.rows),
        }  # fmt: skip
        if self.longest is not None:
            given["--max-model-len"] = str(self.longest)
        if self.lora_rank is not None:
            given["--max-lora-rank"] = str(next((rank for rank in RANKS if rank >= self.lora_rank), self.lora_rank))
        if self.on_gpu:
            given["--gpu-memory-utilization"] = ONE_GPU
        # On a CPU compiling takes minutes, and prompts in chunks end a server whose requests have seeds (vllm 0.32).
        switches = ["--enable-sleep-mode"] if self.on_gpu else ["--enforce-eager", "--no-enable-chunked-prefill"]
        switches += ["--enable-lora"] if self.lora_rank else []
        return [*(part for both in given.items() for part in both), *switches]


class StartedServer:
    """`python -m vllm.entrypoints.openai.api_server` of the environment that has vllm; its output goes to a log.

    Raises DemotuneError where that Python has no vllm.
    """

    MODULE = "vllm.entrypoints.openai.api_server"

    def __init__(self, python: str | None, settings: ServerSettings, log: Path) -> None:
        refuse_missing_vllm(python)
        self._python, self._settings, self._log = python or sys.executable, settings, log
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._sleeps: bool | None = None

    def start(self, model: str) -> str:
        """Start it with the model in a folder, and wait until it answers: its address.

        Raises DemotuneError where it does not.
        """
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        address = f"http://127.0.0.1:{port}"
        command = [self._python, "-m", self.MODULE, *self._settings.arguments(model, port)]
        say(f"starting vllm at {address}; its log is {self._log}")
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(),
                start_new_session=True,  # Ctrl-C is for the run, which ends the server in its own time
            )
        self._guard = _guard_of(self._process.pid)
        self._wait(EngineServer(address))
        return address

    def wake(self, server: EngineServer) -> None:
        """Take the accelerator's memory again."""
        if self._sleeps:
            server.patiently(server.wake)

    def rest(self, server: EngineServer) -> None:
        """Leave the accelerator's memory to training, where the server can."""
        if not self._settings.on_gpu:
            return
        before = self._sleeps
        try:
            self._sleeps = server.patiently(server.sleep)
        except PassingError as why:  # the next drawing finds out whether it is still there
            self._sleeps = True
            warn(f"vllm was asked to leave its memory to training, and did not answer: {why}")
        if not self._sleeps and before is None:
            say("vllm has no sleep mode here: it keeps its memory while the run trains")

    def died(self, server: EngineServer) -> DemotuneError:
        """The error for a server that gives no answer any more."""
        ended = self._process is None or self._process.poll() is not None
        what = f"ended by itself (exit code {self._process.poll()})" if ended and self._process else "does not answer"
        return DemotuneError(
            f"the vllm server that was started here {what}: {server.gone or self._last_line()}; see {self._log}, then "
            "go on with demotune resume RUN, or give the same command again"
        )

    def close(self) -> None:
        """End the server and everything that it started."""
        if self._process is not None:
            _end_group(self._process)
        if self._guard is not None:
            self._guard.kill()
            self._guard.wait()
        self._process = self._guard = None

    def _wait(self, server: EngineServer) -> None:
        began = shown = time.monotonic()
        while not server.healthy():
            now = time.monotonic()
            if self._process is None or self._process.poll() is not None:
                raise self.died(server)
            if now - began > READY_SECONDS:
                raise DemotuneError(f"vllm does not answer after {minutes(now - began)}; see {self._log}")
            if now - shown > LINE_SECONDS:
                shown = now
                say(f"  vllm is not ready yet  {minutes(now - began)}  {self._last_line()}")
            time.sleep(0.5)
        say(f"  vllm is ready  {minutes(time.monotonic() - began)}")

    def _last_line(self) -> str:
        """The last line of the log, cut."""
        with self._log.open("rb") as log:
            log.seek(max(log.seek(0, os.SEEK_END) - 4000, 0))
            lines = log.read().decode("utf-8", "replace").split("\n")
        return next((line.strip()[:160] for line in reversed(lines) if line.strip()), "its log is empty")

    def _environment(self) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not _of_this_process(name)}
        modes = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
        return {"VLLM_CPU_KVCACHE_SPACE": "1"} | own | modes  # GiB; more where the user asks for it


def refuse_missing_vllm(python: str | None) -> None:
    """Raise DemotuneError unless this Python (None: ours) can import vllm, which would take a minute to try."""
    python = python or sys.executable
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
    try:
        found = subprocess.run([python, "-c", code], capture_output=True, check=False).returncode == 0
    except OSError as error:
        raise DemotuneError(f"vllm_python {python} cannot be run ({error.strerror}); name a Python") from error
    if not found:
        raise DemotuneError(
            f"{python} has no vllm; install it in an environment of its own and name that environment's Python with "
            "--vllm-python"
        )


def _of_this_process(name: str) -> bool:
    """What a launcher of several processes sets, which would make the server one of them; and our own import path."""
    return name in {"PYTHONPATH", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}


def _guard_of(group: int) -> subprocess.Popen[bytes]:
    """Ends the process group when this process is gone, even by kill -9: then its pipe closes."""
    script = f"cat; kill -s TERM -- -{group}; sleep {END_SECONDS:.0f}; kill -s KILL -- -{group}"
    return subprocess.Popen(
        ["/bin/sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Ask a process and those that it started to end, then make them."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_SECONDS)
