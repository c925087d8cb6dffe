"""`demotune estimate`: memory, tokens, operations and time of a run, before it. Data are read as a run reads them.

`forecast.py` adds up the work of the phases, `time_and_memory.py` says what it costs.
"""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from demotune.common.amounts import flops
from demotune.common.errors import DemotuneError
from demotune.common.memory import GIB
from demotune.common.progress import minutes, say, show_table, warn
from demotune.config.field import fields_of
from demotune.config.methods import AnyConfig
from demotune.config.sampler import IN_PROCESS, PLACE
from demotune.estimation.forecast import Estimate, Launch, estimate_here, estimate_setup, lighter
from demotune.estimation.machines import Machine, check_name, machine_named, precision_of
from demotune.estimation.time_and_memory import Costs
from demotune.runs.file_names import stage_title
from demotune.runs.folder import RunFolder
from demotune.training.prepare import prepare_run
from demotune.training.setup import Setup

FULL = 0.95
"""Share of a machine's memory above which a run is not promised to fit."""


def estimate(config: AnyConfig, device: str | None, launch: Launch | None = None) -> None:
    """`demotune estimate`: what the run of `config` would cost, on the screen, and whether it fits."""
    found, setup = estimate_config(config, device, launch)
    _show(found)
    _say_whether_it_fits(found, setup, launch)


def estimate_config(config: AnyConfig, device: str | None, launch: Launch | None = None) -> tuple[Estimate, Setup]:
    """What the run of `config` would cost here, or on a device of the table, and the run that was prepared for it.

    Raises DemotuneError as a run would, for a device that is not in the table, and for several processes on this one.
    """
    if launch is not None and device is None:
        raise DemotuneError(
            f"an estimate for {launch.processes} processes needs a device for each; add --device, such as --device h200"
        )
    if device is not None:
        check_name(device)  # before data are read
        config = _on_gpu(config)
    setup = _prepare(config)
    if device is None:
        return estimate_here(setup), setup
    return estimate_setup(setup, machine_named(device, precision_of(setup.config)), launch), setup


def _prepare(config: AnyConfig) -> Setup:
    """Prepare the run in a folder that nobody asked for; it stays when bad rows are named in it.

    An engine that would draw is not looked for: it may be on another machine.
    """
    place: dict[str, Any] = {name: getattr(config, name) for name in PLACE if name in fields_of(type(config))}
    elsewhere: dict[str, Any] = {"sampler": IN_PROCESS, "vllm_python": None} if place else {}
    folder = Path(tempfile.mkdtemp(prefix="demotune-estimate-"))
    quarantine = RunFolder(folder).quarantine
    try:
        setup = prepare_run(dataclasses.replace(config, **elsewhere), RunFolder(folder), ())
        quarantine.unlink(missing_ok=True)
    finally:
        if not quarantine.exists():
            folder.rmdir()
    return dataclasses.replace(setup, config=dataclasses.replace(setup.config, **place))


def _on_gpu(config: AnyConfig) -> AnyConfig:
    """With the automatic values of a GPU, in place of this machine's."""
    return dataclasses.replace(
        config,
        bf16=True if config.bf16 is None else config.bf16,
        attn_implementation=config.attn_implementation or "sdpa",
    )


def _show(found: Estimate) -> None:
    machine, costs = found.machine, found.costs
    several = found.work[-1].stage > 0
    parts = [(f"{stage_title(work.stage)}: {work.name}" if several else work.name, [work]) for work in found.work]
    rows = [
        (
            name,
            f"{sum(work.forward_tokens for work in works):,.0f}",
            f"{sum(work.trained_tokens for work in works):,.0f}",
            flops(sum(map(found.flops_of, works))),
            minutes(sum(map(found.seconds_of, works))),
            f"{max(map(costs.memory, works)) / GIB:.1f} GiB",
        )
        for name, works in [*parts, ("in all", list(found.work))]
    ]
    headings = ("", "drawn and scored", "trained on", "operations", "time", "memory")
    show_table(f"estimate for {_named(costs)}", headings, rows)
    say(
        "Tokens as a run counts them, each response with a prompt of its own; samples as long as demonstrations on "
        "average; every step, also those that early stopping may spare. Start-up and the report page come on top."
    )
    say(_ceilings(machine))


def _named(costs: Costs) -> str:
    """The device, and how many share the run."""
    if costs.processes == 1:
        return costs.machine.name
    spread = "gradients and optimizer spread over them" if costs.sharded else "each with the whole model"
    return f"{costs.processes} × {costs.machine.name}, {spread}"


def _ceilings(machine: Machine) -> str:
    numbers = (
        f"{machine.products / 1e12:,.3g} TFLOP/s of {machine.precision} matrix products, "
        f"{machine.bandwidth / 1e9:,.0f} GB/s, {machine.memory / GIB:,.0f} GiB"
    )
    if machine.measured:
        return f"ceilings of this machine, measured just now: {numbers}"
    return f"this is arithmetic, not a measurement: from the datasheet of {machine.name} ({numbers})"


def _say_whether_it_fits(found: Estimate, setup: Setup, launch: Launch | None) -> None:
    available = FULL * found.machine.memory
    needs, has = f"{found.memory / GIB:.1f} GiB", f"{found.machine.memory / GIB:.1f} GiB"
    if found.memory <= available:
        say(f"it fits: {needs} of {has}")
        return
    warn(f"it does not fit: it needs {needs}, {found.machine.name} has {has}")
    for flags, other in lighter(setup, found.machine, launch).items():
        fits = "fits" if other.memory <= available else "still too much"
        say(f"  with {flags}: {other.memory / GIB:.1f} GiB, {minutes(other.seconds)} ({fits})")
