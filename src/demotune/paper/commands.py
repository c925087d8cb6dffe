"""The commands behind artefacts, for a shell."""

import shlex
from collections.abc import Sequence

from demotune.config.as_flags import as_flags, changed_fields
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
        select = shlex.join(["demotune", "select", *as_flags(changed_fields(asked))])
        lines.append(f"[ -e {shlex.quote(str(file))} ] || {select}")
    plan = plan_of(config.output, kinds_of(artefacts), size, inputs.model, data)
    lines.append(f"# The same trials on a cluster: demotune sweep {plan.file} --output {plan.folder} --ray auto")
    lines += [command_of(trial) for trial in plan.trials]
    asked_for = {name: value for name, value in changed_fields(config).items() if name not in ("artefact", "print")}
    lines.append(shlex.join(["demotune", "paper", config.artefact, *as_flags(asked_for)]))
    return "\n".join(lines) + "\n"
