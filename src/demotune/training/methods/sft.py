"""SFT: passes over the demonstrations, each response token by its log-likelihood, or by a loss made of it."""

from functools import partial

from demotune.config.methods import SFTConfig
from demotune.training.methods.method import Method, Phase
from demotune.training.objectives import AnchoredSFTObjective, SFTObjective
from demotune.training.phases import check, start, train


def objective(config: SFTConfig) -> SFTObjective | AnchoredSFTObjective:
    """The loss that the config names; an anchored one needs scored demonstrations."""
    match config.loss:
        case "nll" | "dft":
            return SFTObjective(config.loss)
        case "iw" | "psft":
            return AnchoredSFTObjective(config.loss)


SFT = Method(
    config=SFTConfig,
    phases=(
        Phase("start", start.run, start.work, first_stage_only=True),
        Phase("train", partial(train.on_demonstrations, objective=objective), train.work_on_demonstrations),
        Phase("check", check.run, check.work),
    ),
)
