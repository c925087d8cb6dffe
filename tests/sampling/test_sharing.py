"""Work shared by servers, whatever the order in which their threads get to run."""

import threading

import pytest

from demotune.sampling.engine.server import EngineServer
from demotune.sampling.engine.sharing import SharedWork


def test_work_that_is_done_before_anybody_asks_for_it_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = threading.Thread.start

    def begin_and_end(thread: threading.Thread) -> None:
        begin(thread)
        thread.join()

    monkeypatch.setattr(threading.Thread, "start", begin_and_end)
    server = EngineServer("http://127.0.0.1:9")
    assert list(SharedWork([server], range(5), lambda _, job: job * job, in_flight=1)) == [0, 1, 4, 9, 16]
