"""SFT: passes over the demonstrations, each response token by its log-likelihood."""

from functools import partial

from demotune.config.methods import SFTConfig
from demotune.training.methods.method import Method, Phase
from demotune.training.objectives import SFTObjective
from demotune.training.phases import check, start, train


def objective(config: SFTConfig) -> SFTObjective:
    """The same whatever the config: the mean of -log pi(y | x) over response tokens."""
    return SFTObjective()


SFT = Method(
    config=SFTConfig,
    phases=(
        Phase("start", start.run, start.work, first_stage_only=True),
        Phase("train", partial(train.on_demonstrations, objective=objective), train.work_on_demonstrations),
        Phase("check", check.run, check.work),
    ),
)
