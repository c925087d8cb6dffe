"""`demotune paper`: one sweep for the artefacts that are asked for, then each one's evaluation, numbers and page."""

import datetime
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from demotune.common.interrupts import stopping_like_ctrl_c
from demotune.common.machine import command_line, package_versions
from demotune.common.progress import say
from demotune.config.paper import PaperConfig
from demotune.paper.figure1 import FIGURE as FIGURE1
from demotune.paper.figure2 import FIGURE as FIGURE2
from demotune.paper.inputs import SELECTED, Inputs, prepare, refuse_missing, select_rows
from demotune.paper.leaderboard import TABLES
from demotune.paper.making import Artefact, Making, kinds_of
from demotune.paper.page import write_page
from demotune.paper.plans import plan_of
from demotune.paper.record import ArtefactRecord, TrialUsed, write_artefact
from demotune.paper.sizes import Size, size_of
from demotune.paper.table2 import TABLE as TABLE2
from demotune.paper.table5 import TABLE as TABLE5
from demotune.sweep.run import OneByOne, Pool, run_trials
from demotune.sweep.trials import Plan

ARTEFACTS = {one.name: one for one in (TABLE2, *TABLES, TABLE5, FIGURE1, FIGURE2)}
RETRIES = 1


def paper(config: PaperConfig, pool_of: Callable[[Plan], Pool] = OneByOne) -> list[Path]:
    """Make the artefacts, their trials in a pool of the plan; their pages.

    What is finished is not done again: trials, evaluations. Pages are written anew. Raises DemotuneError where inputs
    are missing, and for trials that failed.
    """
    artefacts, size, inputs = _asked_for(config)
    data = select_rows(config, inputs, size)
    plan = plan_of(config.output, kinds_of(artefacts), size, inputs.model, data)
    with stopping_like_ctrl_c():
        run_trials(plan, pool_of(plan), RETRIES)
    pages = []
    for artefact in artefacts:
        say(f"{artefact.name}: {artefact.title}")
        pages.append(_make(artefact, Making(config, size, inputs, plan)))
    return pages


def _asked_for(config: PaperConfig) -> tuple[list[Artefact], Size, Inputs]:
    """The artefacts, at which size, and of what. Raises DemotuneError where inputs are missing."""
    artefacts = list(ARTEFACTS.values()) if config.artefact == "all" else [ARTEFACTS[config.artefact]]
    needed = {need for artefact in artefacts for need in artefact.needs}
    refuse_missing(config, needed)
    size = size_of(config.size, artefacts[0].family, config.seeds)
    if config.size == "tiny" and "task_data" in needed and find_spec("lm_eval") is None:
        say("lm-eval is not installed: tables 3, 4 and 6 go without their task; pip install 'demotune[tasks]'")
    return artefacts, size, prepare(config)


def _make(artefact: Artefact, making: Making) -> Path:
    found = artefact.measure(making)
    used = [trial for trials in making.settings(artefact.kinds) for trial in trials]
    record = ArtefactRecord(
        artefact=artefact.name,
        title=artefact.title,
        size=making.config.size,
        command=command_line(),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        versions=package_versions(),
        answer=found.answer,
        warnings=(*found.warnings, *(making.doubts if "rft" in artefact.kinds else ())),
        charts=found.charts,
        grids=found.grids,
        samples=found.samples,
        paper=artefact.paper,
        rigor=found.rigor,
        leaks=found.leaks,
        limits=found.limits,
        trials=tuple(TrialUsed(trial.name, str(trial.folder)) for trial in used),
    )
    write_artefact(making.config.output, record)
    page = write_page(making.config.output, record)
    say(record.answer)
    say(f"Page: {page.resolve().as_uri()}")
    return page


def print_commands(config: PaperConfig) -> str:
    """The commands of a shell that make the artefacts, trial by trial. At size tiny the model and rewards are made."""
    from demotune.paper.commands import commands  # noqa: PLC0415

    return commands(config, *_asked_for(config))


def estimate(config: PaperConfig) -> None:
    """What the trials would cost, on the screen. Where rows are yet to be selected, the first ones stand for them."""
    from demotune.sweep.estimate import show_estimate  # noqa: PLC0415

    artefacts, size, inputs = _asked_for(config)
    data: tuple[str, ...] = (str(config.output / SELECTED),)
    if size.selected is None or not Path(data[0]).is_file():
        size, data = _first_rows(size), inputs.data
    show_estimate(plan_of(config.output, kinds_of(artefacts), size, inputs.model, data), config.device)


def _first_rows(size: Size) -> Size:
    return size if size.selected is None else replace(size, common={**size.common, "max_rows": size.selected})
