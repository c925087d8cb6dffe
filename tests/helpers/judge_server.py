"""A judge behind a real local server, and contests to put to it."""

import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from demotune.evaluation.judges.judges import Contest

Answer = tuple[int, dict[str, str], object]


def contest(number: int, first: str, second: str, demonstration: str | None = None) -> Contest:
    return Contest(f"key{number}", ({"role": "user", "content": f"Question {number}?"},), first, second, demonstration)


def completion(text: str | None, finish: str = "stop") -> Answer:
    return (
        200,
        {},
        {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}]},
    )


def shown(message: str) -> tuple[str, str]:
    """The responses A and B in a message, between their marker lines."""
    _, first, second = (text for _, text in re.findall(r"<<<(\w+)\n(.*?)\n\1>>>", message, re.DOTALL))
    return first, second


def longer(message: str) -> Answer:
    """A judge with a taste of its own: the longer response; of like length neither."""
    first, second = map(len, shown(message))
    return completion(f"Because. [[{'A' if first > second else 'B' if second > first else 'C'}]]")


class JudgeServer:
    """A local server that answers by `play(message)` and keeps what it was asked."""

    def __init__(self) -> None:
        self.play: Callable[[str], Answer] = longer
        self.asked: list[dict] = []
        self.headers: list[dict[str, str]] = []
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.asked.append({"path": self.path, **body})
                    outer.headers.append(dict(self.headers))
                    status, headers, content = outer.play(body["messages"][-1]["content"])
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


class Waits(list[float]):
    """Stands for waiting, and keeps how long it would have been."""

    def __call__(self, ended: threading.Event, seconds: float) -> None:
        self.append(seconds)
