"""The page on this machine alone: only who has its address, with the secret in it, sees it and votes."""

import json
import secrets
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from threading import Thread
from typing import Any

from demotune.common.errors import DemotuneError
from demotune.evaluation.annotation.session import Session

HOST = "127.0.0.1"
LONGEST_BODY = 10_000
SECONDS_TO_SEND = 10.0
"""In which a request must be there, so that a connection that says nothing holds no thread."""
PAGES = {
    "": ("page.html", "text/html"),
    "page.css": ("page.css", "text/css"),
    "page.js": ("page.js", "text/javascript"),
}
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; img-src data:; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class AnnotationServer(ThreadingHTTPServer):
    """Serves one session until the rater finishes. Raises DemotuneError for a port that cannot be had."""

    def __init__(self, session: Session, port: int) -> None:
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise DemotuneError(
                f"port {port} of {HOST} cannot be used ({error.strerror}); give another --port, or 0 for any free one"
            ) from None
        self.session = session
        self.secret = secrets.token_urlsafe(16)
        self.hosts = {f"{name}:{self.server_port}" for name in (HOST, "localhost")}

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_port}/{self.secret}/"

    def finish(self) -> None:
        """End `serve_forever` once the answer to this request is sent."""
        Thread(target=self.shutdown).start()

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that closes its connection is no event."""


class _Handler(BaseHTTPRequestHandler):
    server: AnnotationServer
    timeout = SECONDS_TO_SEND

    def do_GET(self) -> None:
        path = self._path()
        if path in PAGES:
            name, kind = PAGES[path]
            self._send((files(__package__) / name).read_bytes(), kind)
        elif path == "state":
            self._send(json.dumps(self.server.session.state()).encode(), "application/json")
        elif path is not None:
            self.send_error(HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        path = self._path()
        if path is None:
            return
        if self.headers.get("Origin") not in {None, *(f"http://{host}" for host in self.server.hosts)}:
            self.send_error(HTTPStatus.FORBIDDEN)
        elif path == "vote":
            self._vote()
        elif path == "finish":
            self._send(b"{}", "application/json")
            self.server.finish()
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def _path(self) -> str | None:
        """What is asked for, below the secret; None, and an answer, where this is not for us."""
        secret, _, path = self.path.removeprefix("/").partition("/")
        if self.headers.get("Host") not in self.server.hosts:
            self.send_error(HTTPStatus.FORBIDDEN)
        elif not secrets.compare_digest(secret.encode(), self.server.secret.encode()):
            self.send_error(HTTPStatus.NOT_FOUND)
        else:
            return path
        return None

    def _vote(self) -> None:
        try:
            length = int(self.headers.get("Content-Length", ""))
            if not 0 < length <= LONGEST_BODY or self.headers.get_content_type() != "application/json":
                raise ValueError
            given: Any = json.loads(self.rfile.read(length))
            item, choice = given["item"], given["choice"]
            if type(item) is not int or choice not in ("left", "right", "tie", None):
                raise ValueError
            self.server.session.vote(item, choice)
        except (ValueError, TypeError, LookupError):
            self.send_error(HTTPStatus.BAD_REQUEST)
        except OSError as error:  # the disk is full, say: the page must not go on
            self.send_error(HTTPStatus.INSUFFICIENT_STORAGE, error.strerror)
        else:
            self._send(b"{}", "application/json")

    def _send(self, body: bytes, kind: str) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Requests are not shown."""
