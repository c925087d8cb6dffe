"""SFT, SPIN, IRFT and RFT: each a schedule of phases and a choice of objective."""

import math

from demotune.config import IRFTConfig, RFTConfig, SFTConfig, SPINConfig
from demotune.objectives import PairObjective, SFTObjective
from demotune.phases.check import check_phase, check_policy_phase, start_phase
from demotune.phases.forecast import say_forecast
from demotune.phases.policy import policy_phase
from demotune.phases.reward import reward_phase
from demotune.phases.sample import sample_phase
from demotune.phases.score import score_phase
from demotune.phases.stage import Stage
from demotune.phases.train import train_demonstrations_phase, train_pairs_phase
from demotune.progress import say, warn
from demotune.setup import Setup

NEARLY_SOLVED = math.log(9)
"""A mean margin at which sigmoid is 0.9: nine tenths of the logistic gradient are gone."""


def run_stage(setup: Setup, number: int) -> None:
    """Everything that stage `number` still lacks; a finished stage costs nothing."""
    stage = Stage(setup, number)
    if stage.done("check"):
        say(f"stage {number} is done already")
    elif isinstance(setup.config, SFTConfig):
        _sft(stage, setup.config)
    elif isinstance(setup.config, RFTConfig):
        _rft(stage)
    else:
        _pairwise(stage, setup.config)
    stage.free_policy()
    stage.tidy()


def _sft(stage: Stage, config: SFTConfig) -> None:
    start_phase(stage)
    train_demonstrations_phase(stage, SFTObjective(), epochs=config.num_train_epochs, steps=config.max_steps)
    check_phase(stage, beta=None)


def _pairwise(stage: Stage, config: SPINConfig | IRFTConfig) -> None:
    """One stage of Algorithm 2 of arXiv 2405.17888: freeze pi_t, sample from it, take K steps on the pairwise loss."""
    objective = pair_objective(config)
    sample_phase(stage)
    score_phase(stage)
    train_pairs_phase(stage, objective)
    check_phase(stage, beta=config.beta)
    _warn_about(stage, objective)


def _rft(stage: Stage) -> None:
    """One stage of Algorithm 1 of arXiv 2405.17888: sample from pi_t, learn the reward, improve the policy on it."""
    if stage.number == 0 and not stage.done("start"):
        say_forecast(stage)
        start_phase(stage)
    sample_phase(stage)
    reward_phase(stage)
    policy_phase(stage)
    check_policy_phase(stage)


def pair_objective(config: SPINConfig | IRFTConfig) -> PairObjective:
    """SPIN's objective has no choices: the logistic link and no SFT loss."""
    if isinstance(config, SPINConfig):
        return PairObjective(beta=config.beta, link="logistic", sft_weight=0.0)
    return PairObjective(beta=config.beta, link=config.link, sft_weight=config.sft_weight)


def _warn_about(stage: Stage, objective: PairObjective) -> None:
    state = stage.setup.folder.stage_state(stage.number)
    end = state["train"]["end"]
    margin = end.get("rewards/margins", 0.0)
    if objective.link == "logistic" and objective.beta < 0.5 and margin > NEARLY_SOLVED:
        warn(
            f"stage {stage.number} ended at a margin of {margin:.1f}: its pairwise problem is nearly solved. With beta "
            f"{objective.beta:g} < 0.5 the exact solution overshoots the demonstrations and stages diverge; take fewer "
            "steps (--steps-per-stage), a lower --learning-rate, or a larger --beta"
        )
    if state["sample"]["completions/finished_share"] < 0.5:
        warn(
            f"only {state['sample']['completions/finished_share']:.0%} of the samples of stage {stage.number} end by "
            "themselves; the reward may see little but length. Start from an SFT model, or raise --max-new-tokens"
        )
    if end.get("rewards/chosen", 0.0) < 0:
        warn(
            f"stage {stage.number} lowered the log-probability of its own demonstrations (rewards/chosen "
            f"{end['rewards/chosen']:+.2f}); a lower --learning-rate or an --sft-weight above 0 holds it up"
        )
