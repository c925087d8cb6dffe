"""What the commands take that people sit before. A field without a default is a flag that must be given."""

from dataclasses import dataclass
from pathlib import Path

from demotune.config.field import field
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
