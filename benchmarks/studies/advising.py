"""What `demotune advise` says in the worlds of the studies, whose answer is known by then.

    python -m benchmarks.studies.advising --work FOLDER [--seeds 8]

FOLDER is that of the studies `habit` and `distant`. Each seed's SFT start and demonstrations are given to advise, once
with the study's 8 held-out rows and once with 64. Rows go to benchmarks/results/advice.jsonl.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch

import demotune
from benchmarks.studies import distant, habit, letters
from benchmarks.studies.families import Ladder
from benchmarks.studies.frame import RESULTS, SEEDS, Bench, Study
from benchmarks.studies.world import DEMONSTRATIONS, HELDOUT, PROMPTS
from demotune.common.files import write_rows

MORE = 64
"""Held-out rows of the second condition, drawn with other seeds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = [
        row
        for module, asked in ((habit, (letters.ASKED,)), (distant, distant.NEAR))
        for seed in range(given.seeds)
        for row in advice_of(module.STUDY, module.LADDER, asked, given.work.resolve(), seed)
    ]
    write_rows(RESULTS / "advice.jsonl", rows)
    for key, count in sorted(Counter((row["study"], row["heldout"], row["action"]) for row in rows).items()):
        print(*key, count)


def advice_of(
    study: Study, ladder: Ladder, asked: tuple[int, ...], work: Path, seed: int
) -> Iterator[dict[str, object]]:
    """A row for each number of held-out rows."""
    folder = work / study.world.name / f"seed-{seed}"
    start = ladder.start(Bench(study.world, folder, seed, "validation", 1)).model
    for heldout in (None, MORE):
        file = folder / HELDOUT if heldout is None else _more(folder, asked, seed)
        found = demotune.advise(
            start, str(folder / DEMONSTRATIONS), eval_data=(str(file),), prompts=folder / PROMPTS, bf16=False
        )
        reward = found.measurements.reward
        yield {
            "study": study.name, "seed": seed, "heldout": heldout or 8, "action": found.advice.action,
            "accuracy": None if reward is None else reward.accuracy.value,
        }  # fmt: skip


def _more(folder: Path, asked: tuple[int, ...], seed: int) -> Path:
    file = folder / "more-heldout.jsonl"
    prompts = letters.draw_prompts(1000 + seed, "train", MORE, asked)
    file.write_text(
        "".join(json.dumps(row) + "\n" for row in letters.demonstrations(1000 + seed, prompts)), encoding="utf-8"
    )
    return file


if __name__ == "__main__":
    main()
