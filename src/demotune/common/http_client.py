"""JSON over HTTP, for servers that answer as OpenAI's do: deadlines, and patience where a failure may pass."""

import email.utils
import json
import os
import time
from collections.abc import Callable, Mapping
from email.message import Message
from http.client import HTTPException, IncompleteRead
from threading import Event, Lock
from typing import TypeVar
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request

from demotune.common.bounded_http import Deadline
from demotune.common.errors import DemotuneError, shown_error

ATTEMPTS, FIRST_PAUSE = 5, 1.0
"""How often something is tried, and the seconds before the second time; each pause is twice the one before."""
LONGEST_PAUSE = 120.0
"""Seconds; a server that asks for more is left alone."""

Pause = Callable[[Event, float], object]
"""Waits some seconds, or until the event says that the work has ended."""
Found = TypeVar("Found")


class PassingError(Exception):
    """A failure that may pass. `after` are the seconds that the server asks for; `is_busy`: it runs, and says so."""

    def __init__(self, why: str, after: float = 0.0, *, is_busy: bool = False) -> None:
        super().__init__(f"{why}; it asks to wait {after:.0f} s" if after else why)
        self.after, self.is_busy = after, is_busy


class RefusedError(Exception):
    """The server understood, and will never do it: its status code, and the beginning of what it says."""

    def __init__(self, code: int, said: str) -> None:
        super().__init__(f"{code}: {said}")
        self.code, self.said = code, said


class EndedError(Exception):
    """The work has ended meanwhile."""


class HttpClient:
    """Asks addresses for JSON, from several threads at once. The key is read from `key_variable` and kept only here.

    Raises DemotuneError for a key that cannot be sent.
    """

    def __init__(self, key_variable: str, most_bytes: int) -> None:
        self._headers, self._most = _headers(key_variable), most_bytes
        self._open: set[Deadline] = set()
        self._lock = Lock()

    def ask(self, address: str, body: Mapping[str, object] | None, seconds: float, ended: Event) -> bytes:
        """The whole answer to a POST of `body`, or to a GET, within the seconds; at most a byte more than `most_bytes`.

        Raises PassingError, RefusedError, or EndedError.
        """
        data = None if body is None else json.dumps(body).encode()
        request = Request(address, data, self._headers)
        late = f"no whole answer within {seconds:g} s"
        direct = urlsplit(address).hostname in {"127.0.0.1", "localhost", "::1"}
        with Deadline(seconds, direct=direct) as deadline:
            self._begin(deadline, ended)
            try:
                with deadline.opener.open(request, timeout=seconds) as answer:
                    received: bytes = answer.read(self._most + 1)
                    if answer.length and len(received) <= self._most:  # a read of so many bytes does not see to it
                        raise IncompleteRead(received, answer.length)
            except HTTPError as error:
                with error:
                    raise self._failure(error) from error
            except (OSError, HTTPException) as error:
                raise PassingError(late if deadline.passed else shown_error(error)) from error
            finally:
                with self._lock:
                    self._open.discard(deadline)
        if deadline.passed:  # a body without a length ends where the connection ends
            raise PassingError(late)
        return received

    def interrupt(self) -> None:
        """End all requests that are under way. Set the event that they were given first, so that none follows."""
        with self._lock:
            for deadline in self._open:
                deadline.cut()

    def _begin(self, deadline: Deadline, ended: Event) -> None:
        with self._lock:
            if ended.is_set():
                raise EndedError
            self._open.add(deadline)

    def _failure(self, error: HTTPError) -> Exception:
        """What an answer other than 200 means."""
        said = self._said(error)
        if error.code in {408, 429} or error.code >= 500:
            return PassingError(f"{error.code}: {said}", _retry_after(error.headers), is_busy=error.code == 429)
        return RefusedError(error.code, said)

    def _said(self, error: HTTPError) -> str:
        """The beginning of what the server says, without the key, which some servers repeat."""
        try:
            text = " ".join(error.read(2000).decode("utf-8", "replace").split())
        except (OSError, HTTPException):
            return str(error.reason)
        key = self._headers.get("Authorization", "").removeprefix("Bearer ")
        return (text.replace(key, "***") if key else text)[:200]


def patiently(act: Callable[[], Found], pause: Pause, ended: Event) -> Found:
    """What `act` returns, tried again after growing pauses where that may help.

    Raises the last PassingError where it does not help, and EndedError where the work ends meanwhile.
    """
    attempt = 0
    while True:
        if ended.is_set():
            raise EndedError
        try:
            return act()
        except PassingError as failure:
            attempt += 1
            if attempt == ATTEMPTS or failure.after > LONGEST_PAUSE:
                raise
            pause(ended, max(FIRST_PAUSE * 2 ** (attempt - 1), failure.after))


def _headers(key_variable: str) -> dict[str, str]:
    headers = {"Content-Type": "application/json"}
    key = os.environ.get(key_variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise DemotuneError(f"the key in {key_variable} holds characters that cannot be sent; copy it again")
    return headers | {"Authorization": f"Bearer {key}"} if key else headers


def _retry_after(headers: Message) -> float:
    """Seconds that the server asks to wait, given as such or as a date; 0 where it does not."""
    value = headers.get("Retry-After", "").strip()
    try:
        if value.isdecimal():
            return float(value)
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):  # a date that is none, or beyond the calendar
        return 0.0
