"""Finished runs, and rows and judges to evaluate them with."""

from pathlib import Path

import pytest
from helpers.tiny_runs import tiny_runs, write_preferences


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs(tmp_path_factory)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Preference rows, and functions as judges: one abstains at times, one always, one is not to be asked."""
    folder = tmp_path_factory.mktemp("evaluate")
    write_preferences(folder / "test.jsonl")
    (folder / "evaluate_judges.py").write_text(
        "def length(prompt, response):\n"
        "    if prompt[-1]['content'].startswith(('tell 1', 'tell 2')):\n"
        "        raise ValueError('no opinion')\n"
        "    return len(response)\n"
        "def mute(prompt, response):\n"
        "    raise RuntimeError('never')\n"
        "def never(prompt, first, second):\n"
        "    raise AssertionError('identical answers are not asked about')\n"
    )
    return folder
