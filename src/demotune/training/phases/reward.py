"""REWARD: gradient steps of the reward model on pairs (demonstration, sample of pi_t)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from peft import PeftModel

from demotune.common.errors import DemotuneError
from demotune.common.json_records import as_json, write_records
from demotune.common.memory import give_back_memory
from demotune.common.processes import main_process
from demotune.common.profiling import timed
from demotune.common.progress import say, track, warn
from demotune.config.methods import RFTConfig
from demotune.models.policy import load_tokenizer, merged
from demotune.models.reward import (
    RewardFacts,
    RewardModel,
    freeze_lower_layers,
    is_reward_model,
    padding_id,
    resolve_reward,
    reward_from_policy,
    save_reward_model,
    tokenizer_for,
    with_adapter,
    with_padding,
)
from demotune.models.reward_head import completion_rewards
from demotune.records import Completion, Pair
from demotune.rewards.answer_only import answers_of, without_thoughts
from demotune.rewards.card import reward_card
from demotune.runs.heldout import PairCheck, check_pairs, count_wins
from demotune.runs.names import REWARD, REWARD_METRICS, REWARDS
from demotune.runs.rows import RewardRow
from demotune.training.callbacks import KeepBest, best_judgement
from demotune.training.fit import fit
from demotune.training.losses import loss_at_reference, reward_loss
from demotune.training.microbatches import MicrobatchPlan, config_microbatches
from demotune.training.objectives import RewardObjective, both_sides
from demotune.training.pairs import pair_lengths, sampled_pairs
from demotune.training.setup import Setup
from demotune.training.stage import Outcome, Stage, chunks, pair_tokens, with_reward
from demotune.training.trainer import ExpectedFirstValue, Fit
from demotune.training.work import PhaseWork
from demotune.training.work_plan import StagePlan, tokens_of_pair

RewardFunction = Callable[[Sequence[Completion]], list[float]]
HEAD_RATE = 0.5
"""Learning rate of a head that starts at zero, times its width: so it catches up with the layers below within some ten
steps, whatever their rate."""


def run(stage: Stage) -> Outcome:
    """K steps from the previous stage's reward, stopped early by held-out pairs; publishes reward/ and its numbers."""
    pairs, heldout = usable_pairs(stage)
    fitted = fit(stage, "reward", lambda _: _prepare(stage, pairs, heldout))
    give_back_memory()
    rewards = _rewards_of_all(stage)
    judged = [row for row in rewards if row.heldout and row.usable] or [row for row in rewards if row.usable]
    steps = max((record["step"] for record in fitted.history), default=0)
    return Outcome(
        outputs={REWARD: None, REWARDS: lambda file: write_records(file, rewards), REWARD_METRICS: None},
        forward_tokens=_forward_tokens(stage, fitted.history, heldout),
        trained_tokens=fitted.tokens,
        facts={
            "steps": steps,
            "kept_step": best_judgement(fitted.history)["step"] if heldout else steps,
            "pairs": len(pairs),
            "end": fitted.end,
            "on_heldout": bool(heldout),
            "demo_reward": sum(row.demo_reward for row in judged) / len(judged),
            "sample_reward": sum(row.sample_reward for row in judged) / len(judged),
            "check": as_json(_check(rewards)) if heldout else {},
        },
        stop_requested=fitted.stop_requested,
    )


def work(plan: StagePlan) -> PhaseWork:
    """Steps on pairs, judged every few steps on held-out pairs, each time published as if it were the best."""
    config = with_reward(plan.setup)
    own = [tokens_of_pair(row, head=False) for row in plan.own]
    heldout = plan.batched([tokens_of_pair(row, head=False) for row in plan.heldout])
    microbatches = _microbatches(config, plan.longer_sides(plan.own), plan.seed("reward-microbatches"))
    judgements = 1 + -(-microbatches.steps // config.reward_eval_steps) if plan.heldout else 0
    models = 2 if plan.whole_models and plan.number else 1  # in the first stage the policy becomes the reward
    return PhaseWork(
        scored=heldout.times(judgements + 1) + plan.batched(own),
        training=plan.training(microbatches, own),
        models=models,
        loads=models if plan.whole_models else 0,
        saves=max(judgements, 1),
    )


def _microbatches(config: RFTConfig, lengths: Sequence[int], seed: int) -> MicrobatchPlan:
    return config_microbatches(config, lengths, epochs=config.reward_epochs, steps=config.reward_steps, seed=seed)


def _forward_tokens(stage: Stage, history: Sequence[dict[str, Any]], heldout: Sequence[Pair]) -> int:
    """Judgements on held-out pairs while the reward learned, then the rewards of all pairs."""
    judgements = sum("eval_loss" in record for record in history)
    everything = [pair for side in (False, True) for pair in judged_pairs(stage, side)]
    return judgements * pair_tokens(heldout) + pair_tokens(everything)


def judged_pairs(stage: Stage, heldout: bool) -> list[Pair]:
    """The stage's pairs as the reward reads them: with `answer_after` the answers alone."""
    marker = stage.setup.answer_marker
    return [without_thoughts(pair, marker) for pair in sampled_pairs(stage.setup, stage.number, heldout)]


def usable_pairs(stage: Stage) -> tuple[list[Pair], list[Pair]]:
    """(training, held-out) pairs that the reward may see: with finished_only, both sides ended by themselves."""
    both = [judged_pairs(stage, heldout) for heldout in (False, True)]
    pairs, heldout = ([pair for pair in side if _usable(pair, with_reward(stage.setup))] for side in both)
    if not pairs:
        raise DemotuneError(
            f"no sample of stage {stage.number} ends by itself, so no pair is left to train the reward on; start from "
            "an SFT model, raise --max-new-tokens, or give --no-finished-only (the reward may then see only length)"
        )
    if len(pairs) < len(both[0]):
        say(f"stage {stage.number}: {len(pairs)} of {len(both[0])} pairs train the reward; the others were cut off")
    if both[1] and not heldout:
        warn(f"no held-out sample of stage {stage.number} ends by itself: nothing can stop the reward's steps early")
    return pairs, heldout


def _check(rewards: Sequence[RewardRow]) -> PairCheck:
    """Accuracy of the stage's reward on its held-out pairs, plain and where lengths are alike."""
    rows = [row for row in rewards if row.heldout and row.usable]
    return check_pairs(
        [(row.demo_reward, row.sample_reward) for row in rows],
        [(row.demo_length, row.sample_length) for row in rows],
    )


def reward_function(stage: Stage) -> RewardFunction:
    """The reward that the stage's reward phase published, loaded; an adapter shares the base of the stage's policy."""
    return _scorer(stage, _load(stage, stage.number))


def reward_of_drawn(stage: Stage) -> RewardFunction:
    """`reward_function` of responses as they were drawn: with `answer_after` of the answers in them."""
    reward_of, marker = reward_function(stage), stage.setup.answer_marker
    return lambda completions: reward_of(answers_of(completions, marker))


def _scorer(stage: Stage, reward: RewardModel) -> RewardFunction:
    return partial(
        completion_rewards,
        reward,
        pad_id=reward_padding(stage.setup),
        bound=with_reward(stage.setup).reward_bound,
        batch_size=2 * stage.setup.config.per_device_train_batch_size,
        bf16=stage.setup.bf16,
    )


def _usable(pair: Pair, config: RFTConfig) -> bool:
    return not config.finished_only or (pair.demo.finished and pair.sample.finished)


def _load(stage: Stage, number: int) -> RewardModel:
    """The reward of stage `number`, as a model. One that started from the policy shares its base with LoRA."""
    setup = stage.setup
    shares = setup.adapter is not None and with_reward(setup).reward_model is None
    share = stage.start_policy if shares else None
    return with_padding(setup.load_reward(setup.folder.stage(number) / REWARD, share), reward_padding(setup))


def reward_padding(setup: Setup) -> int:
    """The token id that this run's reward is padded with."""
    return padding_id(setup.tokenizer, setup.renderer.stop_ids)


def _start_reward(stage: Stage) -> RewardModel:
    """The previous stage's reward; in stage 0 the policy under a head of zeros, or the model that the user names."""
    setup, config = stage.setup, with_reward(stage.setup)
    if stage.number:
        return _load(stage, stage.number - 1)
    if config.reward_model is None:
        reward = reward_from_policy(stage.start_policy, reward_padding(setup))
        if setup.adapter is None:
            stage.free_policy()  # its weights are the reward's now
        return reward
    folder = resolve_reward(config.reward_model)
    if load_tokenizer(folder).get_vocab() != setup.tokenizer.get_vocab():
        raise DemotuneError(
            f"reward_model {config.reward_model} has another vocabulary than {config.model}: it cannot read the "
            "policy's tokens. Leave --reward-model out, or rank data with it by demotune select"
        )
    if is_reward_model(folder):
        reward = setup.load_reward(folder, None)
    else:
        reward = reward_from_policy(merged(setup.load_policy_unmerged(folder)), reward_padding(setup))
    if setup.adapter is not None:
        reward = with_adapter(reward, setup.adapter, stage.seed("reward-adapter"))
    return with_padding(reward, reward_padding(setup))


def _prepare(stage: Stage, pairs: Sequence[Pair], heldout: Sequence[Pair]) -> Fit:
    """The reward to be trained; its steps are judged on held-out pairs where there are any."""
    setup, config = stage.setup, with_reward(stage.setup)
    plan = _microbatches(config, pair_lengths(pairs), stage.seed("reward-microbatches"))
    reward = _start_reward(stage)
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
        microbatches=[[pairs[number] for number in plan.units[unit]] for unit in plan.order],
        steps=plan.steps,
        title=f"stage {stage.number}: reward",
        settings={"learning_rate": config.reward_learning_rate},
        tokenizer=tokenizer_for(reward, setup.tokenizer),
        expected_first=None if named or stage.number else at_zero,  # under a head of zeros every reward is 0
        keep_best=KeepBest(config.reward_eval_steps, config.reward_patience, publish) if heldout else None,
        finish=None if heldout else publish,
        judge=partial(_judge, _scorer(stage, reward), objective, heldout),
        rates={} if named else {"score": HEAD_RATE / reward.config.get_text_config().hidden_size},
    )


@timed("scoring")
def _judge(reward_of: RewardFunction, objective: RewardObjective, heldout: Sequence[Pair]) -> dict[str, float]:
    """Mean loss and accuracy on held-out pairs; a tie is half right."""
    rewards = reward_of(both_sides(heldout))
    demos, samples = rewards[: len(heldout)], rewards[len(heldout) :]
    losses = reward_loss(torch.tensor(demos), torch.tensor(samples), objective.link, objective.center)
    right = count_wins(list(zip(demos, samples, strict=True)))
    return {"loss": float(losses.mean()), "rewards/accuracies": right / len(heldout)}


@timed("files")
def _publish(stage: Stage, reward: RewardModel, pairs: int) -> None:
    config = with_reward(stage.setup)
    if main_process():
        facts = RewardFacts(config.reward_link, config.reward_bound, config.template, config.answer_after)
        card = reward_card(config, stage.number, pairs, adapter=isinstance(reward, PeftModel))
        save_reward_model(reward, stage.setup.tokenizer, facts, stage.folder / REWARD, card)


@timed("scoring")
def _rewards_of_all(stage: Stage) -> list[RewardRow]:
    """The published reward of every demonstration and sample of the stage, cut-off ones too."""
    config = with_reward(stage.setup)
    sides = [(heldout, pair) for heldout in (False, True) for pair in judged_pairs(stage, heldout)]
    reward_of = reward_function(stage)
    rows: list[RewardRow] = []
    with track(f"stage {stage.number}: rewards", len(sides), "pairs") as tracker:
        for batch in chunks(sides, config.per_device_train_batch_size):
            rewards = reward_of(both_sides([pair for _, pair in batch]))
            rows += [
                RewardRow(
                    key=pair.key,
                    heldout=heldout,
                    usable=_usable(pair, config),
                    demo_reward=demo,
                    sample_reward=sample,
                    demo_length=len(pair.demo.ids),
                    sample_length=len(pair.sample.ids),
                )
                for (heldout, pair), demo, sample in zip(
                    batch, rewards[: len(batch)], rewards[len(batch) :], strict=True
                )
            ]
            tracker.advance(len(batch))
    del reward_of
    give_back_memory()
    return rows
