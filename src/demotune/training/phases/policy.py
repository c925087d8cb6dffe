"""POLICY: on-policy steps that raise the learned reward, less a KL penalty to the start model."""

import dataclasses
import time
from functools import partial
from typing import Any, cast

from peft import PeftModel

from demotune.common.processes import main_process, process_count, wait_for_everyone
from demotune.common.progress import warn
from demotune.models.adapters import load_adapter_on
from demotune.models.files import is_adapter
from demotune.models.policy import Policy, save_policy, weight_sharing_base
from demotune.runs.names import CHECKPOINTS, METRICS, ROLLOUTS
from demotune.training.callbacks import Checkpoints, WriteMetrics, quiet
from demotune.training.objectives import PolicyObjective
from demotune.training.phases.reward import reward_function
from demotune.training.phases.rollout_files import drop_damaged, read_batches
from demotune.training.phases.rollouts import Rollouts, forward_tokens
from demotune.training.phases.stage import Stage, Work, stage_slice, with_reward
from demotune.training.phases.train import average_of_last
from demotune.training.smaller_passes import in_smaller_passes
from demotune.training.trainer import AtStart, Interrupted, PhaseTrainer, train_phase, training_arguments


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """What ends a stage's policy steps; 0 is off. `longest` is in tokens, `unfinished` a share, `reward` a reward."""

    kl: float
    longest: float
    unfinished: float
    reward: float | None


class PolicyStop(Exception):  # noqa: N818 (no error: a stage may end so)
    """A guard rail ended the policy steps of a stage; the message says why."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Trained:
    """What became of the policy steps: records, steps and tokens, why a guard rail ended them, Ctrl-C or not."""

    history: list[dict[str, Any]]
    steps: int
    tokens: int
    stopped: str | None
    stop_requested: bool


def policy_phase(stage: Stage) -> None:
    """Train pi_t to pi_{t+1} on the stage's reward; publishes the policy."""
    if stage.done("policy"):
        return
    started = time.monotonic()
    setup = stage.setup
    trained = in_smaller_passes(partial(_train, stage), setup.config.tokens_per_microbatch, stage.free_policy)
    if main_process():
        save_policy(stage.start_policy, setup.tokenizer, stage.model_folder)  # trained in place
    stage.free_policy()
    wait_for_everyone()
    batches = read_batches(stage)
    if trained.stopped:
        warn(f"stage {stage.number}: policy steps ended at batch {len(batches)}: {trained.stopped}")
    stage.mark(
        "policy",
        started,
        [stage.model_folder, stage.folder / METRICS, stage.folder / ROLLOUTS],
        Work(forward=forward_tokens(stage), trained=trained.tokens),
        reference=setup.start_hash,
        steps=trained.steps,
        batches=len(batches),
        stopped=trained.stopped,
        first=batches[0],
        last=batches[-1],
        end=average_of_last(trained.history),
    )
    if trained.stop_requested:
        raise Interrupted


def guard(facts: dict[str, float], limits: Limits) -> None:
    """Raise PolicyStop when a batch's facts are beyond the limits."""
    kl, length = facts["objective/kl"], facts["completions/mean_length"]
    cut_off, reward = facts["completions/clipped_ratio"], facts["reward"]
    if limits.kl and kl > limits.kl:
        raise PolicyStop(
            f"the KL to the start model is {kl:.1f} nats per response, the limit {limits.kl:g} (--stop-kl); a larger "
            "--beta or a lower --learning-rate keeps the policy nearer"
        )
    if limits.longest and length > limits.longest:
        raise PolicyStop(
            f"responses have {length:.0f} tokens on average, the limit is {limits.longest:.0f} (--stop-length-ratio); "
            "the reward may pay for length"
        )
    if limits.unfinished and cut_off > limits.unfinished:
        raise PolicyStop(
            f"{cut_off:.0%} of the responses are cut off, the limit is {limits.unfinished:.0%} (--stop-unfinished); a "
            "larger --missing-eos-penalty holds them back"
        )
    if limits.reward is not None and reward > limits.reward:
        raise PolicyStop(
            f"samples earn a reward of {reward:.2f} on average, the limit is {limits.reward:.2f}, what demonstrations "
            "earn plus --stop-reward-margin: the policy exploits the reward"
        )


def _limits(stage: Stage) -> Limits:
    """The guard rails of a stage, from its demonstrations, its first samples and its reward."""
    config = with_reward(stage.setup)
    state = stage.setup.folder.stage_state(stage.number)
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


def _train(stage: Stage, budget: int | None) -> _Trained:
    setup, config, limits = stage.setup, with_reward(stage.setup), _limits(stage)
    rollouts = Rollouts(
        stage,
        policy=stage.start_policy,
        reference=_reference(stage),
        reward_of=reward_function(stage),
        prompts=[*(row.prompt_ids for row in stage_slice(setup, stage.number)), *setup.prompts],
        check=lambda facts: guard(facts, limits),
        budget=budget,
    )
    layout, checkpoints = rollouts.layout, stage.folder / f"policy-{CHECKPOINTS}"
    drop_damaged(stage, checkpoints, layout.iterations * layout.mini_batches)
    arguments = dataclasses.replace(config, gradient_accumulation_steps=layout.microbatches // process_count())
    trainer = PhaseTrainer(
        model=stage.start_policy,
        args=training_arguments(arguments, checkpoints, layout.steps, stage.seed("policy")),
        objective=PolicyObjective(config.epsilon, "sequence" if config.advantage == "rloo" else "token"),
        microbatches=rollouts,
        tokenizer=setup.tokenizer,
        at_start=AtStart("|log| of the probability ratio", 0.0, 1e-2),
        callbacks=[WriteMetrics(stage.folder / METRICS), Checkpoints(config.save_steps), *setup.callbacks],
        facts=lambda: rollouts.facts,
        budget=budget,
    )
    quiet(trainer)
    stopped = None
    try:
        train_phase(trainer, what=f"stage {stage.number}: policy", total_steps=layout.steps, checkpoints=checkpoints)
    except PolicyStop as reason:
        stopped = str(reason)
        trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    state = trainer.state
    history = [dict(record) for record in state.log_history if "loss" in record]
    return _Trained(history, state.global_step, state.num_input_tokens_seen, stopped, trainer.stop_requested)
