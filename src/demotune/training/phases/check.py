"""CHECK: what the stage did to demonstrations that it was not trained on, and whether it should be kept."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from demotune.common.files import write_json
from demotune.common.json_records import as_json, from_json, read_records, write_records
from demotune.common.profiling import timed
from demotune.common.progress import track, warn
from demotune.models.batches import Advance
from demotune.models.reference_logps import pair_logps
from demotune.records import Completion, Pair, Response, Side
from demotune.rewards.answer_only import answers_of, without_thought
from demotune.runs.check import StageCheck
from demotune.runs.file_names import CHECK, HELDOUT, IMPLICIT, stage_title
from demotune.runs.gate import judge_stage
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
from demotune.runs.heldout_files import best_before, rows_before
from demotune.runs.rows import ImplicitRow
from demotune.runs.shared_work import compute_rows, shared
from demotune.training.heldout_rows import heldout_tokens, trained_rows
from demotune.training.learned_reward import reward_function
from demotune.training.pairs import equal_samples, expected_tokens, heldout_units, known_logps, repeated, scored_pairs
from demotune.training.stage import Outcome, Stage, Write, pair_tokens, pairwise
from demotune.training.work import PhaseWork
from demotune.training.work_plan import StagePlan, tokens_of_responses


def run(stage: Stage) -> Outcome:
    """Held-out likelihood and answers of pi_{t+1}, and the gate's verdict on it.

    Where the reward is implicit also the one that pi_{t+1} implies on samples of pi_t and of pi_0 (SPIN, IRFT); where
    it is a model, what the answers earn by it (RFT).
    """
    kind, rows = stage.setup.config.learned_reward, trained_rows(stage) if stage.setup.heldout else []
    found: dict[str, Any] = {}
    outputs: dict[str, Write | None] = {
        CHECK: lambda file: write_json(file, as_json(StageCheck(**found))),
        HELDOUT: lambda file: write_records(file, rows),
    }
    forward = 0
    if rows:
        forward = heldout_tokens(stage, rows)
        found["nll_per_token"] = nll_per_token(stage.setup.heldout, [row.demo_logp for row in rows])
        if kind == "implicit":
            checks, implicit, tokens = _implicit(stage, known_logps(stage, rows))
            found |= checks
            forward += tokens
            outputs[IMPLICIT] = lambda file: write_records(file, implicit)
        elif kind == "explicit":
            if reward := stage.state["reward"]["check"]:
                found["reward"] = from_json(PairCheck, reward)
            found["policy"] = _earned(stage, rows)
        name, before = best_before(stage.setup.folder, stage.number)
        found["gate"] = judge_stage(read_records(HeldoutRow, before), rows, name)
    return Outcome(outputs=outputs, forward_tokens=forward)


def work(plan: StagePlan) -> PhaseWork:
    """Answers and scores of the trained policy; rewards of held-out pairs by what the method has for a reward."""
    rows, scored, models = plan.heldout, plan.scored_demos(plan.heldout), 1
    kind = plan.setup.config.learned_reward
    if kind == "explicit":
        models = 2 if plan.whole_models else 1
        answers = [tokens_of_responses(row.prompt, [row.demo, row.sample, row.sample], head=False) for row in rows]
        scored += replace(plan.batched(answers), counted=0.0)  # a run does not count these
    elif kind == "implicit":
        against = 2 if plan.number else 1  # this stage's reference, and from the second stage on the start model
        pairs = expected_tokens(plan, repeated(plan, rows), demo=not plan.setup.float32)
        scored += plan.batched(pairs).times(against)
    return PhaseWork(draws=plan.draws(rows), scored=scored, models=models, loads=models if rows else 0)


@timed("scoring")
def _earned(stage: Stage, rows: Sequence[HeldoutRow]) -> PolicyCheck:
    """Rewards of the answers of pi_{t+1} to the held-out prompts beside those of pi_t's, by the stage's reward.

    One answer a prompt, all scored in one call: rounding depends on which rows are scored together, and so the same
    answer earns the same.
    """
    answers = [row.response for row in rows]
    before = [row.response for row in rows_before(stage.setup.folder, stage.number)]
    prompts = [row.prompt_ids for row in stage.setup.heldout]
    marker = stage.setup.answer_marker
    drawn = [_asked(prompts, responses) for responses in (before, answers)]
    demos = _asked(prompts, [row.demo for row in stage.setup.heldout])
    asked = [[without_thought(demo, marker) for demo in demos], *(answers_of(kind, marker) for kind in drawn)]
    different = list(dict.fromkeys(completion for kind in asked for completion in kind))
    with shared("check-rewards", stage.folder):
        rewards = dict(zip(different, reward_function(stage)(different), strict=True))
    of_demos, of_before, of_answers = ([rewards[completion] for completion in kind] for kind in asked)
    return check_policy(demos=of_demos, before=of_before, after=of_answers, answers=answers)


def _asked(prompts: Sequence[tuple[int, ...]], responses: Sequence[Response]) -> list[Completion]:
    return [Completion(*both) for both in zip(prompts, responses, strict=True)]


@timed("scoring")
def _implicit(stage: Stage, known: Mapping[Side, float]) -> tuple[dict[str, RewardCheck], list[ImplicitRow], int]:
    """The implicit reward against this stage's reference and, from the second stage on, against the start model.

    `known` are numbers of the trained policy. Returns (what was found, the first reward pair by pair, how many tokens
    were scored).
    """
    config = pairwise(stage.setup)
    found: dict[str, RewardCheck] = {}
    by_pair: list[ImplicitRow] = []
    tokens = 0
    checks = {"reward": stage.number} | ({"reward_since_start": 0} if stage.number else {})
    heldout = {name: scored_pairs(stage, number)[1] for name, number in checks.items()}
    total = sum(map(len, heldout.values()))
    with track(f"{stage.title}: held-out rewards", total, "pairs") as tracker:
        for name, number in checks.items():
            pairs = [scored.pair for scored in heldout[name]]
            if not pairs:
                warn(
                    f"all held-out samples of {stage_title(number)} give the same answers as their demonstrations: its "
                    "reward cannot be judged"
                )
                continue
            units = heldout_units(stage.setup, pairs)
            tokens += sum(pair_tokens((pairs[place] for place in unit), known) for unit in units)
            scored = _scored(stage, f"check-{name}", pairs, known, tracker.advance)
            rewards = implicit_rewards(heldout[name], scored, config.beta)
            prompts = [pair.prompt_ids for pair in pairs]
            found[name] = check_reward(rewards, prompts, config.beta, equal=equal_samples(stage.setup, number))
            if number == stage.number:
                by_pair = [ImplicitRow(pair.key, *both) for pair, both in zip(pairs, rewards, strict=True)]
    return found, by_pair, tokens


def _scored(
    stage: Stage, name: str, pairs: Sequence[Pair], known: Mapping[Side, float], advance: Advance
) -> list[tuple[float, float]]:
    """(log pi(y | x), log pi(sample | x)) of each held-out pair under the trained policy, shared among processes."""

    def logps(unit: Sequence[int]) -> list[tuple[float, float]]:
        return pair_logps(
            stage.trained_policy,
            [pairs[place] for place in unit],
            bf16=stage.setup.bf16,
            budget=pairwise(stage.setup).tokens_per_microbatch,
            known=known,
        )

    with shared(name, stage.folder):
        found = compute_rows(heldout_units(stage.setup, pairs), logps, advance)
    demos_and_samples = (found[place] for place in range(len(pairs)))
    return [(demo, sample) for demo, sample in demos_and_samples]
