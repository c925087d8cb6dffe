"""HTTP requests whose whole answer has a deadline: a server that sends a byte a second would pass any other timeout."""

import ssl
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPConnection, HTTPMessage, HTTPResponse, HTTPSConnection
from socket import SHUT_RDWR, socket
from threading import Lock, Timer
from typing import IO, Any
from urllib.request import (
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    build_opener,
)


class Deadline:
    """Shuts the connections of `opener` when the seconds are over; then `passed` is set, and reading ends.

    `direct` asks no proxy.
    """

    def __init__(self, seconds: float, *, direct: bool = False) -> None:
        self.passed = False
        self._connections: list[socket] = []
        self._lock = Lock()
        self._timer = Timer(seconds, self.cut)
        self._timer.daemon = True
        proxies = [ProxyHandler({})] if direct else []
        self.opener: OpenerDirector = build_opener(_NoRedirect, _Watched(self.watch), *proxies)

    def __enter__(self) -> "Deadline":
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def watch(self, connection: socket) -> None:
        with self._lock:
            self._connections.append(connection)
            if self.passed:
                _shut(connection)

    def cut(self) -> None:
        """End reading now."""
        with self._lock:
            self.passed = True
            for connection in self._connections:
                _shut(connection)


def _shut(connection: socket) -> None:
    with suppress(OSError):  # closed already
        socket.shutdown(connection, SHUT_RDWR)  # under TLS, too: its own method forgets the session that is being read


class _Watched(HTTPSHandler, HTTPHandler):
    """Opens connections that `watch` is given."""

    def __init__(self, watch: Callable[[socket], None]) -> None:
        super().__init__()
        self._watch = watch

    def http_open(self, req: Request) -> HTTPResponse:
        return self.do_open(_watched(HTTPConnection, self._watch), req)

    def https_open(self, req: Request) -> HTTPResponse:
        kind = _watched(HTTPSConnection, self._watch)
        return self.do_open(kind, req, context=ssl.create_default_context())


def _watched(kind: Any, watch: Callable[[socket], None]) -> Any:
    class Watched(kind):  # type: ignore[misc]
        def connect(self) -> None:
            super().connect()
            watch(self.sock)

    return Watched


class _NoRedirect(HTTPRedirectHandler):
    """A redirect is an error: following it would make a GET of the question and send the key elsewhere."""

    def redirect_request(  # noqa: PLR0917 (the standard library's signature)
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        return None
