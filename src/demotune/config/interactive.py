"""What the commands take that people sit before. A field without a default is a flag that must be given."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from demotune.common.errors import DemotuneError
from demotune.config.field import field
from demotune.config.methods import Method
from demotune.config.values import Config


@dataclass(frozen=True, kw_only=True)
class AnnotateConfig(Config):
    """People choose between a model's and a baseline's answers, blind, on a local page; votes join the evaluation."""

    evaluation: Path = field(argument=True, names="evaluation")
    """Folder that demotune evaluate wrote, with answers of a model and a baseline."""
    rater: str = field("rater")
    """Who votes. Each rater has a journal of votes, goes on where it ends, and sees the sides in another order."""
    results: bool = field(False)
    """Only show what the votes say so far: win rates with intervals, and how far raters agree."""
    port: int = field(0, minimum=0, maximum=65535)
    """Port of 127.0.0.1 for the page, to forward one by ssh, say; 0 is any free one."""
    seed: int = field(42, minimum=0, maximum=2**32 - 1)
    """Decides, with the rater's name, on which side each answer stands."""


@dataclass(frozen=True, kw_only=True)
class InspectConfig(Config):
    """Show rows of data as the model sees them: what is learned, lengths, columns and format, refused rows."""

    data: tuple[str, ...] = field(names="rows")
    """Demonstrations: file, folder or hub id, in any format that training reads; repeat for several."""
    model: str = field(names="model")
    """Whose chat template and tokenizer: a run folder, a model or adapter folder, a hub id, or a GGUF file."""
    rows: int = field(3, minimum=0, maximum=10**4)
    """Show this many rows, evenly spread over the data."""
    columns: str | None = field(None, names="columns")
    """Read these columns: prompt=question,response=answer, or messages=dialogue. Detected when not given."""
    every_turn: bool = field(False)
    """Make one demonstration of each assistant turn in a conversation."""
    template: str | None = field(None)
    """Prompt template with {prompt}. Not given: that of the model's run, else its chat template."""
    max_length: int | None = field(None, minimum=2, maximum=10**7)
    """Longest prompt plus response, in tokens. Not given: 1024, or what the model can read."""
    overlong: Literal["quarantine", "truncate-prompt", "truncate-response"] = field("quarantine")
    """Refuse longer rows (quarantine), or cut them."""
    max_rows: int | None = field(None, minimum=1)
    """Read only the first N good rows."""


@dataclass(frozen=True, kw_only=True)
class InitConfig(Config):
    """Begin a project: name a model and data, see what is read and learned, and get a run.yaml to start from.

    What is not given by a flag is asked for.
    """

    model: str | None = field(None, names="model")
    """The model to start from: a run folder, a model or adapter folder, a hub id, or a GGUF file."""
    data: tuple[str, ...] = field((), names="rows")
    """Demonstrations: file, folder or hub id, in any format that training reads; repeat for several."""
    columns: str | None = field(None, names="columns")
    """Read these columns: prompt=question,response=answer, or messages=dialogue. Detected when not given."""
    method: Method | None = field(None)
    """The method of the run. Not given: sft, or irft for a model that a run of demotune made."""
    output: str | None = field(None)
    """Run folder of the run to come. Not given: runs/METHOD."""
    file: Path = field(Path("run.yaml"))
    """Write the config here."""
    yes: bool = field(False)
    """Ask nothing: take the defaults. --model and --data are needed then."""

    def _check(self) -> None:
        if self.yes and (self.model is None or not self.data):
            raise DemotuneError("--yes asks nothing, so the model and data must be given; add --model M --data D")
