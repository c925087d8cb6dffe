"""`demotune paper`: which of its three kinds of command this is."""

import sys
from contextlib import redirect_stdout
from dataclasses import replace

import typer

from demotune.config.paper import PaperConfig


def make_paper(config: PaperConfig) -> None:
    """Make artefacts, print their commands, or say what they will cost."""
    from demotune.paper.paper import estimate, paper, print_commands  # noqa: PLC0415

    if config.size == "small" and config.model is None:
        from demotune.cli.quickstart import fetch_smollm2  # noqa: PLC0415

        config = replace(config, model=str(fetch_smollm2()))
    if config.print:
        with redirect_stdout(sys.stderr):  # what is made on the way says so; standard output is a script
            script = print_commands(config)
        typer.echo(script, nl=False)
    elif config.estimate:
        estimate(config)
    else:
        paper(config)
