"""POLICY: on-policy steps that raise the learned reward, less a KL penalty to the start model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import cast

from peft import PeftModel
from torch import nn

from demotune.common.files import write_rows
from demotune.common.processes import shards_models
from demotune.common.progress import warn
from demotune.common.sequences import Joined, Mapped
from demotune.models.adapters import load_adapter_on
from demotune.models.model_folder import is_adapter
from demotune.models.packing import shared_tokens
from demotune.models.policy import Policy, weight_sharing_base
from demotune.models.sharding import copy_trained
from demotune.runs.file_names import METRICS, ROLLOUTS
from demotune.training import co_training
from demotune.training.co_training import CoTrainedReward, CoTraining, TaughtPairs
from demotune.training.drawing import keeps_logps
from demotune.training.first_value import ExpectedFirstValue
from demotune.training.fit import checkpoints_of, fit
from demotune.training.full_co_training import CoTrainedModel
from demotune.training.learned_reward import of_drawn, reward_function
from demotune.training.linear_co_training import CoTrainedLine
from demotune.training.objectives import PolicyObjective
from demotune.training.reward_gate import closed_for
from demotune.training.rollout_files import drop_damaged, read_batches
from demotune.training.rollouts import Models, RolloutPlan, Rollouts, forward_tokens
from demotune.training.setup import Setup
from demotune.training.stage import Outcome, Stage, stage_slice, with_reward
from demotune.training.trainer import EarlyStop, Fit
from demotune.training.work import Draw, PhaseWork, Training
from demotune.training.work_plan import StagePlan, tokens_of_prompts, tokens_of_responses


@dataclass(frozen=True, slots=True)
class Limits:
    """What ends a stage's policy steps; 0 is off. `longest` is in tokens, `unfinished` a share, `reward` a reward."""

    kl: float
    longest: float
    unfinished: float
    reward: float | None

    def following(self, facts: dict[str, float], margin: float) -> "Limits":
        """The same for a batch of a co-trained reward, whose demonstrations earn something else by now."""
        demo_reward = facts.get("reward_model/chosen")
        return self if self.reward is None or demo_reward is None else replace(self, reward=demo_reward + margin)


def run(stage: Stage) -> Outcome:
    """Train pi_t to pi_{t+1} on the stage's reward, or keep pi_t where the reward follows noise; publishes pi_{t+1}."""
    doubt = _doubt(stage)
    if doubt is not None and not with_reward(stage.setup).force:
        return _keep(stage, doubt)
    fitted = fit(stage, "policy", partial(_prepare, stage))
    stage.publish_policy()
    batches = read_batches(stage)
    if fitted.stopped:
        warn(f"{stage.title}: policy steps ended at batch {len(batches)}: {fitted.stopped}")
    return Outcome(
        outputs=dict.fromkeys((stage.model_folder.name, METRICS, ROLLOUTS, *co_training.outputs(stage))),
        forward_tokens=forward_tokens(stage) + co_training.forward_tokens(stage, len(batches)),
        trained_tokens=fitted.tokens + co_training.trained_tokens(stage, len(batches)),
        facts={
            "reference": stage.setup.start_hash,
            "steps": fitted.steps,
            "batches": len(batches),
            "stopped": fitted.stopped,
            "kept": None,
            "doubt": doubt,
            "first": batches[0],
            "last": batches[-1],
            "end": fitted.end,
        },
        stop_requested=fitted.stop_requested,
    )


def _doubt(stage: Stage) -> str | None:
    """Why the reward may follow noise; None where held-out pairs show that it does not, or where there are none."""
    if not stage.state["reward"]["check"]:
        warn(
            f"{stage.title}: without held-out pairs it is not known whether the reward is better than chance; "
            "policy steps follow it all the same"
        )
        return None
    reason = closed_for(stage)
    if reason is not None and with_reward(stage.setup).force:
        warn(f"{stage.title}: {reason}; policy steps follow it all the same (--force)")
    return reason


def _keep(stage: Stage, reason: str) -> Outcome:
    """Publish pi_{t+1} = pi_t."""
    warn(f"{stage.title} keeps its policy: {reason}; --force takes policy steps all the same")
    stage.publish_policy()
    return Outcome(
        outputs={stage.model_folder.name: None, METRICS: lambda file: write_rows(file, [])},
        facts={
            "reference": stage.setup.start_hash,
            "steps": 0,
            "batches": 0,
            "stopped": None,
            "kept": reason,
            "doubt": reason,
            "first": {},
            "last": {},
            "end": {},
        },
    )


def work(plan: StagePlan) -> PhaseWork:
    """Draw, score by start model and reward, take steps; batch after batch.

    As if the reward were found to be worth it. The policy scores, too, where responses come without log-probabilities;
    for gae it gives hidden states.
    """
    config = with_reward(plan.setup)
    ids = _prompts(plan.setup, plan.number)
    prompts = [*map(len, ids)]
    rollouts = RolloutPlan.of(config, len(prompts), plan.setup.processes)
    response = fmean(row.sample for row in plan.own)
    size = rollouts.responses / rollouts.mini_batches / rollouts.microbatches  # responses of a micro-batch
    prompt, answers = fmean(prompts), config.num_generations
    group = tokens_of_responses(prompt, [response] * answers, per_prompt=min(answers, size))
    beside = max(size / answers, 1.0)  # groups of a micro-batch
    group = replace(group, computed=group.computed - plan.shared * (1 - 1 / beside))
    groups = rollouts.batches * config.prompts_per_batch
    by_head, without = 1 if keeps_logps(plan.setup) else 2, 2 if config.advantage == "gae" else 1
    passes = group.times(by_head) + replace(group, positions=0.0).times(without)
    passes += co_training.expected_tokens(plan, group)
    prefill = tokens_of_prompts(prompts, shared_tokens(ids), answers * len(prompts)).times(groups / len(prompts))
    slots = min(config.sample_batch_size, rollouts.responses)
    models = 3 if plan.whole_models else 1
    learning = config.reward_every is not None and config.reward_kind == "full" and plan.whole_models
    return PhaseWork(
        draws=(Draw(groups * answers, prompt, response, slots, prefill),),
        scored=passes.times(groups),
        training=co_training.expected_training(
            plan,
            Training(
                tokens=group.times(groups * config.num_iterations),
                largest=group.times(size / answers),
                steps=rollouts.steps,
                microbatches=rollouts.batches * rollouts.microbatches_per_batch,
            ),
            groups * answers,
        ),
        models=models + (3 if learning else 0),  # its gradients and its optimizer's state take three times its weights
        loads=models,
        saves=1,
    )


def _prompts(setup: Setup, number: int) -> Sequence[tuple[int, ...]]:
    """Those that are drawn for: of the stage's demonstrations, then those without one."""
    return Joined(Mapped(lambda row: row.prompt_ids, stage_slice(setup, number)), setup.prompts)


def guard(facts: dict[str, float], limits: Limits) -> None:
    """Raise EarlyStop when a batch's facts are beyond the limits."""
    kl, length = facts["objective/kl"], facts["completions/mean_length"]
    cut_off, reward = facts["completions/clipped_ratio"], facts["reward"]
    if limits.kl and kl > limits.kl:
        raise EarlyStop(
            f"the KL to the start model is {kl:.1f} nats per response, the limit {limits.kl:g} (--stop-kl); a larger "
            "--beta or a lower --learning-rate keeps the policy nearer"
        )
    if limits.longest and length > limits.longest:
        raise EarlyStop(
            f"responses have {length:.0f} tokens on average, the limit is {limits.longest:.0f} (--stop-length-ratio); "
            "the reward may pay for length"
        )
    if limits.unfinished and cut_off > limits.unfinished:
        raise EarlyStop(
            f"{cut_off:.0%} of the responses are cut off, the limit is {limits.unfinished:.0%} (--stop-unfinished); a "
            "larger --missing-eos-penalty holds them back"
        )
    if limits.reward is not None and reward > limits.reward:
        raise EarlyStop(
            f"samples earn a reward of {reward:.2f} on average, the limit is {limits.reward:.2f}, what demonstrations "
            "earn plus --stop-reward-margin: the policy exploits the reward"
        )


def _limits(stage: Stage) -> Limits:
    """The guard rails of a stage, from its demonstrations, its first samples and its reward."""
    config, state = with_reward(stage.setup), stage.state
    rows = stage_slice(stage.setup, stage.number)
    demo_length = sum(len(row.demo.ids) for row in rows) / len(rows)
    usual_length = max(demo_length, state["sample"]["completions/mean_length"])
    cut_off = 1 - state["sample"]["completions/finished_share"]
    return Limits(
        kl=config.stop_kl,
        longest=config.stop_length_ratio * usual_length,
        unfinished=cut_off + config.stop_unfinished if config.stop_unfinished else 0.0,
        reward=state["reward"]["demo_reward"] + config.stop_reward_margin if config.stop_reward_margin else None,
    )


def _reference(stage: Stage) -> Policy:
    """pi_0, which the KL is taken to: with LoRA it shares the policy's base weights, else it is a second model."""
    setup = stage.setup
    if setup.adapter is None:
        reference = setup.load(setup.start_model)
    else:
        base = weight_sharing_base(cast(PeftModel, stage.start_policy))
        reference = load_adapter_on(base, setup.start_model) if is_adapter(setup.start_model) else base
    return reference.requires_grad_(False)


def _co_training(stage: Stage, budget: int | None) -> CoTraining | None:
    """What the reward learns between batches, where it does."""
    config, taught = with_reward(stage.setup), TaughtPairs(stage)
    if config.reward_every is None:
        return None
    reward: CoTrainedReward = (
        CoTrainedLine(stage, taught)
        if config.reward_kind == "linear"
        else CoTrainedModel(
            stage, taught, steps_per_batch=config.num_iterations * config.num_mini_batches, budget=budget
        )
    )
    return CoTraining(reward, taught, config.reward_every)


def _finish(stage: Stage, trained: Policy, learning: CoTraining | None) -> None:
    copy_trained(cast(nn.Module, trained), cast(nn.Module, stage.start_policy))
    if learning:
        learning.finish(stage)


def _prepare(stage: Stage, budget: int | None) -> Fit:
    """The policy with its on-policy batches, which `guard` looks at before their first update.

    Where the policy is sharded, each process draws from a plain one that follows it: responses end at different times.
    """
    setup, config, limits = stage.setup, with_reward(stage.setup), _limits(stage)
    learning, drawn_from = _co_training(stage, budget), stage.start_policy
    trained = setup.load(setup.policy_folder(stage.number)) if shards_models() else drawn_from
    models = Models(
        policy=drawn_from,
        trained=trained,
        reference=_reference(stage),
        reward_of=of_drawn(learning.reward if learning else reward_function(stage), setup.answer_marker),
        co_training=learning,
    )
    rollouts = Rollouts(
        stage,
        models,
        prompts=_prompts(setup, stage.number),
        check=lambda facts: guard(facts, limits.following(facts, config.stop_reward_margin)),
        budget=budget,
    )
    plan = rollouts.plan
    drop_damaged(stage, stage.folder / checkpoints_of("policy"), plan.iterations * plan.mini_batches)
    return Fit(
        model=trained,
        objective=PolicyObjective(config.epsilon, "sequence" if config.advantage == "rloo" else "token"),
        microbatches=rollouts,
        steps=plan.steps,
        title=f"{stage.title}: policy",
        microbatches_of_step=plan.microbatches,
        expected_first=ExpectedFirstValue("|log| of the probability ratio", 0.0, 1e-2),
        facts=lambda: rollouts.facts,
        finish=partial(_finish, stage, trained, learning),
    )
