"""The overview's methods and controls made again: every answer to a test prompt, each model's hash, whole configs.

    python -m benchmarks.studies.items STUDY ... --work FOLDER [--seeds 8]

The journal of a study holds means over prompts. This makes the chosen settings of the start, of the best control and of
the method that validation prompts prefer once more, by the same seeds, and keeps in benchmarks/results/items:

* STUDY.jsonl.gz: a row for each rule, family and seed with the answers to the test prompts, in the prompts' order,
  as many of each as the journal's row has. What the program counts in them follows from their text;
* STUDY.json: versions and hardware, the sha256 of every model, and each run's whole config.

What is made is kept under FOLDER, so that a killed command goes on.
"""

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.studies.frame import RESULTS, SEEDS, Bench, Family, Rule, Setting, Study, choose
from benchmarks.studies.overview import Cell, cells
from benchmarks.studies.run import STUDIES
from benchmarks.studies.training import FACTS, kept
from demotune.common.files import file_hash, write_json, write_rows
from demotune.common.journals import Journal, read_journal
from demotune.common.machine import hardware, package_versions

ITEMS = RESULTS / "items"
FURTHER = {("habit", "as varied"): ("RFT, linear reward",)}
"""Methods beside the preferred one whose answers are kept."""
Chosen = tuple[Rule, Family, Setting]


@dataclass
class Heard:
    """A world's program that also keeps the answers it is asked about."""

    gold: Any
    answers: list[str] = field(default_factory=list)

    def __call__(self, prompt: str, answer: str) -> Mapping[str, float]:
        self.answers.append(answer)
        found: Mapping[str, float] = self.gold(prompt, answer)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+", choices=STUDIES)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    given = parser.parse_args()
    for name in given.studies:
        make(name, given.work.resolve(), range(given.seeds))


def make(name: str, work: Path, seeds: range) -> None:
    """Measure what FOLDER does not hold yet, then write both files of a study."""
    journal = work / f"items-{name}.jsonl"
    opened, done = Journal(journal), {_key(row) for row in read_journal(journal)} if journal.exists() else set()
    found = [cell for cell in cells() if cell.study.name == name]
    study = found[0].study
    torch.set_num_threads(study.threads)
    folder = work / study.world.name
    kept(folder / "start", study.world.make_start)
    wanted = chosen_of(found, seeds)
    for seed in seeds:
        for row in _rows_of(study, wanted[seed], folder, seed, done):
            opened.append([row])
        print(f"{name}: seed {seed}", flush=True)
    rows = sorted(read_journal(journal), key=lambda row: (row["rule"], row["family"], row["seed"]))
    ITEMS.mkdir(exist_ok=True)
    write_rows(ITEMS / f"{name}.jsonl.gz", [{key: row[key] for key in row if key != "checksum"} for row in rows])
    write_json(ITEMS / f"{name}.json", record_of(folder))


def _key(row: Mapping[str, Any]) -> tuple[str, str, int]:
    return row["rule"], row["family"], row["seed"]


def _rows_of(
    study: Study, wanted: Sequence[Chosen], folder: Path, seed: int, done: set[tuple[str, str, int]]
) -> Iterator[dict[str, Any]]:
    own = kept(folder / f"seed{study.world.data}-{seed}", lambda place: study.world.write_data(place, seed))
    heard = Heard(study.world.gold)
    bench = Bench(replace(study.world, gold=heard), own, seed, "test", study.samples["test"], study.most)
    for rule, family, setting in wanted:
        if (rule.name, family.name, seed) in done:
            continue
        heard.answers.clear()
        found = family.measure(bench, setting)
        samples = found.samples or bench.samples
        asked = len(study.world.questions("test")) * samples
        yield {
            "rule": rule.name, "family": family.name, "setting": setting, "seed": seed, "samples": samples,
            "measures": {name: round(value, 6) for name, value in found.measures.items()},
            "answers": heard.answers[:asked],  # those to near prompts come after them
        }  # fmt: skip


def chosen_of(found: Sequence[Cell], seeds: Iterable[int]) -> dict[int, list[Chosen]]:
    """Seed -> start, best control, preferred method and FURTHER of each rule, with the settings that the seed chose."""
    wanted: dict[int, list[Chosen]] = {seed: [] for seed in seeds}
    for cell in found:
        study, rule = cell.study, cell.outcome.rule
        names = {cell.control.family, cell.best.family, *FURTHER.get((study.name, rule.name), ())}
        names |= {family.name for family in study.families if family.role == "start" and rule == study.rules[0]}
        chosen = choose(study.own(cell.rows), rule)
        for seed, each in wanted.items():
            each += [
                (rule, family, chosen[family.name, seed].setting) for family in study.families if family.name in names
            ]
    return wanted


def record_of(folder: Path) -> dict[str, Any]:
    """Where the answers come from: versions, hardware, and of every model of a world its hash and config."""
    models = {
        str(file.parent.relative_to(folder)): file_hash(file) for file in sorted(folder.rglob("model.safetensors"))
    }
    configs: dict[str, Any] = {}
    for file in sorted(folder.rglob(FACTS)):
        whole = json.loads(file.read_text("utf-8")).get("whole_config")
        if whole is not None:
            configs[file.parent.name] = {key: value for key, value in whole.items() if key != "seed"}
    return {"versions": package_versions(), "hardware": hardware(), "models": models, "configs": configs}


if __name__ == "__main__":
    main()
