"""The linear reward of a stage: hidden states of a frozen model, a regression on them, a classifier that is kept."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, cast

from peft import PeftModel
from transformers import PreTrainedModel

from demotune.common.json_records import as_json
from demotune.common.memory import give_back_memory
from demotune.common.processes import main_process, wait_for_everyone
from demotune.common.profiling import timed
from demotune.common.progress import say, track
from demotune.common.record_arrays import RecordArrays
from demotune.models.policy import merged, weight_sharing_base
from demotune.models.question import Question, as_question
from demotune.models.reward import is_reward_model, save_reward_model
from demotune.records import Completion, Pair
from demotune.rewards.card import linear_reward_card
from demotune.rewards.linear import Columns, LinearReward, PairColumns, fit_linear_reward, pair_columns
from demotune.rewards.pair_selection import distinct_sides, select_pairs
from demotune.runs.file_names import REWARD
from demotune.runs.shared_work import shared
from demotune.training.contrast import sources_of
from demotune.training.learned_reward import named_model, on_base_of_policy, reward_padding
from demotune.training.pairs import repeated
from demotune.training.setup import Setup
from demotune.training.stage import Stage, tokens_of, with_reward
from demotune.training.work import PhaseWork, Tokens
from demotune.training.work_plan import RowSizes, StagePlan, tokens_of_responses


def question_of(setup: Setup) -> Question | None:
    """What the run's reward reads after each response."""
    text = with_reward(setup).reward_question
    return None if text is None else as_question(setup.tokenizer, text)


def question_tokens(setup: Setup) -> int:
    asked = question_of(setup)
    return len(asked.ids) if asked else 0


def fit_and_publish(stage: Stage, pairs: Sequence[Pair], heldout: Sequence[Pair]) -> Mapping[str, Any]:
    """Fit the reward on a frozen model's states, publish reward/; what was found, for state.json."""
    setup, config = stage.setup, with_reward(stage.setup)
    columns = Columns(config.reward_features, question_of(setup))
    backbone = _backbone(stage)
    train, judged = (_columns_of(stage, backbone, side, columns, what) for side, what in _sides(pairs, heldout))
    reward = fit_linear_reward(train, judged, columns)
    _publish(stage, reward, backbone)
    del backbone
    give_back_memory()
    on = f"{reward.heldout_prompts} held-out prompts" if reward.heldout_prompts else "prompts left out of the fit"
    say(f"{stage.title}: reward of {len(reward.weights)} weights, accuracy on {on} {reward.accuracy.text()}")
    return {
        "steps": 0,
        "pairs": reward.pairs,
        "l2": reward.l2,
        "accuracy": as_json(reward.accuracy),
        "heldout_prompts": reward.heldout_prompts,
        "end": {},
    }


def forward_tokens(stage: Stage, pairs: Sequence[Pair], heldout: Sequence[Pair]) -> int:
    """Of the states that a fit is made on: each side of a differing pair once, the question after it."""
    sides = [side for each in (pairs, heldout) for side in distinct_sides(select_pairs(each).pairs)]
    written = tokens_of((side.prompt_ids, side.response) for side in sides)
    return written + len(sides) * question_tokens(stage.setup)


def work(plan: StagePlan, own: Sequence[RowSizes], heldout: Sequence[RowSizes]) -> PhaseWork:
    """Hidden states of all sides of the pairs to learn from, then the rewards of pairs to judge it by."""
    extra = question_tokens(plan.setup)
    contrast = heldout if sources_of(plan.setup.config) else ()
    judged = (repeated(plan, plan.own), repeated(plan, plan.heldout), contrast)
    sides = (_sides_of(rows, extra) for rows in (own, heldout, *judged))
    scored = plan.batched(RecordArrays(Tokens, chain.from_iterable(sides)))
    loads = 0 if on_base_of_policy(plan.setup) else 2
    return PhaseWork(scored=scored, loads=loads, saves=1)


def _sides_of(rows: Sequence[RowSizes], extra: int) -> Iterator[Tokens]:
    """The sample of each pair, and with the first one of a row its demonstration."""
    before = None
    for row in rows:
        sample = row.sample + extra
        written = [sample] if row.row == before else [row.demo + extra, sample]
        yield tokens_of_responses(row.prompt, written, head=False)
        before = row.row


def _sides(pairs: Sequence[Pair], heldout: Sequence[Pair]) -> list[tuple[Sequence[Pair], str]]:
    return [(pairs, "states"), (heldout, "held-out states")]


def _backbone(stage: Stage) -> PreTrainedModel:
    """The start model, or the one that the user names, on which nothing is trained."""
    setup, config = stage.setup, with_reward(stage.setup)
    if on_base_of_policy(setup):
        return weight_sharing_base(cast(PeftModel, stage.start_policy))
    stage.free_policy()  # one model in memory
    folder = setup.start_model if config.reward_model is None else named_model(setup, config.reward_model)
    if is_reward_model(folder):
        return merged(setup.load_reward(folder, None))
    return merged(setup.load_policy_unmerged(folder))


@timed("scoring")
def _columns_of(
    stage: Stage, backbone: PreTrainedModel, pairs: Sequence[Pair], columns: Columns, what: str
) -> PairColumns:
    sides: list[Completion] = distinct_sides(select_pairs(pairs).pairs)
    with track(f"{stage.title}: {what}", len(sides), "responses") as tracker, shared("states", None):
        return pair_columns(
            backbone,
            pairs,
            columns,
            pad_id=reward_padding(stage.setup),
            bf16=stage.setup.bf16,
            advance=tracker.advance,
        )


@timed("files")
def _publish(stage: Stage, reward: LinearReward, backbone: PreTrainedModel) -> None:
    if main_process():
        setup, config = stage.setup, with_reward(stage.setup)
        facts = replace(reward.facts(config.template), answer_after=config.answer_after)
        card = linear_reward_card(
            config.reward_model or config.model,
            f"demotune's RFT in {stage.title}",
            ", ".join(config.data),
            reward.pairs,
            facts,
        )
        model = reward.as_head(backbone, reward_padding(setup))
        save_reward_model(model, setup.tokenizer, facts, stage.folder / REWARD, card)
    wait_for_everyone()
