"""What `demotune advise` says in the worlds of the studies, whose answer is known by then.

    python -m benchmarks.studies.advising --work FOLDER [--study habit --study distant] [--seeds 8] [--first 0]

FOLDER is that of the studies; `habit_135m_32` wants MODEL and WORK in the environment as the study does, and has five
seeds. Each seed's SFT start and demonstrations are given to advise, once with the study's own held-out rows and once
with 64. Rows go to benchmarks/results/advice.jsonl, in the place of those of the same studies and seeds. Seeds 0 to 7
are the studies' own, by which the rules were changed once; from 8 on they are fresh.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import demotune
from benchmarks.studies import distant, habit, habit_135m, letters
from benchmarks.studies.families import Ladder
from benchmarks.studies.frame import RESULTS, SEEDS, Bench, Study
from benchmarks.studies.training import kept
from benchmarks.studies.world import DEMONSTRATIONS, HELDOUT, PROMPTS, Example, read_examples, write_examples
from demotune.common.files import read_rows, write_rows

MORE = 64
"""Held-out rows of the second condition."""


@dataclass(frozen=True, slots=True)
class Known:
    """A study whose answer is known."""

    study: Study
    ladder: Ladder
    more: Callable[[Path, int], Sequence[Example]]
    """MORE demonstrations of a seed that it neither trained on nor held out."""
    threads: int = 1


def _letters(asked: tuple[int, ...]) -> Callable[[Path, int], Sequence[Example]]:
    return lambda _, seed: letters.demonstrations(1000 + seed, letters.draw_prompts(1000 + seed, "train", MORE, asked))


def _unused_texts(folder: Path, _: int) -> Sequence[Example]:
    shown = {row["prompt"] for name in (DEMONSTRATIONS, HELDOUT) for row in read_examples(folder / name)}
    texts = habit_135m.texts(habit_135m.work_folder(), "train")
    return [row for row in texts if row["prompt"] not in shown][:MORE]


KNOWN = {
    known.study.name: known
    for known in (
        Known(habit.STUDY, habit.LADDER, _letters((letters.ASKED,))),
        Known(distant.STUDY, distant.LADDER, _letters(distant.NEAR)),
        Known(habit_135m.STUDIES["habit_135m_32"], habit_135m.LADDER, _unused_texts, threads=2),
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--study", choices=KNOWN, action="append")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many")
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    asked, file = given.study or [*KNOWN], RESULTS / "advice.jsonl"
    seeds = range(given.first, given.first + given.seeds)
    every = read_rows(file) if file.exists() else []
    rows = [row for row in every if not (row["study"] in asked and row["seed"] in seeds)]
    for name in asked:
        torch.set_num_threads(KNOWN[name].threads)
        for seed in seeds:
            rows += advice_of(KNOWN[name], given.work.resolve(), seed)
        write_rows(file, rows)
    found = Counter((row["study"], row["seed"] >= SEEDS, row["heldout"], row["action"]) for row in rows)
    for (study, fresh, heldout, action), count in sorted(found.items()):
        print(study, "fresh seeds" if fresh else "its seeds", heldout, "held out:", action, count)


def advice_of(known: Known, work: Path, seed: int) -> Iterator[dict[str, object]]:
    """A row for each number of held-out rows."""
    world = known.study.world
    kept(work / world.name / "start", world.make_start)
    data = work / world.name / f"seed{world.data}-{seed}"
    folder = kept(data, lambda folder: world.write_data(folder, seed))
    start = known.ladder.start(Bench(world, folder, seed, "validation", 1)).model
    more = folder / "more-heldout.jsonl"
    write_examples(more, known.more(folder, seed))
    for file in (folder / HELDOUT, more):
        found = demotune.advise(
            start, str(folder / DEMONSTRATIONS), eval_data=(str(file),), prompts=folder / PROMPTS, bf16=world.bf16
        )
        measured = found.measurements
        reward = measured.reward
        yield {
            "study": known.study.name, "seed": seed, "heldout": len(read_examples(file)),
            "action": found.advice.action, "rule": found.advice.rule,
            "accuracy": None if reward is None else reward.accuracy.value,
            "greedy_share": None if reward is None else reward.headroom.greedy_share.value,
            "best_share": None if reward is None else reward.headroom.best_share.value,
            "gap": measured.likelihood.gap.value, "fall": measured.likelihood.fall.value,
        }  # fmt: skip


if __name__ == "__main__":
    main()
