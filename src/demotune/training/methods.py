"""SFT, SPIN, IRFT and RFT: each a schedule of phases and a choice of objective."""

import math

from demotune.common.progress import say, warn
from demotune.config.methods import IRFTConfig, RFTConfig, SFTConfig, SPINConfig
from demotune.runs.gate import Gate
from demotune.training.objectives import PairObjective, SFTObjective
from demotune.training.phases.check import check_phase, start_phase
from demotune.training.phases.policy import policy_phase
from demotune.training.phases.reward import reward_phase
from demotune.training.phases.sample import sample_phase
from demotune.training.phases.score import score_phase
from demotune.training.phases.stage import Stage
from demotune.training.phases.train import train_demonstrations_phase, train_pairs_phase
from demotune.training.setup import Setup

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
    _say_gate(stage)


def stopped_by_gate(setup: Setup, number: int) -> bool:
    """Whether the run ends after stage `number` because the stage made things worse and the gate is to stop it."""
    return setup.config.gate == "stop" and (gate := _gate_of(setup, number)) is not None and gate.verdict == "worse"


def _gate_of(setup: Setup, number: int) -> Gate | None:
    """What the gate says of a finished stage; None without held-out rows, or when the gate is off."""
    return None if setup.config.gate == "off" else setup.folder.stage_check(number).gate


def _say_gate(stage: Stage) -> None:
    gate = _gate_of(stage.setup, stage.number)
    if gate is None:
        return
    say(
        f"gate: {_verdict_text(gate, stage.number)} nats per held-out demonstration, likelier in "
        f"{gate.wins.text()} of {gate.prompts} (95% intervals)",
        style="yellow" if gate.verdict == "worse" else None,
    )
    for warning in gate.warnings:
        warn(f"stage {stage.number}: {warning}")


def _verdict_text(gate: Gate, number: int) -> str:
    """The verdict with the gain that it rests on."""
    verdict, before, gain = gate.verdict, gate.compared_with, gate.gain.text()
    if verdict in ("better", "worse"):
        return f"stage {number} is {verdict} than {before}: {gain}"
    if verdict == "no clear change":
        return f"no clear change from {before} to stage {number}: {gain}"
    return f"{verdict} (n = {gate.prompts}) whether stage {number} is better than {before}: {gate.gain.value:.2f}"


def _sft(stage: Stage, config: SFTConfig) -> None:
    start_phase(stage)
    train_demonstrations_phase(stage, SFTObjective(), epochs=config.num_train_epochs, steps=config.max_steps)
    check_phase(stage)


def _pairwise(stage: Stage, config: SPINConfig | IRFTConfig) -> None:
    """One stage of Algorithm 2 of arXiv 2405.17888: freeze pi_t, sample from it, take K steps on the pairwise loss."""
    objective = pair_objective(config)
    sample_phase(stage)
    start_phase(stage)
    score_phase(stage)
    train_pairs_phase(stage, objective)
    check_phase(stage, beta=config.beta)
    _warn_about(stage, objective)


def _rft(stage: Stage) -> None:
    """One stage of Algorithm 1 of arXiv 2405.17888: sample from pi_t, learn the reward, improve the policy on it."""
    sample_phase(stage)
    start_phase(stage)
    reward_phase(stage)
    policy_phase(stage)
    check_phase(stage)


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
