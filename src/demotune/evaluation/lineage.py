"""Where a model comes from: the run that made it, the run behind that run's start model, and what they trained on."""

from collections.abc import Iterator
from pathlib import Path

from demotune.common.errors import DemotuneError
from demotune.common.files import read_json, read_rows
from demotune.data import load_demonstrations
from demotune.records import Demonstration
from demotune.runs.folder import RunFolder, begun_config, run_of


def runs_behind(model: Path) -> Iterator[Path]:
    """The run that made a model, the run that made its start model, and so on while their folders are there."""
    seen: set[Path] = set()
    run = run_of(model)
    while run is not None and run not in seen:
        yield run
        seen.add(run)
        run = run_of(Path(begun_config(run)["model"]))


def trained_prompts(run: Path) -> frozenset[str] | None:
    """Keys of the prompts that a run trained on (`rendering.content_key` of their ids); None of an older version's."""
    file = RunFolder(run).rows
    return frozenset(row["prompt"] for row in read_rows(file) if not row["heldout"]) if file.exists() else None


def training_texts(model: Path) -> tuple[list[Demonstration], list[str]]:
    """(rows of all data behind a model, sources that are gone or have changed since and so cannot be searched).

    Rows that a run held out are among them: whether one was trained on, `trained_prompts` says.
    """
    rows: list[Demonstration] = []
    gone: list[str] = []
    seen: set[tuple[str, ...]] = set()
    for run in runs_behind(model):
        begun = read_json(run / "manifest.json")
        config = begun["config"]
        for source in config["data"]:
            reading = (source, str(config["columns"]), str(config["every_turn"]), str(begun["data"].get(source)))
            if reading in seen:
                continue
            seen.add(reading)
            try:
                loaded = load_demonstrations([source], columns=config["columns"], every_turn=config["every_turn"])
            except DemotuneError:
                gone.append(source)
                continue
            if loaded.hashes.get(source) == begun["data"].get(source):
                rows += loaded.rows
            else:
                gone.append(source)
    return rows, sorted(set(gone))
