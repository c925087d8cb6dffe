"""What `demotune paper` takes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from demotune.common.errors import DemotuneError
from demotune.config.field import field
from demotune.config.values import Config

ArtefactName = Literal["table2", "table3", "table4", "table5", "table6", "figure1", "figure2"]
SizeName = Literal["tiny", "small", "paper"]


@dataclass(frozen=True, kw_only=True)
class PaperConfig(Config):
    """Make a table or figure of arXiv 2405.17888 anew: trials, evaluation, and a page beside the paper's numbers.

    Given again, it goes on where it was stopped.
    """

    artefact: Literal[ArtefactName, "all"] = field(argument=True)
    """table2, table3, table4, table5, table6, figure1, figure2, or all of them."""
    output: Path = field()
    """Folder for the trials, the evaluations, and of each artefact a page and its numbers as JSON."""
    size: SizeName = field("tiny")
    """Minutes on random weights, an hour with 135M parameters, or as in the paper. tiny: shipped rows; its numbers mean
    nothing. small: SmolLM2-135M-Instruct on your rows. paper: the paper's models, rows and settings."""
    model: str | None = field(None, names="model")
    """The model to begin with; at size small SmolLM2-135M-Instruct where it is not given, at tiny made on the spot."""
    data: tuple[str, ...] = field((), names="rows")
    """Demonstrations, or preference rows of which the chosen side is trained on; repeat for several."""
    preferences: tuple[str, ...] = field((), names="rows")
    """Test rows: preference pairs that are not trained on; repeat for several."""
    reward_model: tuple[str, ...] = field((), names="model")
    """Reward models with one label, or runs. The first one selects the rows to train on; each judges, and the page says
    which of them selected. Repeat for one that did not."""
    task_data: tuple[str, ...] = field((), names=None)
    """Folder with a subfolder of rows for each benchmark task, where no hub can be reached; repeat for several."""
    seeds: int | None = field(None, minimum=1, maximum=40)
    """Seeds of each setting. Not given: 2 at tiny, else 3. More seeds may be added later."""
    print: bool = field(False)
    """Write the commands of the trials to the screen, and train nothing."""
    estimate: bool = field(False)
    """Say what the trials that are not finished would cost, and train nothing."""
    device: str | None = field(None)
    """For --estimate, by datasheet: h200, h100, a100, ... Not given: this machine is measured."""

    def _check(self) -> None:
        if self.device is not None and not self.estimate:
            raise DemotuneError("--device is for --estimate; give both, or neither")
        if self.artefact == "all" and self.size == "paper":
            raise DemotuneError(
                "at size paper the artefacts begin with two models (tables 3, 4 and 6: zephyr-7b-sft-full, the others: "
                "pythia-1.4b); make them one by one, each with its --model and --data"
            )
        if self.size == "tiny" and (given := [name for name in ("model", "data", "preferences", "reward_model")
                                              if getattr(self, name)]):  # fmt: skip
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise DemotuneError(f"size tiny makes its own model, rows and rewards; drop {flags}, or give --size small")
