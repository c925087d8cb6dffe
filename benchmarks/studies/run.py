"""Run a part of a study.

    python -m benchmarks.studies.run STUDY --work FOLDER --part validation|test [--seeds 8] [--jobs 2]

What is in the journal, benchmarks/results/STUDY.jsonl, is not measured again, and what is trained is kept under
FOLDER: a study that was killed goes on. `test` needs all validation rows, and reads test prompts with the chosen
settings alone.
"""

import argparse
import contextlib
import importlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.studies.frame import (
    SEEDS,
    Bench,
    Family,
    Row,
    Setting,
    Study,
    append_row,
    chosen_settings,
    read_rows,
    setting_key,
)
from benchmarks.studies.training import kept
from benchmarks.studies.world import Part
from demotune.common.journals import Journal

TOYS = ("habit", "best_of", "answers", "distant", "spin", "forgetting", "forgetting_again")
STUDIES = (*TOYS, "habit_135m_16", "habit_135m_32", "habit_135m_64")


@dataclass(frozen=True, slots=True)
class Work:
    """One seed's part of a study, for a process of its own."""

    study: str
    folder: Path
    seed: int
    part: Part
    file: Path
    journal: Journal
    """Of `file`; opened once, for opening one may rewrite it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for models; a study needs its own until its end"
    )
    parser.add_argument("--part", choices=("validation", "test"), required=True)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--journal", type=Path, help="default: benchmarks/results/STUDY.jsonl")
    given = parser.parse_args()
    run_part(
        given.study, given.work, given.part, seeds=range(given.seeds), jobs=given.jobs,
        journal=given.journal or load_study(given.study).journal,
    )  # fmt: skip


def load_study(name: str) -> Study:
    """A study stands in the module of its name; those on the real model in one."""
    found: Study = (
        importlib.import_module(f"benchmarks.studies.{name}").STUDY
        if name in TOYS
        else importlib.import_module("benchmarks.studies.habit_135m").STUDIES[name]
    )
    return found


def run_part(name: str, work: Path, part: Part, *, seeds: Sequence[int], jobs: int, journal: Path) -> None:
    study, folder, begun = load_study(name), work.resolve() / load_study(name).world.name, time.monotonic()
    journal.parent.mkdir(parents=True, exist_ok=True)
    opened, rows = Journal(journal), read_rows(journal)
    missing = {seed: count for seed in seeds if (count := _missing(study, rows, seed))} if part == "test" else {}
    if missing:
        raise SystemExit(f"validation rows are missing (seed: count): {missing}; run --part validation first")
    print(f"{name}: {study.tried} settings a seed; start model and data in {folder}", flush=True)
    kept(folder / "start", study.world.make_start)
    tasks = [Work(name, folder, seed, part, journal, opened) for seed in seeds]
    with _workers(jobs, folder) as do:
        for seed, added in do(tasks):
            print(f"{name} {part}: seed {seed}, {added} rows, {(time.monotonic() - begun) / 60:.1f} min", flush=True)
    print(f"{name} {part}: done in {(time.monotonic() - begun) / 60:.1f} minutes; rows in {journal}", flush=True)


@contextlib.contextmanager
def _workers(jobs: int, folder: Path) -> Iterator[Callable[[Sequence[Work]], Iterable[tuple[int, int]]]]:
    """Do work in so many processes; with one, in this one, where it shows its progress."""
    if jobs == 1:
        yield lambda tasks: map(work_on, tasks)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(jobs, initializer=_start_worker, initargs=(folder,), maxtasksperchild=1) as pool:
        yield lambda tasks: pool.imap_unordered(work_on, tasks, chunksize=1)


def _start_worker(folder: Path) -> None:
    """What demotune says goes to a log."""
    log = (folder / f"log-{os.getpid()}.txt").open("a", encoding="utf-8")
    contextlib.redirect_stdout(log).__enter__()
    contextlib.redirect_stderr(log).__enter__()


def work_on(work: Work) -> tuple[int, int]:
    """Measure what has no row yet; returns the seed and how many rows were added."""
    study = load_study(work.study)
    torch.set_num_threads(study.threads)
    rows = read_rows(work.file)
    done = {row.key for row in rows}
    folder = kept(
        work.folder / f"seed{study.world.data}-{work.seed}", lambda folder: study.world.write_data(folder, work.seed)
    )
    bench = Bench(study.world, folder, work.seed, work.part, study.samples[work.part], study.most)
    added = 0
    for family, setting in _wanted(study, rows, work):
        key = (family.name, setting_key(setting), work.seed, work.part)
        if key not in done:
            append_row(work.journal, _row(study, bench, family, setting))
            added += 1
    return work.seed, added


def _wanted(study: Study, rows: list[Row], work: Work) -> list[tuple[Family, Setting]]:
    if work.part == "validation":
        return [(family, setting) for family in study.families for setting in family.settings]
    chosen = chosen_settings(study.own(rows), study.rules, work.seed)
    return [(family, setting) for family in study.families for setting in chosen.get(family.name, [])]


def _missing(study: Study, rows: list[Row], seed: int) -> int:
    known = {(row.family, setting_key(row.setting)) for row in rows if row.part == "validation" and row.seed == seed}
    wanted = {(family.name, setting_key(setting)) for family in study.families for setting in family.settings}
    return len(wanted - known)


def _row(study: Study, bench: Bench, family: Family, setting: Setting) -> Row:
    found = family.measure(bench, setting)
    return Row(
        family=family.name,
        role=family.role,
        setting=setting,
        seed=bench.seed,
        part=bench.part,
        measures={name: round(value, 6) for name, value in found.measures.items()},
        seconds=round(found.seconds, 2),
        answers=found.answers,
        prompts=len(study.world.questions(bench.part)),
        samples=found.samples or bench.samples,
        config=found.config,
    )


if __name__ == "__main__":
    main()
