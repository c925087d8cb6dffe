"""A server that a command starts: it is awaited, its end is noticed, and it never outlives the command."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from helpers.engine_server import write_vllm

from demotune.common.errors import DemotuneError
from demotune.sampling.engine.process import ServerSettings, StartedServer
from demotune.sampling.engine.server import EngineServer

SERVER = """
import json, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
print("loading", given["--model"], flush=True)
if given["--model"].endswith("damaged"):
    sys.exit("no weights there")
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"argv": sys.argv[1:], "environment": dict(os.environ)}).encode())
    def do_POST(self):
        self.send_response(404)
        self.end_headers()
HTTPServer(("127.0.0.1", int(given["--port"])), Handler).serve_forever()
"""
OWNER = """
import sys
from pathlib import Path
from demotune.sampling.engine.process import ServerSettings, StartedServer
settings = ServerSettings(tokenizer=Path("m"), bf16=False, longest=64, rows=8, lora_rank=None, on_gpu=False)
print(StartedServer(sys.argv[1], settings, Path(sys.argv[2])).start("m"), flush=True)
sys.stdin.read()
"""


def settings(**fields: object) -> ServerSettings:
    usual = {"tokenizer": Path("words"), "bf16": False, "longest": 64, "rows": 8, "lora_rank": None, "on_gpu": False}
    return ServerSettings(**(usual | fields))


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_vllm(tmp_path_factory.mktemp("vllm"), SERVER)


@pytest.fixture
def connection() -> Iterator[list[socket.socket]]:
    opened: list[socket.socket] = []
    yield opened
    for one in opened:
        one.close()


def connect(address: str) -> socket.socket:
    """A connection to the server, whose end is the server's."""
    place = urlsplit(address)
    return socket.create_connection((place.hostname, place.port), timeout=30)


def ends(connection: socket.socket) -> bool:
    """Whether the server ends, which is waited for."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_it_is_started_as_the_run_needs_it_and_ends_when_closed(python, tmp_path, connection, monkeypatch, capsys):
    monkeypatch.setenv("MASTER_PORT", "29500")
    server = StartedServer(python, settings(), tmp_path / "vllm.log")
    address = server.start("start")
    answer = EngineServer(address)._once("/v1/models", None, 10.0)
    found = json.loads(answer)
    assert found["argv"] == [
        "--model", "start", "--tokenizer", "words", "--served-model-name", "demotune", "--host", "127.0.0.1", "--port",
        str(urlsplit(address).port), "--dtype", "float32", "--max-num-seqs", "8", "--max-model-len", "64",
        "--enforce-eager",
    ]  # fmt: skip
    assert found["environment"]["VLLM_SERVER_DEV_MODE"] == "1"
    assert "MASTER_PORT" not in found["environment"]
    assert (tmp_path / "vllm.log").read_text().startswith("loading start")
    connection.append(connect(address))
    server.close()
    assert ends(connection[0])
    shown = capsys.readouterr().out
    assert f"starting vllm at {address}; its log is {tmp_path / 'vllm.log'}" in shown.replace("\n", " ")
    assert "vllm is ready" in shown


def test_adapters_bfloat16_and_an_accelerator_have_their_flags():
    given = " ".join(settings(bf16=True, lora_rank=20, on_gpu=True).arguments("m", 1))
    assert "--dtype bfloat16" in given
    assert "--max-lora-rank 32" in given
    assert given.endswith("--gpu-memory-utilization 0.45 --enable-sleep-mode --enable-lora")


def test_a_server_that_cannot_begin_is_quoted(python, tmp_path):
    server = StartedServer(python, settings(), tmp_path / "vllm.log")
    with pytest.raises(DemotuneError, match=r"ended by itself \(exit code 1\): no weights there; see .*vllm\.log"):
        server.start("damaged")
    server.close()


def test_a_python_without_vllm_is_refused(tmp_path):
    with pytest.raises(DemotuneError, match=r"has no vllm; install it in an environment of its own .* --vllm-python"):
        StartedServer(sys.executable, settings(), tmp_path / "vllm.log")
    with pytest.raises(DemotuneError, match=r"cannot be run \(No such file or directory\); name a Python"):
        StartedServer(str(tmp_path / "none"), settings(), tmp_path / "vllm.log")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_does_not_outlive_a_command_that_is_killed(number, python, tmp_path, connection):
    command = [sys.executable, "-c", OWNER, python, str(tmp_path / "vllm.log")]
    owner = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ)
    assert owner.stdout is not None
    assert owner.stdin is not None
    address = next(line.strip() for line in owner.stdout if line.startswith("http"))
    connection.append(connect(address))
    owner.send_signal(number)
    owner.wait()
    assert ends(connection[0])
    owner.stdin.close()
    owner.stdout.close()
