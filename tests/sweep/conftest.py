"""The plan of a sweep file."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from helpers.sweeps import COMMON

from demotune.sweep.plan import read_plan
from demotune.sweep.trials import Plan


@pytest.fixture
def plan_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Plan]:
    """The plan of a sweep file with these sections, in the folder `out`; JSON is YAML."""
    monkeypatch.chdir(tmp_path)

    def plan(common: Mapping[str, Any] = COMMON, **sections: Any) -> Plan:
        file = Path("sweep.yaml")
        file.write_text(json.dumps({"common": common} | sections), encoding="utf-8")
        return read_plan(file, Path("out"))

    return plan
