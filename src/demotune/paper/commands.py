"""The commands behind artefacts, for a shell."""

import shlex
from collections.abc import Sequence

from demotune.config.as_flags import as_flags
from demotune.config.field import fields_of
from demotune.config.paper import PaperConfig
from demotune.paper.inputs import SELECTED, Inputs, selection
from demotune.paper.making import Artefact, kinds_of
from demotune.paper.plans import plan_of
from demotune.paper.sizes import Size
from demotune.sweep.printed import command_of


def commands(config: PaperConfig, artefacts: Sequence[Artefact], size: Size, inputs: Inputs) -> str:
    """Selection, then every trial, begun or gone on with, then the command that evaluates and writes the pages."""
    lines = ["#!/bin/sh"]
    data = inputs.data
    if size.selected is not None:
        asked = selection(config, inputs, size)
        file = config.output / SELECTED
        data = (str(file),)
        select = shlex.join(["demotune", "select", *as_flags(_changed(asked))])
        lines.append(f"[ -e {shlex.quote(str(file))} ] || {select}")
    plan = plan_of(config.output, kinds_of(artefacts), size, inputs.model, data)
    lines.append(f"# The same trials on a cluster: demotune sweep {plan.file} --output {plan.folder} --ray auto")
    lines += [command_of(trial) for trial in plan.trials]
    asked_for = {name: value for name, value in _changed(config).items() if name not in ("artefact", "print")}
    lines.append(shlex.join(["demotune", "paper", config.artefact, *as_flags(asked_for)]))
    return "\n".join(lines) + "\n"


def _changed(config: object) -> dict[str, object]:
    """The fields that differ from their defaults."""
    fields = fields_of(type(config))
    values = {name: getattr(config, name) for name in fields}
    return {name: value for name, value in values.items() if value != fields[name].default}
