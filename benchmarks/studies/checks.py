"""The page of checks, docs/studies/checks.md: what the journals and the kept answers say beside the studies' tables.

    python -m benchmarks.studies.checks [--output docs/studies]

Also writes settings.csv: every setting tried, its mean and its scatter over seeds on validation prompts.
"""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

from benchmarks.studies import overlaps, reading, tables
from benchmarks.studies.tables import Finished
from demotune.common.files import publish_file

HEAD = """# Checks of the studies

What the [rigor card](../rigor.md) points to, computed from the rows in `benchmarks/results/` and from the answers in
`benchmarks/results/items/`. *Goal* is the study's own ([what it stands for](../rigor.md#what-the-goal-stands-for)),
intervals are 95%, differences are paired by seed; *d_z* is the mean difference over its standard deviation; *would
show* is the smallest difference that so many seeds show in four of five studies.

```console
$ python -m benchmarks.studies.items habit --work FOLDER    # the answers, made again: minutes a seed
$ python -m benchmarks.studies.checks                       # this page and settings.csv
```
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/studies"))
    given = parser.parse_args()
    studies = tables.finished()
    with publish_file(given.output / "checks.md") as unfinished:
        unfinished.write_text(page(studies), encoding="utf-8")
    with publish_file(given.output / "settings.csv") as unfinished, unfinished.open("w", newline="") as opened:
        csv.writer(opened, lineterminator="\n").writerows(tables.all_settings(studies))
    print(f"{given.output}/checks.md and settings.csv: {len(studies)} studies")


def page(studies: Sequence[Finished]) -> str:
    return "\n".join([HEAD, *(f"## {title}\n\n{text}\n\n{body}" for title, text, body in sections(studies))])


def sections(studies: Sequence[Finished]) -> list[tuple[str, str, str]]:
    """(title, what the table shows, table) of each section."""
    best_of = next(each for each in studies if each.study.name == "best_of")
    return [
        (
            "Every claim of the results page",
            "Each is one difference; p after Holm over all. Where one thing alone differs it is a claim of cause.",
            tables.claims(),
        ),
        ("Every method against the best control", "p after Holm over the study.", tables.comparisons(studies)),
        (
            "Scatter between seeds and ranks",
            "Settings chosen under each rule, on test prompts. *validation − test* is what choosing flattered. Ranks "
            "are among all families under the rule but oracles; *first* is the share of seeds. Every setting that was "
            "tried: `docs/studies/settings.csv`, on validation prompts.",
            tables.scatter(studies),
        ),
        (
            "Settings tried",
            "Of every family, on validation prompts. *minutes* are of one thread: each model once, but with everything "
            "it stands on, so that shared parts are counted several times.",
            tables.grids(studies),
        ),
        (
            "Goal against compute",
            "The best control / the best method among settings of at most so many seconds of one thread, everything "
            "they stand on included; chosen and measured on validation prompts.",
            tables.compute(studies),
        ),
        (
            "Goal against responses",
            "best_of, as varied: what n responses are worth to each reward; chosen and measured on validation prompts.",
            tables.responses(best_of.study, best_of.rows),
        ),
        ("Were test prompts seen before?", OVERLAPS, overlap_table()),
        *reading.sections(),
    ]


OVERLAPS = """Every prompt that a method or a start model learns from is drawn anew from its seed and compared with the
test prompts. *Same*: the prompt itself. *Reordered*: its characters in another order, which asks for the same letters
and has the same sum. *One changed*: all but one character in the same places. Means over 8 seeds. Parts are kept apart
by a checksum of the prompt, so *same* has to be 0. *Pretraining* is what the start model read before a study; in
answers the further prompts are those of the training demonstrations."""


def overlap_table() -> str:
    rows = []
    for name in overlaps.WORLDS:
        found = overlaps.search(name)
        places = (found.demonstrations, found.further, found.validation)
        rows.append([
            found.studies, str(found.prompts),
            *(f"{one.same:.0%} / {one.reordered:.0%} / {one.one_changed:.0%}" for one in places),
            f"{found.pretraining:.0%}, {found.times:.1f} times",
        ])  # fmt: skip
    return tables.table(
        ["studies", "test prompts", "demonstrations: same / reordered / one changed",
         "further prompts", "validation prompts", "pretraining"], rows,
    )  # fmt: skip


if __name__ == "__main__":
    main()
