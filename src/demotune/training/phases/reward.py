"""REWARD: prefer demonstrations to samples of pi_t, learned by gradient steps, or by a linear fit."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from peft import PeftModel

from demotune.common.errors import DemotuneError
from demotune.common.files import folder_hash
from demotune.common.json_records import as_json, write_records
from demotune.common.memory import give_back_memory
from demotune.common.processes import main_process
from demotune.common.profiling import timed
from demotune.common.progress import say, track, warn
from demotune.common.record_arrays import RecordArrays
from demotune.common.sequences import Joined
from demotune.common.statistics import FEWEST
from demotune.config.methods import RFTConfig
from demotune.models.reward import (
    RewardModel,
    freeze_lower_layers,
    is_reward_model,
    resolve_reward,
    save_reward_model,
    tokenizer_for,
)
from demotune.models.sharding import full_weights
from demotune.records import Pair
from demotune.rewards.answer_only import equal_answers, pairs_of_answers
from demotune.rewards.card import reward_card
from demotune.rewards.pair_selection import both_sides
from demotune.runs.file_names import REWARD, REWARD_METRICS, REWARDS
from demotune.runs.heldout import PairCheck, check_pairs, count_wins
from demotune.runs.rows import RewardRow
from demotune.runs.shared_work import compute_rows, shared
from demotune.training import linear_reward
from demotune.training.callbacks import KeepBest, best_judgement
from demotune.training.contrast import contrast_pairs, expected_pairs_of, sources_of
from demotune.training.first_value import ExpectedFirstValue
from demotune.training.fit import fit
from demotune.training.learned_reward import (
    RewardFunction,
    full_facts,
    reward_function,
    reward_padding,
    scorer,
    start_reward,
)
from demotune.training.losses import loss_at_reference, reward_loss
from demotune.training.microbatches import Microbatches, MicrobatchPlan, Numbers, config_microbatches
from demotune.training.objectives import RewardObjective
from demotune.training.pairs import (
    equal_samples,
    expected_tokens,
    pair_groups,
    pair_lengths,
    repeated,
    rewarded_pairs,
    size_groups,
)
from demotune.training.setup import Setup
from demotune.training.stage import Outcome, Stage, chunks, pair_tokens, with_reward
from demotune.training.trainer import Fit
from demotune.training.work import PhaseWork
from demotune.training.work_plan import StagePlan

HEAD_RATE = 0.5
"""Learning rate of a head that starts at zero, times its width: so it catches up with the layers below within some ten
steps, whatever their rate."""


@dataclass(frozen=True, slots=True)
class _UsablePairs:
    """Pairs that the reward may see: their sides differ and, with `finished_only`, ended by themselves."""

    train: Sequence[Pair]
    heldout: Sequence[Pair]
    equal: int
    """Training pairs with samples of other models than the policy that were left out because their sides are equal."""
    equal_heldout: int
    """Likewise, and the policy's held-out samples that equal their demonstration, if it learns from the policy's."""


def run(stage: Stage) -> Outcome:
    """Learn the reward from pairs, publish it as reward/, and give every pair of the stage its rewards."""
    usable = _usable_pairs(stage)
    if with_reward(stage.setup).reward_kind == "linear":
        return _fit_line(stage, usable)
    return _take_steps(stage, usable)


def _take_steps(stage: Stage, usable: _UsablePairs) -> Outcome:
    """K steps from the previous stage's reward, stopped early by held-out pairs."""
    pairs, heldout = usable.train, usable.heldout
    fitted = fit(stage, "reward", lambda _: _prepare(stage, pairs, heldout))
    give_back_memory()
    rewards, check = _rewards_of_all(stage, usable)
    steps = max((record["step"] for record in fitted.history), default=0)
    return Outcome(
        outputs={REWARD: None, REWARDS: lambda file: write_records(file, rewards), REWARD_METRICS: None},
        forward_tokens=_forward_tokens(stage, fitted.history, heldout),
        trained_tokens=fitted.tokens,
        facts={
            "steps": steps,
            "kept_step": best_judgement(fitted.history)["step"] if heldout else steps,
            "pairs": len(pairs),
            "equal_pairs": usable.equal,
            "end": fitted.end,
            **_earned(rewards, check),
        },
        stop_requested=fitted.stop_requested,
    )


def _fit_line(stage: Stage, usable: _UsablePairs) -> Outcome:
    """A regression on the states of a frozen model, anew in each stage."""
    pairs, heldout = usable.train, usable.heldout
    facts = linear_reward.fit_and_publish(stage, pairs, heldout)
    rewards, check = _rewards_of_all(stage, usable)
    judged = len(rewards) + (len(heldout) if sources_of(stage.setup.config) else 0)
    return Outcome(
        outputs={REWARD: None, REWARDS: lambda file: write_records(file, rewards)},
        forward_tokens=linear_reward.forward_tokens(stage, pairs, heldout)
        + _forward_tokens(stage, [], heldout)
        + 2 * judged * linear_reward.question_tokens(stage.setup),
        facts={**facts, "equal_pairs": usable.equal, **_earned(rewards, check)},
    )


def _earned(rewards: Sequence[RewardRow], check: PairCheck | None) -> dict[str, object]:
    """What demonstrations and samples earn, and how often the first earn more; on held-out pairs if there are any."""
    # No row is usable where only other models' samples end.
    judged = max((row.usable, row.heldout) for row in rewards)
    both = ((row.demo_reward, row.sample_reward) for row in rewards if (row.usable, row.heldout) == judged)
    demo, sample = np.fromiter(both, np.dtype((float, 2))).mean(axis=0).tolist()
    return {
        "on_heldout": check is not None,
        "demo_reward": demo,
        "sample_reward": sample,
        "check": as_json(check) if check else {},
    }


def work(plan: StagePlan) -> PhaseWork:
    """Steps on pairs, judged every few steps on held-out pairs, each time published as if it were the best."""
    config = with_reward(plan.setup)
    learned = [expected_pairs_of(plan, rows) for rows in (plan.own, plan.heldout)]
    if config.reward_kind == "linear":
        return linear_reward.work(plan, *learned)
    own, heldout = (expected_tokens(plan, rows, head=False) for rows in learned)
    judged = plan.batched(heldout)
    every = plan.batched(expected_tokens(plan, repeated(plan, Joined(plan.own, plan.heldout)), head=False))
    seed = plan.seed("reward-microbatches")
    microbatches = _microbatches(plan.setup, plan.longer_sides(learned[0]), size_groups(learned[0]), seed)
    judgements = 1 + -(-microbatches.steps // config.reward_eval_steps) if plan.heldout else 0
    models = 2 if plan.whole_models and plan.number else 1  # in the first stage the policy becomes the reward
    return PhaseWork(
        scored=judged.times(judgements + bool(sources_of(config))) + every,
        training=plan.training(microbatches, own),
        models=models,
        loads=models if plan.whole_models else 0,
        saves=max(judgements, 1),
    )


def _microbatches(setup: Setup, lengths: Numbers, groups: Numbers, seed: int) -> MicrobatchPlan:
    config = with_reward(setup)
    return config_microbatches(
        setup, lengths, groups=groups, epochs=config.reward_epochs, steps=config.reward_steps, seed=seed
    )


def _forward_tokens(stage: Stage, history: Sequence[dict[str, Any]], heldout: Sequence[Pair]) -> int:
    """Judgements on held-out pairs while the reward learned, then the rewards of all pairs."""
    judgements = sum("eval_loss" in record for record in history)
    both = rewarded_pairs(stage)
    return (judgements + bool(sources_of(stage.setup.config))) * pair_tokens(heldout) + sum(map(pair_tokens, both))


def _usable_pairs(stage: Stage) -> _UsablePairs:
    config, marker = with_reward(stage.setup), stage.setup.answer_marker
    every = [contrast_pairs(stage, heldout) for heldout in (False, True)]
    differing = [RecordArrays(Pair, (pair for pair in side if not equal_answers(pair, marker))) for side in every]
    both = [pairs_of_answers(side, marker) for side in differing]
    pairs, heldout = (RecordArrays(Pair, (pair for pair in side if _usable(pair, config))) for side in both)
    equal, equal_heldout = (len(some) - len(kept) for some, kept in zip(every, differing, strict=True))
    if equal:
        say(f"{stage.title}: {equal} of {len(every[0])} pairs have equal sides: they are left out")
    prompts, cut = len({pair.prompt_ids for pair in pairs}), len(both[0]) - len(pairs)
    if not pairs or (config.reward_kind == "linear" and prompts < FEWEST):
        raise _too_few(stage, prompts, len(every[0]), equal, cut)
    if cut:
        say(f"{stage.title}: {len(pairs)} of {len(both[0])} pairs train the reward; the others were cut off")
    if both[1] and not heldout and config.reward_kind == "full":
        warn(f"no held-out sample of {stage.title} ends by itself: nothing can stop the reward's steps early")
    if "policy" in config.reward_negatives:
        equal_heldout += equal_samples(stage.setup, stage.number)
    return _UsablePairs(pairs, heldout, equal, equal_heldout)


def _too_few(stage: Stage, prompts: int, pairs: int, equal: int, cut: int) -> DemotuneError:
    """Why the reward cannot be trained: so many of the pairs have equal sides, or were cut off."""
    left_out = [f"{count} {why}" for count, why in ((equal, "have equal sides"), (cut, "were cut off")) if count]
    needed = (
        f"they are of {prompts} prompts, and a linear reward needs {FEWEST}"
        if prompts
        else "no pair is left to train the reward on"
    )
    ways = ["give more demonstrations"] if prompts or equal else []
    if cut:
        ways += ["start from an SFT model", "raise --max-new-tokens"]
        ways.append("give --no-finished-only (the reward may then see only length)")
    lost = f", of which {' and '.join(left_out)}" if left_out else ""
    return DemotuneError(f"{stage.title} has {pairs} pairs{lost}: {needed}; {', or '.join(ways)}")


def _check(stage: Stage, rewards: Sequence[RewardRow], equal: int) -> PairCheck:
    """Accuracy of the stage's reward on its held-out pairs, plain and where lengths are alike."""
    rows = [row for row in rewards if row.heldout and row.usable]
    prompts = {row.key: row.prompt_ids for row in stage.setup.heldout}
    return check_pairs(
        [(row.demo_reward, row.sample_reward) for row in rows],
        [(row.demo_length, row.sample_length) for row in rows],
        [prompts[row.key] for row in rows],
        equal=equal,
    )


def _check_contrast(reward_of: RewardFunction, pairs: Sequence[Pair], equal: int) -> PairCheck:
    """Likewise on pairs with samples of other models than the policy."""
    rewards = reward_of(both_sides(pairs))
    return check_pairs(
        list(zip(rewards[: len(pairs)], rewards[len(pairs) :], strict=True)),
        [(len(pair.demo.ids), len(pair.sample.ids)) for pair in pairs],
        [pair.prompt_ids for pair in pairs],
        equal=equal,
    )


def _usable(pair: Pair, config: RFTConfig) -> bool:
    return not config.finished_only or (pair.demo.finished and pair.sample.finished)


def _prepare(stage: Stage, pairs: Sequence[Pair], heldout: Sequence[Pair]) -> Fit:
    """The reward to be trained; its steps are judged on held-out pairs where there are any."""
    setup, config = stage.setup, with_reward(stage.setup)
    plan = _microbatches(setup, pair_lengths(pairs), pair_groups(pairs), stage.seed("reward-microbatches"))
    reward = start_reward(stage)
    freeze_lower_layers(reward, config.reward_frozen_layers)
    objective = RewardObjective(
        config.reward_link, config.reward_bound, config.center_rewards_coefficient, reward_padding(setup)
    )
    named = config.reward_model is not None and is_reward_model(resolve_reward(config.reward_model))
    at_zero = ExpectedFirstValue("reward loss", loss_at_reference(config.reward_link), 1e-6)
    publish = partial(_publish, stage, reward, len(pairs))
    return Fit(
        model=reward,
        objective=objective,
        microbatches=Microbatches(plan, pairs),
        steps=plan.steps,
        title=f"{stage.title}: reward",
        settings={"learning_rate": config.reward_learning_rate},
        tokenizer=tokenizer_for(reward, setup.tokenizer),
        expected_first=None if named or stage.number else at_zero,  # under a head of zeros every reward is 0
        keep_best=KeepBest(config.reward_eval_steps, config.reward_patience, publish) if heldout else None,
        finish=None if heldout else publish,
        judge=partial(_judge, scorer(stage, reward, full_facts(config)), objective, heldout),
        rates={} if named else {"score": HEAD_RATE / reward.config.get_text_config().hidden_size},
    )


@timed("scoring")
def _judge(reward_of: RewardFunction, objective: RewardObjective, heldout: Sequence[Pair]) -> dict[str, float]:
    """Mean loss and accuracy on held-out pairs; a tie is half right."""
    with shared("judge", None):
        rewards = reward_of(both_sides(heldout))
    demos, samples = rewards[: len(heldout)], rewards[len(heldout) :]
    losses = reward_loss(torch.tensor(demos), torch.tensor(samples), objective.link, objective.center)
    right = count_wins(list(zip(demos, samples, strict=True)))
    return {"loss": float(losses.mean()), "rewards/accuracies": right / len(heldout)}


@timed("files")
def _publish(stage: Stage, reward: RewardModel, pairs: int) -> None:
    config, weights = with_reward(stage.setup), full_weights(reward)
    if main_process():
        facts = full_facts(config)
        card = reward_card(config, stage.number, pairs, adapter=isinstance(reward, PeftModel))
        save_reward_model(reward, stage.setup.tokenizer, facts, stage.folder / REWARD, card, weights=weights)


@timed("scoring")
def _rewards_of_all(stage: Stage, learned: _UsablePairs) -> tuple[Sequence[RewardRow], PairCheck | None]:
    """The published reward of every demonstration and sample of the stage, cut-off ones too.

    And its accuracy on the held-out pairs of the kind that it learned from; None where there are none.
    """
    config = with_reward(stage.setup)
    own, judged = rewarded_pairs(stage)
    pairs = Joined(own, judged)
    reward_of = reward_function(stage)
    batches = chunks(range(len(pairs)), config.per_device_train_batch_size)
    name = f"rewards-{folder_hash(stage.folder / REWARD)[:12]}"  # a phase that goes on may publish another reward
    with track(f"{stage.title}: rewards", len(pairs), "pairs") as tracker, shared(name, stage.folder):
        found = compute_rows(batches, partial(_both_rewards, reward_of, pairs), tracker.advance)
        rewarded = (
            RewardRow(
                key=pair.key,
                heldout=place >= len(own),
                usable=_usable(pair, config),
                demo_reward=found[place][0],
                sample_reward=found[place][1],
                demo_length=len(pair.demo.ids),
                sample_length=len(pair.sample.ids),
            )
            for place, pair in enumerate(pairs)
        )
        rows = RecordArrays(RewardRow, rewarded)
    check = None
    if learned.heldout:
        with shared(f"contrast-{name}", stage.folder):
            check = (
                _check_contrast(reward_of, learned.heldout, learned.equal_heldout)
                if sources_of(config)
                else _check(stage, rows, learned.equal_heldout)
            )
    del reward_of
    give_back_memory()
    return rows, check


def _both_rewards(reward_of: RewardFunction, pairs: Sequence[Pair], places: Sequence[int]) -> list[tuple[float, float]]:
    """(reward of the demonstration, of the sample) of the pairs at these places, by one call."""
    rewards = reward_of(both_sides([pairs[place] for place in places]))
    return list(zip(rewards[: len(places)], rewards[len(places) :], strict=True))
