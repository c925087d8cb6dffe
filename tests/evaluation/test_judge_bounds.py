"""Judge servers that never end, trickle, or answer nonsense: every request has a deadline and a bound."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from helpers.judge_server import Waits, completion, contest

from demotune.common.errors import DemotuneError
from demotune.common.http_client import ATTEMPTS
from demotune.evaluation.judges.messages import MOST_BYTES
from demotune.evaluation.judges.server import ServerJudge

OK = b"HTTP/1.1 200 OK\r\n"
GOOD = json.dumps(completion("[[A]]")[2]).encode()
SECONDS = 0.15


def read_request(connection: socket.socket) -> None:
    """All of it: a connection that is closed with bytes unread is reset, and the answer may be lost with it."""
    with connection.makefile("rb") as stream:
        length = 0
        while (line := stream.readline()) not in (b"\r\n", b""):
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        stream.read(length)


class RawServer:
    """Answers each connection with `play(connection)`, once the question has come."""

    def __init__(self, play: Callable[[socket.socket], None]) -> None:
        self.asked = 0
        self._play = play
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.asked += 1
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            read_request(connection)
            self._play(connection)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., RawServer]]:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    servers: list[RawServer] = []

    def start(play: Callable[[socket.socket], None]) -> RawServer:
        servers.append(RawServer(play))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def refusal(server: RawServer, folder: Path, timeout: float = 20) -> tuple[str, float]:
    """What the judge ends with, and after how many seconds."""
    journal = folder / "replies.jsonl"
    judge = ServerJudge(url=server.url, model="m", journal=journal, timeout=timeout, concurrency=1, pause=Waits())
    started = time.monotonic()
    with pytest.raises(DemotuneError) as caught:
        judge.judge([contest(1, "a", "b")], lambda _: None)
    return str(caught.value), time.monotonic() - started


def forever(connection: socket.socket, first: bytes, again: bytes, pause: float = 0.0) -> None:
    connection.sendall(first)
    while True:
        connection.sendall(again)
        time.sleep(pause)


def test_a_good_answer_from_a_raw_server(serve: Callable[..., RawServer], tmp_path: Path) -> None:
    server = serve(lambda connection: connection.sendall(OK + b"\r\n" + GOOD))
    judge = ServerJudge(url=server.url, model="m", journal=tmp_path / "r")
    assert judge.judge([contest(1, "a", "b")], lambda _: None)[0].result == 0.5  # A in both orders


@pytest.mark.parametrize(
    ("first", "again"),
    [
        (b"", b"H"),
        (OK, b"X"),
        (OK, b"HTTP/1.1 100 Continue\r\n\r\n"),
        (OK + b"\r\n", b" "),
        (OK + b"Content-Length: 1000\r\n\r\n", b" "),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        (b"HTTP/1.1 500 Oops\r\n\r\n", b" "),
    ],
    ids=["status line", "headers", "continue", "body", "body of a length", "chunks", "error"],
)
def test_a_server_that_trickles_has_a_deadline(
    first: bytes, again: bytes, serve: Callable[..., RawServer], tmp_path: Path
) -> None:
    """Each byte comes in time, the answer never; the deadline holds for each of five attempts."""
    server = serve(lambda connection: forever(connection, first, again, pause=0.01))
    message, seconds = refusal(server, tmp_path, SECONDS)
    assert "gives no answer (" in message
    assert f"no whole answer within {SECONDS:g} s" in message or "500" in message
    assert server.asked == ATTEMPTS
    assert ATTEMPTS * SECONDS <= seconds < ATTEMPTS * (SECONDS + 1)


def test_a_server_that_says_nothing_has_a_deadline(serve: Callable[..., RawServer], tmp_path: Path) -> None:
    message, seconds = refusal(serve(lambda _: time.sleep(3)), tmp_path, SECONDS)
    assert "gives no answer (" in message
    assert seconds < ATTEMPTS * (SECONDS + 1)


@pytest.mark.parametrize(
    ("first", "again", "message"),
    [
        (OK + b"\r\n", b" " * 2**16, "not as an OpenAI-compatible server does (ValueError: more than 4 MiB)"),
        (OK + b"Content-Length: 999999999999\r\n\r\n", b" " * 2**16, "more than 4 MiB"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b" " * 2**16 + b"\r\n", "more than 4 MiB"),
        (OK, b"X-Long: " + b"x" * 2**16, "gives no answer (LineTooLong"),
        (OK, b"X-Many: y\r\n", "gives no answer (HTTPException: got more than 100 headers"),
        (b"x" * 2**16, b"x" * 2**16, "gives no answer (LineTooLong"),
    ],
    ids=["body", "body of a length", "chunks", "header line", "headers", "status line"],
)
def test_a_server_that_never_ends_is_cut_off(
    first: bytes, again: bytes, message: str, serve: Callable[..., RawServer], tmp_path: Path
) -> None:
    shown, seconds = refusal(serve(lambda connection: forever(connection, first, again)), tmp_path)
    assert message in shown
    assert seconds < 15


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[" * 10**6, "not as an OpenAI-compatible server does (RecursionError"),
        (b'{"a":' * 10**5, "RecursionError"),
        (b"1" * 10**5, "ValueError: Exceeds the limit"),
        (b"\xff\xfe\xff", "UnicodeDecodeError"),
        (b"{}", "no choices with a message"),
        (b"", "JSONDecodeError"),
        (b" " * (MOST_BYTES + 1), "more than 4 MiB"),
    ],
    ids=["deep", "deep objects", "huge number", "no text", "empty object", "empty", "one byte too long"],
)
def test_nonsense_is_an_error(body: bytes, message: str, serve: Callable[..., RawServer], tmp_path: Path) -> None:
    answer = OK + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
    shown, _ = refusal(serve(lambda connection: connection.sendall(answer)), tmp_path)
    assert message in shown


@pytest.mark.parametrize("sent", [b"", OK + b"Content-Length: 900\r\n\r\n" + GOOD[:20], b"nonsense\r\n\r\n"], ids=len)
def test_a_connection_that_closes_early_is_tried_again(
    sent: bytes, serve: Callable[..., RawServer], tmp_path: Path
) -> None:
    server = serve(lambda connection: connection.sendall(sent))
    assert "gives no answer (" in refusal(server, tmp_path)[0]
    assert server.asked == ATTEMPTS


def test_redirects_in_a_circle_are_an_error(serve: Callable[..., RawServer], tmp_path: Path) -> None:
    redirect = b"HTTP/1.1 302 Found\r\nLocation: /v1/chat/completions\r\nContent-Length: 0\r\n\r\n"
    server = serve(lambda connection: connection.sendall(redirect))
    assert "answers 302" in refusal(server, tmp_path)[0]
    assert server.asked == 1


def test_what_a_server_says_commands_no_terminal(
    serve: Callable[..., RawServer], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from demotune.common.messages import errors_as_messages

    said = "\x1b[2J\x07\x9b\u202e".encode()
    server = serve(lambda connection: connection.sendall(b"HTTP/1.1 404 No\x1b[2J\r\n\r\n" + said))
    with pytest.raises(Exception) as caught, errors_as_messages():
        raise DemotuneError(refusal(server, tmp_path)[0])
    assert caught.value.exit_code == 1  # type: ignore[attr-defined]
    shown = capsys.readouterr().err
    assert r"404: \x1b[2J\x07\x9b\u202e" in shown
    assert not set("\x1b\x07\x9b\u202e") & set(shown)
