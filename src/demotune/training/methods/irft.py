"""IRFT (Algorithm 2 of arXiv 2405.17888): freeze pi_t, sample from it, take K steps on the pairwise loss; T times."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from demotune.common.progress import warn
from demotune.config.methods import IRFTConfig
from demotune.training.methods.method import Method, Phase
from demotune.training.objectives import PairObjective, PairwiseObjective, TripletObjective
from demotune.training.phases import check, reference, sample, start, train
from demotune.training.stage import Stage, pairwise

NEARLY_SOLVED = math.log(9)
"""A mean margin at which sigmoid is 0.9: nine tenths of the logistic gradient are gone."""


def pairwise_phases(objective: Callable[[Any], PairwiseObjective]) -> tuple[Phase, ...]:
    """The phases of a method that prefers demonstrations to samples; `objective` makes its loss of its config."""
    return (
        Phase("sample", sample.run, sample.work),
        Phase("start", start.run, start.work, first_stage_only=True),
        Phase("reference", reference.run, reference.work),
        Phase("train", partial(train.on_pairs, objective=objective), train.work_on_pairs),
        Phase("check", check.run, check.work),
    )


def objective(config: IRFTConfig) -> PairObjective | TripletObjective:
    """The loss of the chosen link, and the weighted SFT loss of the demonstrations."""
    if config.link == "tspin":
        return TripletObjective(beta=config.beta, weight=config.tspin_weight)
    return PairObjective(beta=config.beta, link=config.link, sft_weight=config.sft_weight)


def warn_about_pairs(stage: Stage) -> None:
    """Warn where a stage has nearly solved its pairs, its samples were cut off, or its demonstrations lost."""
    config, end, sampled = pairwise(stage.setup), stage.state["train"]["end"], stage.state["sample"]
    margin, finished = end.get("rewards/margins", 0.0), sampled["completions/finished_share"]
    if config.link == "logistic" and config.beta < 0.5 and margin > NEARLY_SOLVED:
        warn(
            f"{stage.title} ended at a margin of {margin:.1f}: its pairwise problem is nearly solved. With beta "
            f"{config.beta:g} < 0.5 the exact solution overshoots the demonstrations and stages diverge; take fewer "
            "steps (--steps-per-stage), a lower --learning-rate, or a larger --beta"
        )
    if finished < 0.5 and config.answer_after is not None:
        warn(
            f"only {finished:.0%} of the samples of {stage.title} have an answer after {config.answer_after!r} and end "
            "by themselves. Start from a model that writes it, or raise --max-new-tokens"
        )
    elif finished < 0.5:
        warn(
            f"only {finished:.0%} of the samples of {stage.title} end by themselves; the reward may see little "
            "but length. Start from an SFT model, or raise --max-new-tokens"
        )
    if config.link != "tspin" and end.get("rewards/chosen", 0.0) < 0:
        ways = ["a lower --learning-rate"]
        if isinstance(config, IRFTConfig) and not config.interpolicy:
            ways.append("an --sft-weight above 0" if config.sft_weight == 0 else "a larger --sft-weight")
        warn(
            f"{stage.title} lowered the log-probability of its own demonstrations (rewards/chosen "
            f"{end['rewards/chosen']:+.2f}); {' or '.join(ways)} holds it up"
        )


IRFT = Method(config=IRFTConfig, phases=pairwise_phases(objective), warn=warn_about_pairs)
