"""`make campaign`: run the trials, print the table; exit 1 where one is wrong."""

import argparse
import gc
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from rich.console import Console

import demotune.pipeline  # noqa: F401 (children must not wait for imports)
from campaign.disks import disk_trials, may_mount
from campaign.inputs import input_trials
from campaign.judges import judge_trials
from campaign.kills import kill_trials
from campaign.models import model_trials
from campaign.tampering import tampering_trials
from campaign.trials import run_trials, show


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000, help="runs that are killed at a random moment")
    parser.add_argument("--disks", type=int, default=40, help="runs on a disk that is too small")
    parser.add_argument("--tampering", type=float, default=1.0, help="share of all damages of all files of a run")
    parser.add_argument("--inputs", type=int, default=10_000, help="mutated data, configs and flags")
    parser.add_argument("--models", type=int, default=200, help="hostile model folders")
    parser.add_argument("--judges", type=int, default=90, help="hostile judge servers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--place", type=Path, help="folder to work in; not given: a new one under the temporary folder")
    given = parser.parse_args()
    console = Console(width=120)
    torch.set_num_threads(1)
    place = given.place or Path(tempfile.mkdtemp(prefix="demotune-campaign-"))
    place.mkdir(parents=True, exist_ok=True)
    trials = [
        *input_trials(place / "inputs", given.inputs, given.seed),
        *judge_trials(place / "judges", given.judges, given.seed),
        *model_trials(place, given.models, given.seed),
        *kill_trials(place, given.kills, given.seed),
        *tampering_trials(place, given.seed, given.tampering),
    ]
    if given.disks and may_mount(place):
        trials += disk_trials(place, given.disks, given.seed)
    elif given.disks:
        console.print("this process may not mount disks: no trial of full disks")
    console.print(f"{len(trials):,} trials in {place}")
    gc.collect()
    gc.freeze()  # a run collects garbage after each phase: not through everything that was imported
    return 1 if show(run_trials(trials, place, given.workers), console) else 0


if __name__ == "__main__":
    sys.exit(main())
