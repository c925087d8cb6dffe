"""A small part of the campaign, so that it runs in every `make test`; `make campaign` runs all of it."""

from collections.abc import Iterable
from pathlib import Path

import pytest
from campaign.disks import disk_trials, may_mount
from campaign.inputs import input_trials
from campaign.judges import judge_trials
from campaign.kills import kill_trials
from campaign.models import HARMS, model_trials
from campaign.tampering import tampering_trials
from campaign.trials import Trial, run_trials


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("campaign")


def wrong(trials: Iterable[Trial], place: Path) -> tuple[int, list[str]]:
    """How many trials were made, and what is wrong about which."""
    results = run_trials(list(trials), place, workers=1)
    return len(results), [f"{result.part}, {result.name}: {result.wrong}" for result in results if result.wrong]


def test_killed_runs_of_every_kind(place: Path) -> None:
    assert wrong(kill_trials(place, 4, seed=1, settings=("irft-carry", "rft")), place) == (4, [])


def test_mutated_data_configs_and_flags(place: Path) -> None:
    assert wrong(input_trials(place / "inputs", 300, seed=1), place) == (300, [])


def test_hostile_models(place: Path) -> None:
    assert wrong(model_trials(place, len(HARMS), seed=1), place) == (len(HARMS), [])


def test_tampered_run_folders(place: Path) -> None:
    count, faults = wrong(tampering_trials(place, seed=1, share=0.01), place)
    assert count > 5
    assert faults == []


def test_judge_servers_that_never_end(place: Path) -> None:
    assert wrong(judge_trials(place / "judges", 18, seed=1), place) == (18, [])


def test_full_disks(place: Path) -> None:
    if not may_mount(place):
        pytest.skip("this process may not mount a disk of its own")
    assert wrong(disk_trials(place, 2, seed=1), place) == (2, [])
