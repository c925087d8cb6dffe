"""One process that takes itself for one of several."""

import pytest

from demotune.common.processes import process_state


def pretend_processes(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate counts so many processes. Nothing may wait for the others."""
    monkeypatch.setattr(process_state(), "num_processes", count)
