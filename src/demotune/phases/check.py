"""CHECK: what the stage did to demonstrations that it was not trained on."""

import dataclasses
import time

from demotune.files import read_rows, write_json
from demotune.heldout import PolicyCheck, check_policy, check_reward, nll_per_token
from demotune.models import Policy
from demotune.phases.pairs import sampled_pairs, scored_pairs
from demotune.phases.reward import REWARDS, reward_function
from demotune.phases.sample import draw_with
from demotune.phases.stage import Stage, chunks
from demotune.processes import main_process, wait_for_everyone
from demotune.progress import track
from demotune.records import Completion
from demotune.scoring import score_demonstrations, score_pairs


def start_phase(stage: Stage) -> None:
    """Held-out likelihood of the start model, for methods that score no samples of it."""
    if stage.done("start"):
        return
    started = time.monotonic()
    found = (
        {"nll_per_token": _heldout_nll(stage, stage.start_policy, "start model: held-out")}
        if stage.setup.heldout
        else {}
    )
    if main_process():
        write_json(stage.folder / "start.json", found)
    wait_for_everyone()
    stage.mark("start", started, [stage.folder / "start.json"])


def check_phase(stage: Stage, beta: float | None) -> None:
    """Held-out likelihood of pi_{t+1} and, with `beta`, the reward it implies on fresh samples of pi_t and of pi_0."""
    if stage.done("check"):
        return
    started = time.monotonic()
    found: dict[str, object] = {}
    if stage.setup.heldout:
        if beta is None:
            found = {"nll_per_token": _heldout_nll(stage, stage.trained_policy, "held-out")}
        else:
            found = _heldout_rewards(stage, beta)
    if main_process():
        write_json(stage.folder / "check.json", found)
    wait_for_everyone()
    stage.mark("check", started, [stage.folder / "check.json"])


def check_policy_phase(stage: Stage) -> None:
    """RFT: held-out likelihood of pi_{t+1}, its reward's accuracy, and what its answers to held-out prompts earn."""
    if stage.done("check"):
        return
    started = time.monotonic()
    found: dict[str, object] = {}
    if stage.setup.heldout:
        found["nll_per_token"] = _heldout_nll(stage, stage.trained_policy, f"stage {stage.number}: held-out")
        if reward := stage.setup.folder.stage_state(stage.number)["reward"]["check"]:
            found["reward"] = reward
        found["policy"] = dataclasses.asdict(_earned(stage))
    if main_process():
        write_json(stage.folder / "check.json", found)
    wait_for_everyone()
    stage.mark("check", started, [stage.folder / "check.json"])


def _earned(stage: Stage) -> PolicyCheck:
    """Rewards of fresh answers of pi_{t+1} to the held-out prompts beside those of pi_t's, by the stage's reward."""
    rows = stage.setup.heldout
    with track(f"stage {stage.number}: held-out answers", len(rows), "responses") as tracker:
        answers = draw_with(
            stage, lambda: stage.trained_policy, [row.prompt_ids for row in rows], purpose="check", tracker=tracker
        )
    completions = [Completion(row.prompt_ids, answer) for row, answer in zip(rows, answers, strict=True)]
    drawn = reward_function(stage)(completions)
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


def _heldout_nll(stage: Stage, policy: Policy, what: str) -> float:
    rows, size = stage.setup.heldout, stage.setup.config.per_device_train_batch_size
    with track(what, len(rows), "rows") as tracker:
        logps = score_demonstrations(policy, rows, size, bf16=stage.setup.bf16, advance=tracker.advance)
    return nll_per_token(rows, logps)


def _heldout_rewards(stage: Stage, beta: float) -> dict[str, object]:
    """The implicit reward against this stage's reference and, from the second stage on, against the start model."""
    found: dict[str, object] = {}
    checks = {"reward": stage.number} | ({"reward_since_start": 0} if stage.number else {})
    with track(f"stage {stage.number}: held-out", len(stage.setup.heldout) * len(checks), "pairs") as tracker:
        for name, number in checks.items():
            pairs = scored_pairs(stage, number)[1]
            units = chunks([scored.pair for scored in pairs], stage.setup.config.per_device_train_batch_size)
            scored = score_pairs(stage.trained_policy, units, bf16=stage.setup.bf16, advance=tracker.advance)
            logps = [both for unit in scored for both in unit]
            found["nll_per_token"] = nll_per_token(stage.setup.heldout, [demo for demo, _ in logps])
            found[name] = dataclasses.asdict(check_reward(pairs, logps, beta))
    return found
