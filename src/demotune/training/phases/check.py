"""CHECK: what the stage did to demonstrations that it was not trained on, and whether it should be kept."""

import time
from collections.abc import Sequence
from typing import Any

from demotune.common.files import read_rows, write_rows
from demotune.common.json_records import from_json
from demotune.common.processes import main_process, wait_for_everyone
from demotune.common.profiling import timed
from demotune.common.progress import track
from demotune.models.reference_logps import KnownLogps, pair_logps
from demotune.records import Completion
from demotune.runs.check import StageCheck, write_check
from demotune.runs.gate import Gate, judge_stage
from demotune.runs.heldout import (
    HeldoutRow,
    PairCheck,
    PolicyCheck,
    RewardCheck,
    check_policy,
    check_reward,
    implicit_rewards,
    nll_per_token,
)
from demotune.runs.heldout_files import best_before, read_heldout, write_heldout
from demotune.runs.names import CHECK, HELDOUT, IMPLICIT, REWARDS, START
from demotune.training.phases.heldout_rows import start_rows, trained_rows
from demotune.training.phases.pairs import known_logps, sampled_pairs, scored_pairs
from demotune.training.phases.reward import reward_function
from demotune.training.phases.stage import Stage, Work, chunks, pair_tokens, tokens_of


def start_phase(stage: Stage) -> None:
    """Held-out rows under the start model: what the first stage is compared with."""
    if stage.number or stage.done("start"):
        return
    started = time.monotonic()
    rows = start_rows(stage) if stage.setup.heldout else []
    if main_process():
        write_heldout(stage.folder / START, rows)
    wait_for_everyone()
    stage.mark("start", started, [stage.folder / START], _work(stage, [] if stage.done("sample") else rows))


def check_phase(stage: Stage, beta: float | None = None) -> None:
    """Held-out likelihood and answers of pi_{t+1}, and the gate's verdict on it.

    With `beta` also the reward that pi_{t+1} implies on samples of pi_t and of pi_0 (SPIN, IRFT). Where the
    stage has a reward model, what the answers earn by it (RFT).
    """
    if stage.done("check"):
        return
    started = time.monotonic()
    found: dict[str, Any] = {}
    outputs = [stage.folder / HELDOUT]
    work = Work()
    rows = trained_rows(stage) if stage.setup.heldout else []
    if rows:
        work = _work(stage, rows)
        found["nll_per_token"] = nll_per_token(stage.setup.heldout, [row.demo_logp for row in rows])
        if beta is not None:
            rewards, scored_tokens = _implicit(stage, beta, known_logps(stage, rows))
            found |= rewards
            work = Work(forward=work.forward + scored_tokens)
            outputs.append(stage.folder / IMPLICIT)
        if stage.done("reward"):
            if reward := stage.setup.folder.stage_state(stage.number)["reward"]["check"]:
                found["reward"] = from_json(PairCheck, reward)
            found["policy"] = _earned(stage, rows)
        found["gate"] = _gate(stage, rows)
    if main_process():
        write_heldout(stage.folder / HELDOUT, rows)
        write_check(stage.folder / CHECK, StageCheck(**found))
    wait_for_everyone()
    stage.mark("check", started, [stage.folder / CHECK, *outputs], work)


def _gate(stage: Stage, rows: Sequence[HeldoutRow]) -> Gate:
    name, before = best_before(stage.setup.folder, stage.number)
    return judge_stage(read_heldout(before), rows, name)


def _work(stage: Stage, rows: Sequence[HeldoutRow]) -> Work:
    """Demonstrations scored, and the answers of `rows` drawn."""
    demos = tokens_of((row.prompt_ids, row.demo) for row in stage.setup.heldout)
    prompts = [row.prompt_ids for row in stage.setup.heldout][: len(rows)]
    return Work(forward=demos + tokens_of(zip(prompts, (row.sample for row in rows), strict=True)))


@timed("scoring")
def _earned(stage: Stage, rows: Sequence[HeldoutRow]) -> PolicyCheck:
    """Rewards of the answers of pi_{t+1} to the held-out prompts beside those of pi_t's, by the stage's reward."""
    answers = [row.sample for row in rows]
    prompts = [row.prompt_ids for row in stage.setup.heldout]
    drawn = reward_function(stage)([Completion(*both) for both in zip(prompts, answers, strict=True)])
    before = [row for row in read_rows(stage.folder / REWARDS) if row["heldout"]]
    same = [
        pair.sample == answer
        for pair, answer in zip(sampled_pairs(stage.setup, stage.number, True), answers, strict=True)
    ]
    # Rounding depends on which rows are scored together; the same answer earns the same.
    rewards = [
        row["sample_reward"] if is_same else reward for row, reward, is_same in zip(before, drawn, same, strict=True)
    ]
    return check_policy(
        demos=[row["demo_reward"] for row in before],
        before=[row["sample_reward"] for row in before],
        after=rewards,
        answers=answers,
    )


@timed("scoring")
def _implicit(stage: Stage, beta: float, known: KnownLogps) -> tuple[dict[str, RewardCheck], int]:
    """The implicit reward against this stage's reference and, from the second stage on, against the start model.

    The first, pair by pair, is kept in a file. `known` are numbers of the trained policy. Also returns how many tokens
    were scored.
    """
    found: dict[str, RewardCheck] = {}
    tokens = 0
    checks = {"reward": stage.number} | ({"reward_since_start": 0} if stage.number else {})
    with track(f"stage {stage.number}: held-out rewards", len(stage.setup.heldout) * len(checks), "pairs") as tracker:
        for name, number in checks.items():
            pairs = scored_pairs(stage, number)[1]
            tokens += pair_tokens((scored.pair for scored in pairs), known)
            units = chunks([scored.pair for scored in pairs], stage.setup.config.per_device_train_batch_size)
            scored = pair_logps(
                stage.trained_policy,
                units,
                bf16=stage.setup.bf16,
                advance=tracker.advance,
                budget=stage.setup.config.tokens_per_microbatch,
                known=known,
            )
            rewards = implicit_rewards(pairs, [both for unit in scored for both in unit], beta)
            found[name] = check_reward(rewards, beta)
            if name == "reward" and main_process():
                keyed = zip(pairs, rewards, strict=True)
                names = ("key", "demo_reward", "sample_reward")
                write_rows(
                    stage.folder / IMPLICIT,
                    (dict(zip(names, (pair.pair.key, *both), strict=True)) for pair, both in keyed),
                )
    return found, tokens
