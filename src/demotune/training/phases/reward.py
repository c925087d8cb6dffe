"""REWARD: prefer demonstrations to samples of pi_t, learned by gradient steps, or by a linear fit."""

from collections.abc import Sequence
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
from demotune.rewards.card import reward_card
from demotune.rewards.pair_selection import both_sides
from demotune.runs.file_names import REWARD, REWARD_METRICS, REWARDS
from demotune.runs.heldout import PairCheck, check_pairs, count_wins
from demotune.runs.rows import RewardRow
from demotune.runs.shared_work import compute_rows, shared
from demotune.training import linear_reward
from demotune.training.callbacks import KeepBest, best_judgement
from demotune.training.contrast import (
    LearnedPairs,
    contrast_pairs,
    expected_pairs_of,
    learned_pairs,
    sources_of,
    usable,
)
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


def run(stage: Stage) -> Outcome:
    """Learn the reward from pairs, publish it as reward/, and give every pair of the stage its rewards."""
    train, heldout = _learned_pairs(stage)
    if with_reward(stage.setup).reward_kind == "linear":
        return _fit_line(stage, train, heldout)
    return _take_steps(stage, train, heldout)


def _take_steps(stage: Stage, train: LearnedPairs, judged: LearnedPairs) -> Outcome:
    """K steps from the previous stage's reward, stopped early by held-out pairs."""
    pairs, heldout = train.pairs, judged.pairs
    fitted = fit(stage, "reward", lambda _: _prepare(stage, pairs, heldout))
    give_back_memory()
    rewards, check = _rewards_of_all(stage, judged)
    steps = max((record["step"] for record in fitted.history), default=0)
    return Outcome(
        outputs={REWARD: None, REWARDS: lambda file: write_records(file, rewards), REWARD_METRICS: None},
        forward_tokens=_forward_tokens(stage, fitted.history, heldout),
        trained_tokens=fitted.tokens,
        facts={
            "steps": steps,
            "kept_step": best_judgement(fitted.history)["step"] if heldout else steps,
            "pairs": len(pairs),
            "equal_pairs": train.equal,
            "end": fitted.end,
            **_earned(rewards, check),
        },
        stop_requested=fitted.stop_requested,
    )


def _fit_line(stage: Stage, train: LearnedPairs, judged: LearnedPairs) -> Outcome:
    """A regression on the states of a frozen model, anew in each stage."""
    pairs, heldout = train.pairs, judged.pairs
    facts = linear_reward.fit_and_publish(stage, pairs, heldout)
    rewards, check = _rewards_of_all(stage, judged)
    scored = len(rewards) + (len(heldout) if sources_of(stage.setup.config) else 0)
    return Outcome(
        outputs={REWARD: None, REWARDS: lambda file: write_records(file, rewards)},
        forward_tokens=linear_reward.forward_tokens(stage, pairs, heldout)
        + _forward_tokens(stage, [], heldout)
        + 2 * scored * linear_reward.question_tokens(stage.setup),
        facts={**facts, "equal_pairs": train.equal, **_earned(rewards, check)},
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


def _learned_pairs(stage: Stage) -> tuple[LearnedPairs, LearnedPairs]:
    """(training pairs, held-out pairs) that the reward may see. Raises DemotuneError where they are too few."""
    config = with_reward(stage.setup)
    train, heldout = (learned_pairs(stage.setup, contrast_pairs(stage, side)) for side in (False, True))
    if train.equal:
        say(f"{stage.title}: {train.equal} of {train.every} pairs have equal sides: they are left out")
    prompts = len({pair.prompt_ids for pair in train.pairs})
    if not train.pairs or (config.reward_kind == "linear" and prompts < FEWEST):
        raise _too_few(stage, prompts, train)
    if train.unfinished:
        seen = f"{len(train.pairs)} of {train.every - train.equal} pairs train the reward"
        say(f"{stage.title}: {seen}; the others {_cut_off(stage)}")
    if heldout.unfinished and not heldout.pairs and config.reward_kind == "full":
        warn(f"no held-out sample of {stage.title} ends by itself: nothing can stop the reward's steps early")
    return train, heldout


def _too_few(stage: Stage, prompts: int, pairs: LearnedPairs) -> DemotuneError:
    """Why the reward cannot be trained, and what to do: what was left out has different remedies."""
    marker, cut = stage.setup.config.answer_after, pairs.unfinished
    found = [f"{count} {why}" for count, why in ((pairs.equal, "have equal sides"), (cut, _cut_off(stage))) if count]
    left = (
        f"{'the others' if found else 'they'} are of {prompts} prompts, and a linear reward needs {FEWEST}"
        if prompts
        else "no pair is left to train the reward on"
    )
    ways = ["give more demonstrations"] if prompts or pairs.equal else []
    if cut or not ways or with_reward(stage.setup).reward_positives == "start":
        ways.append("start from an SFT model" if marker is None else f"start from a model that writes {marker!r}")
        ways.append("raise --max-new-tokens")
    if cut and marker is None:
        ways.append("give --no-finished-only (the reward may then see only length)")
    what = [f"{stage.title} has {pairs.every} pairs", *([" and ".join(found)] if found else []), left]
    return DemotuneError(f"{'; '.join(what)}: {', or '.join(ways)}")


def _cut_off(stage: Stage) -> str:
    """What is wrong with a pair whose sample is not finished."""
    marker = stage.setup.config.answer_after
    return "were cut off" if marker is None else f"were cut off or have no answer after {marker!r}"


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
def _rewards_of_all(stage: Stage, heldout: LearnedPairs) -> tuple[Sequence[RewardRow], PairCheck | None]:
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
                usable=usable(pair, config),
                demo_reward=found[place][0],
                sample_reward=found[place][1],
                demo_length=len(pair.demo.ids),
                sample_length=len(pair.sample.ids),
            )
            for place, pair in enumerate(pairs)
        )
        rows = RecordArrays(RewardRow, rewarded)
    check = None
    if heldout.pairs:
        equal = heldout.equal
        if "policy" in config.reward_negatives:
            equal += equal_samples(stage.setup, stage.number)
        with shared(f"contrast-{name}", stage.folder):
            check = (
                _check_contrast(reward_of, heldout.pairs, equal) if sources_of(config) else _check(stage, rows, equal)
            )
    del reward_of
    give_back_memory()
    return rows, check


def _both_rewards(reward_of: RewardFunction, pairs: Sequence[Pair], places: Sequence[int]) -> list[tuple[float, float]]:
    """(reward of the demonstration, of the sample) of the pairs at these places, by one call."""
    rewards = reward_of(both_sides([pairs[place] for place in places]))
    return list(zip(rewards[: len(places)], rewards[len(places) :], strict=True))
