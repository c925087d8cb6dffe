"""Prompts shared by servers: each takes the next one as it has a place free, and one that is gone gives its back."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from threading import Condition, Thread
from typing import Generic, TypeVar

from demotune.common.errors import DemotuneError
from demotune.common.http_client import EndedError, PassingError
from demotune.sampling.engine.server import EngineServer

Job = TypeVar("Job")
Found = TypeVar("Found")


class AllGoneError(Exception):
    """No server is left."""


class SharedWork(Generic[Job, Found]):
    """`act(server, job)` for each job, at most `in_flight` at a time on one server."""

    def __init__(
        self,
        servers: Sequence[EngineServer],
        jobs: Sequence[Job],
        act: Callable[[EngineServer, Job], Found],
        *,
        in_flight: int,
    ) -> None:
        self._servers, self._act, self._ended = servers, act, False
        self._left, self._count, self._unfinished = deque(jobs), len(jobs), len(jobs)
        self._changed = Condition()
        self._found: SimpleQueue[Found | BaseException] = SimpleQueue()
        count = min(in_flight, len(jobs))
        self._threads = [
            Thread(target=self._work, args=[server], daemon=True) for server in servers for _ in range(count)
        ]

    def __iter__(self) -> Iterator[Found]:
        """Results as they are done. Raises the first error that no other server can make good."""
        for thread in self._threads:
            thread.start()
        try:
            for _ in range(self._count):  # threads have begun to lower what is unfinished
                found = self._found.get()
                if isinstance(found, BaseException):
                    raise found
                yield found
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()
            for server in self._servers:
                server.give_up(None)
            for thread in self._threads:
                thread.join()

    def _work(self, server: EngineServer) -> None:
        while (taken := self._take(server)) is not None:
            (job,) = taken
            try:
                found = self._act(server, job)
            except (PassingError, EndedError) as why:  # EndedError: another thread gave this server up
                self._give_back(server, job, str(why))
            except BaseException as error:
                self._found.put(error)
                return
            else:
                self._found.put(found)
                with self._changed:
                    self._unfinished -= 1
                    self._changed.notify_all()

    def _take(self, server: EngineServer) -> tuple[Job] | None:
        """The next job, as soon as there is one; None when there will be none for this server."""
        with self._changed:
            while not (self._ended or server.gone or self._unfinished == 0):
                if self._left:
                    return (self._left.popleft(),)
                self._changed.wait()
            return None

    def _give_back(self, server: EngineServer, job: Job, why: str) -> None:
        """A job for another server, or the end of the work where none is left."""
        with self._changed:
            if self._ended:
                return
            server.give_up(why)
            self._left.appendleft(job)
            if all(one.gone for one in self._servers):
                self._found.put(AllGoneError())
            self._changed.notify_all()


def all_gone(servers: Sequence[EngineServer]) -> DemotuneError:
    """No server is left."""
    reasons = "; ".join(f"{server.address}: {server.gone}" for server in servers)
    return DemotuneError(
        f"no server that draws gives an answer any more ({reasons}); what came is kept: start a server, then go on "
        "with demotune resume RUN --sampler http://HOST:PORT, or give the same command again"
    )
