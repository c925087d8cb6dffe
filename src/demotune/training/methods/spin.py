"""SPIN (arXiv 2401.01335): the stage of IRFT, with the logistic link and the stage's start as the reference."""

from demotune.config.methods import SPINConfig
from demotune.training.methods.irft import pairwise_phases, warn_about_pairs
from demotune.training.methods.method import Method
from demotune.training.objectives import PairObjective


def objective(config: SPINConfig) -> PairObjective:
    """SPIN's objective has no choices but beta: the logistic link and no SFT loss."""
    return PairObjective(beta=config.beta, link="logistic", sft_weight=0.0)


SPIN = Method(config=SPINConfig, phases=pairwise_phases(objective), warn=warn_about_pairs)
