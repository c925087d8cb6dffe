"""Where a model comes from: the run that made it, the run behind that run's start model, and what they trained on."""

from collections.abc import Iterator
from pathlib import Path

from demotune.common.errors import DemotuneError
from demotune.data import load_demonstrations
from demotune.records import Demonstration
from demotune.runs.run import Run, run_behind


def runs_behind(model: Path) -> Iterator[Run]:
    """The run that made a model, the run that made its start model, and so on while their folders are there."""
    seen: set[Path] = set()
    run = run_behind(model)
    while run is not None and run.folder not in seen:
        yield run
        seen.add(run.folder)
        run = run_behind(Path(run.config["model"]))


def trained_prompts(run: Run) -> frozenset[str]:
    """Keys of the prompts that a run trained on (`rendering.content_key` of their ids)."""
    return frozenset(row.prompt for row in run.rows if not row.heldout)


def training_texts(model: Path) -> tuple[list[Demonstration], list[str]]:
    """(rows of all data behind a model, sources that are gone or have changed since and so cannot be searched).

    Rows that a run held out are among them: whether one was trained on, `trained_prompts` says.
    """
    rows: list[Demonstration] = []
    gone: list[str] = []
    seen: set[tuple[str, ...]] = set()
    for run in runs_behind(model):
        config, hashes = run.config, run.manifest.data
        for source in config["data"]:
            reading = (source, str(config["columns"]), str(config["every_turn"]), str(hashes.get(source)))
            if reading in seen:
                continue
            seen.add(reading)
            try:
                loaded = load_demonstrations([source], columns=config["columns"], every_turn=config["every_turn"])
            except DemotuneError:
                gone.append(source)
                continue
            if loaded.hashes.get(source) == hashes.get(source):
                rows += loaded.rows
            else:
                gone.append(source)
    return rows, sorted(set(gone))
