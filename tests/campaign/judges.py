"""Judge servers that never end, trickle, lie, stall or close: verdicts or one message, within a time."""

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from campaign.trials import Trial
from demotune.common.errors import DemotuneError
from demotune.evaluation.judges.judges import Contest
from demotune.evaluation.judges.server import ServerJudge

TIMEOUT = 1.0
LONGEST = 20.0
"""Seconds within which a command must have an answer or a message: five attempts of TIMEOUT, and some."""

GOOD = b'{"choices": [{"message": {"content": "Because. [[A]]"}, "finish_reason": "stop"}]}'
Client = socket.socket


def judge_trials(place: Path, count: int, seed: int) -> Iterator[Trial]:
    """`count` servers, the kinds of fault in turn."""
    place.mkdir(parents=True, exist_ok=True)
    kinds = list(FAULTS)
    for number in range(count):
        kind = kinds[number % len(kinds)]
        yield Trial("judge server", f"{kind} {number}", lambda k=kind, n=number: _tried(place, k, n, seed))


def _tried(place: Path, kind: str, number: int, seed: int) -> str | None:
    rng = random.Random(f"{seed}/{kind}/{number}")
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_serve, args=(server, FAULTS[kind], rng), daemon=True).start()
        judge = ServerJudge(
            url=f"http://127.0.0.1:{server.getsockname()[1]}/v1",
            model="judge",
            journal=place / f"replies-{kind.replace(' ', '-')}-{number}.jsonl",
            timeout=TIMEOUT,
            pause=lambda ended, seconds: time.sleep(0.01),
        )
        contests = [Contest(f"key{n}", ({"role": "user", "content": "Hi"},), "one", f"two {n}", None) for n in (1, 2)]
        started = time.monotonic()
        with contextlib.suppress(DemotuneError):
            judge.judge(contests, lambda _: None)
        if (seconds := time.monotonic() - started) > LONGEST:
            return f"took {seconds:.0f} s"
    return None


def _serve(server: socket.socket, fault: Callable[[Client, random.Random], None], rng: random.Random) -> None:
    while True:
        try:
            client, _ = server.accept()
        except OSError:  # the trial is over
            return
        threading.Thread(target=_answer, args=(client, fault, rng), daemon=True).start()


def _answer(client: Client, fault: Callable[[Client, random.Random], None], rng: random.Random) -> None:
    with client:
        try:
            client.recv(65536)
            fault(client, rng)
        except OSError:  # the judge hung up
            pass


def _reply(client: Client, body: bytes, status: str = "200 OK", headers: bytes = b"") -> None:
    client.sendall(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n%b\r\n" % (status.encode(), len(body), headers) + body)


def _endlessly(client: Client, part: bytes, pause: float = 0.0, begin: bytes = b"HTTP/1.1 200 OK\r\n\r\n") -> None:
    client.sendall(begin)
    ends = time.monotonic() + 2 * LONGEST
    while time.monotonic() < ends:
        client.sendall(part)
        time.sleep(pause)


def _cut(client: Client, rng: random.Random) -> None:
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(GOOD) + GOOD
    client.sendall(whole[: rng.randrange(len(whole))])


def _mutated(client: Client, rng: random.Random) -> None:
    body = bytearray(GOOD)
    for _ in range(rng.randrange(1, 6)):
        body[rng.randrange(len(body))] = rng.randrange(256)
    _reply(client, bytes(body))


FAULTS: dict[str, Callable[[Client, random.Random], None]] = {
    "endless body": lambda client, rng: _endlessly(client, b" " * 65536),
    "endless line": lambda client, rng: _endlessly(client, b"x" * 65536, begin=b"HTTP/1.1 200 "),
    "endless headers": lambda client, rng: _endlessly(client, b"X-A: b\r\n", begin=b"HTTP/1.1 200 OK\r\n"),
    "one byte at a time": lambda client, rng: _endlessly(client, b" ", 0.2),
    "silence": lambda client, rng: time.sleep(LONGEST),
    "closed at once": lambda client, rng: None,
    "cut off": _cut,
    "changed bytes": _mutated,
    "deep JSON": lambda client, rng: _reply(client, b"[" * rng.choice((900, 100_000))),
    "a huge number": lambda client, rng: _reply(client, b"9" * 10_000),
    "not HTTP": lambda client, rng: client.sendall(rng.randbytes(300)),
    "control characters": lambda client, rng: _reply(client, b"\x1b[2J\x07 no", "400 Bad\x1b[2J"),
    "redirect": lambda client, rng: _reply(client, b"", "302 Found", b"Location: http://127.0.0.1:9/\r\n"),
    "wrong length": lambda client, rng: client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n" + GOOD),
    "wait for ever": lambda client, rng: _reply(client, b"", "429 Busy", b"Retry-After: 99999999999999\r\n"),
    "server error": lambda client, rng: _reply(client, b"", rng.choice(("500 No", "503 No", "599 No"))),
    "wrong types": lambda client, rng: _reply(
        client, rng.choice((b"null", b"[]", b'{"choices": 3}', b'{"choices": [{}]}'))
    ),
    "not UTF-8": lambda client, rng: _reply(client, b"\xff\xfe" + GOOD),
}
