"""demotune --help: each command in a line, by what it is for."""

from collections.abc import Mapping
from typing import Any

import typer
from typer.core import TyperGroup

COMMANDS: Mapping[str, Mapping[str, str]] = {
    "Before a run": {
        "quickstart": "SFT of SmolLM2-135M on the shipped rows, and a reward",
        "init": "Choose a model and data, get a run.yaml",
        "inspect": "Show rows of data as the model sees them",
        "advise": "Measure in minutes which method is worth it",
        "estimate": "Say what a run will cost: tokens, operations, time, memory",
        "doctor": "Show what is installed, and what a run would use",
    },
    "Train": {
        "sft": "Supervised fine-tuning",
        "spin": "Prefer demonstrations to own samples (arXiv 2401.01335)",
        "irft": "The same in T stages of K steps (arXiv 2405.17888)",
        "rft": "Learn a reward, then RL with it, in turn (arXiv 2405.17888)",
        "distill": "SFT on the best of N answers by a reward",
        "resume": "Go on with an interrupted run",
        "sweep": "Run many trials: methods by settings by seeds",
        "paper": "Make the paper's tables and figures anew",
    },
    "Use a model or a reward": {
        "sample": "Sample responses to prompts; with a reward, the best of several",
        "chat": "Talk with a model, or with two side by side",
        "score": "Score rows with a reward",
        "select": "Keep the best demonstrations by a reward",
        "explain": "Show what a reward looks at",
        "push": "Upload a finished run's model to the Hugging Face hub",
    },
    "Judge": {
        "evaluate": "Measure a model on rows that it was not trained on",
        "annotate": "Let people choose between answers, blind, on a local page",
        "compare": "Compare runs: intervals, corrected p-values, cost",
        "report": "Write one page about one run or several",
    },
}


class Commands(TyperGroup):
    """All commands, on one screen."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self.format_usage(ctx, formatter)
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(self.help or "")
        for heading, commands in COMMANDS.items():
            with formatter.section(typer.style(heading, bold=True)):
                formatter.write_dl([(typer.style(name, fg="cyan"), text) for name, text in commands.items()])
        with formatter.section(typer.style("Options", bold=True)):
            formatter.write_dl(list(filter(None, (param.get_help_record(ctx) for param in self.get_params(ctx)))))
