"""The one trainer: micro-batch plans, exact scaling, the check of the first loss, metrics, carried optimizers."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.micro import (
    END,
    largest_difference,
    letter_tokenizer,
    parameters,
    random_demonstrations,
    random_pairs,
    scored,
    tiny_lm,
    train,
)
from helpers.tiny import save_tiny, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, PreTrainedModel, TrainerCallback

from demotune import IRFTConfig, run
from demotune.common.errors import DemotuneError
from demotune.common.files import read_rows, seal
from demotune.config.links import Link
from demotune.models.attention import ATTENTION, register_attention
from demotune.models.logprobs import naive_response_logps
from demotune.models.policy import load_policy
from demotune.records import Pair, RenderedDemonstration, Response, ScoredPair
from demotune.runs.file_names import CARRIED
from demotune.training.callbacks import WHOLE, Checkpoints, WriteMetrics, latest_checkpoint
from demotune.training.carried_optimizer import Carry
from demotune.training.first_value import ExpectedFirstValue, check_first_value
from demotune.training.losses import loss_at_reference
from demotune.training.microbatches import MicrobatchPlan, plan_microbatches
from demotune.training.objectives import Objective, PairObjective, SFTObjective

PAIRS = PairObjective(beta=0.5, link="logistic", sft_weight=0.3)
LOG2 = 0.6931471805599453


def cut(records: Sequence[Any], sizes: Sequence[int]) -> list[list[Any]]:
    """Records in micro-batches of the given sizes."""
    remaining = iter(records)
    return [[next(remaining) for _ in range(size)] for size in sizes]


def off_policy_pairs(seed: int, count: int) -> list[ScoredPair]:
    """Pairs whose reference is another model than the one that is trained."""
    return scored(tiny_lm(seed=9), [random_pairs(seed, count)])[0]


# Plans ---------------------------------------------------------------------------------------------------------------


def as_lists(plan: MicrobatchPlan) -> tuple[list[list[int]], list[int], int]:
    """A plan as what can be compared."""
    return [*plan.units], plan.order.tolist(), plan.steps


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=60),
    batch_size=st.integers(1, 7),
    accumulation=st.integers(1, 4),
    passes=st.integers(1, 3),
    seed=st.integers(0, 5),
)
def test_every_record_is_trained_once_per_pass_beside_the_same_records(
    lengths: list[int], batch_size: int, accumulation: int, passes: int, seed: int
) -> None:
    arguments: dict[str, Any] = {"batch_size": batch_size, "accumulation": accumulation, "steps": None, "seed": seed}
    plan = plan_microbatches(lengths, epochs=float(passes), **arguments)
    assert sorted(record for unit in plan.units for record in unit) == list(range(len(lengths)))
    assert [len(unit) for unit in plan.units[:-1]] == [batch_size] * (len(plan.units) - 1)
    assert 1 <= len(plan.units[-1]) <= batch_size
    count = len(plan.units)
    assert count == math.ceil(len(lengths) / batch_size)
    assert len(plan.order) == passes * count
    for start in range(0, len(plan.order), count):
        assert sorted(plan.order[start : start + count]) == list(range(count))
    assert plan.steps == math.ceil(passes * count / accumulation)
    assert as_lists(plan_microbatches(lengths, epochs=float(passes), **arguments)) == as_lists(plan)
    # A longer plan begins with the shorter one: members and order of a pass do not depend on how many follow.
    longer = plan_microbatches(lengths, epochs=passes + 1.0, **arguments)
    assert [*longer.units] == [*plan.units]
    assert [*longer.order[: len(plan.order)]] == [*plan.order]


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=20), batch_size=st.integers(1, 7), seed=st.integers(0, 5))
def test_pairs_of_one_demonstration_stay_together(sizes: list[int], batch_size: int, seed: int) -> None:
    """Groups that fit are in one micro-batch, larger ones in as few as can be, and no micro-batch is too large."""
    groups = [group for group, size in enumerate(sizes) for _ in range(size)]
    plan = plan_microbatches(
        [5 + group % 3 for group in groups],
        batch_size=batch_size,
        accumulation=1,
        epochs=1.0,
        steps=None,
        seed=seed,
        groups=groups,
    )
    assert sorted(record for unit in plan.units for record in unit) == list(range(len(groups)))
    assert all(len(unit) <= batch_size for unit in plan.units)
    for group, size in enumerate(sizes):
        holding = [unit for unit in plan.units if any(groups[record] == group for record in unit)]
        assert len(holding) == math.ceil(size / batch_size)


def test_groups_of_one_are_planned_as_records_without_groups() -> None:
    lengths = [1 + (37 * number) % 64 for number in range(50)]
    settings: dict[str, Any] = {"batch_size": 8, "accumulation": 2, "epochs": 2.0, "steps": None, "seed": 1}
    grouped, single = plan_microbatches(lengths, groups=range(50), **settings), plan_microbatches(lengths, **settings)
    assert as_lists(grouped) == as_lists(single)


def test_another_seed_is_another_plan_and_passes_differ_in_order() -> None:
    one, other = (
        plan_microbatches([5] * 40, batch_size=4, accumulation=1, epochs=2.0, steps=None, seed=seed) for seed in (0, 1)
    )
    assert [*one.units] != [*other.units]
    assert [*one.order[:10]] != [*one.order[10:]]


@pytest.mark.parametrize(
    ("epochs", "steps", "accumulation", "microbatches", "optimizer_steps"),
    [
        (1.0, None, 1, 10, 10),
        (1.0, None, 4, 10, 3),  # the last step has two micro-batches
        (0.25, None, 1, 2, 2),  # 2.5 micro-batches, to the even number
        (2.5, None, 1, 25, 25),
        (1.5, None, 2, 15, 8),
        (0.001, None, 3, 1, 1),  # at least one
        (9.0, 4, 3, 12, 4),  # steps override epochs
        (9.0, 7, 3, 21, 7),  # more than two passes
    ],
)
def test_how_many_microbatches_and_steps(
    epochs: float, steps: int | None, accumulation: int, microbatches: int, optimizer_steps: int
) -> None:
    """20 records in micro-batches of 2."""
    plan = plan_microbatches([3] * 20, batch_size=2, accumulation=accumulation, epochs=epochs, steps=steps, seed=0)
    assert (len(plan.order), plan.steps) == (microbatches, optimizer_steps)
    most, least = max(Counter(plan.order).values()), min(Counter(plan.order).get(unit, 0) for unit in range(10))
    assert most - least <= 1  # no micro-batch gets ahead of another by more than one pass


def test_records_of_like_length_stand_together() -> None:
    """Lengths 1 to 64 shuffled, one window of 8 micro-batches of 8: each micro-batch spans 8 lengths, none more."""
    lengths = [1 + (37 * number) % 64 for number in range(64)]
    plan = plan_microbatches(lengths, batch_size=8, accumulation=1, epochs=1.0, steps=None, seed=3)
    for unit in plan.units:
        assert max(lengths[record] for record in unit) - min(lengths[record] for record in unit) == 7


# Exact scaling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objective", "records"),
    [(SFTObjective(), random_demonstrations(1, 7)), (PAIRS, off_policy_pairs(1, 7))],
    ids=["sft", "pairs"],
)
@pytest.mark.parametrize("max_grad_norm", [0.0, 0.5], ids=["free", "clipped"])
def test_uneven_microbatches_equal_one_big_batch(
    tmp_path: Path, objective: Objective[Any], records: list[Any], max_grad_norm: float
) -> None:
    """One SGD step at rate 0.1: every parameter within 1e-6, the logged loss within 1e-5; it is a mean over items."""
    one, many = tiny_lm(), tiny_lm()
    start = parameters(one)
    _, [together] = train(one, objective, [records], tmp_path / "one", max_grad_norm=max_grad_norm)
    _, [apart] = train(
        many,
        objective,
        cut(records, [1, 4, 2]),
        tmp_path / "many",
        max_grad_norm=max_grad_norm,
        gradient_accumulation_steps=3,
    )
    assert largest_difference(parameters(one), start) > 1e-3
    assert largest_difference(parameters(one), parameters(many)) < 1e-6
    batch = objective.collate(records)
    expected = float(objective(tiny_lm(), batch).total / batch["items"])
    assert together["loss"] == pytest.approx(expected, abs=1e-5)
    assert apart["loss"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("budget", [1, 20, 40])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_budget_of_tokens_changes_no_step(tmp_path: Path, budget: int, accumulation: int) -> None:
    """Cut to single pairs, to a few, or not at all: the same parameters, losses and counted tokens after two steps."""
    microbatches = cut(off_policy_pairs(1, 7), [4, 3])
    sizes = [[PAIRS.tokens(pair) for pair in pairs] for pairs in microbatches]
    assert max(map(sum, sizes)) > 40  # so that every budget cuts something
    whole, parts = tiny_lm(), tiny_lm()
    settings = {"gradient_accumulation_steps": accumulation}
    one, losses = train(whole, PAIRS, microbatches, tmp_path / "whole", **settings)
    other, found = train(parts, PAIRS, microbatches, tmp_path / "parts", tokens_per_microbatch=budget, **settings)
    assert largest_difference(parameters(whole), parameters(parts)) < 1e-6
    assert [record["loss"] for record in found] == pytest.approx([record["loss"] for record in losses], abs=1e-5)
    assert one.state.num_input_tokens_seen == other.state.num_input_tokens_seen > sum(map(sum, sizes))


def test_steps_equal_a_plain_loop_also_where_the_last_one_is_short(tmp_path: Path) -> None:
    """Three micro-batches, two per step: SGD on mean NLL per token of each step, written out; 1e-6."""
    rows = random_demonstrations(2, 6)
    trained, plain = tiny_lm(), tiny_lm()
    trainer, history = train(
        trained,
        SFTObjective(),
        cut(rows, [2, 1, 3]),
        tmp_path,
        gradient_accumulation_steps=2,
        max_grad_norm=0.0,
    )
    assert trainer.state.global_step == len(history) == 2
    for step in (rows[:3], rows[3:]):
        logps = [naive_response_logps(plain, row.prompt_ids, row.demo.ids) for row in step]
        (-torch.cat(logps).mean()).backward()
        with torch.no_grad():
            for parameter in plain.parameters():
                parameter.sub_(0.1 * parameter.grad)
                parameter.grad = None
    assert largest_difference(parameters(trained), parameters(plain)) < 1e-6


@pytest.mark.parametrize("attention", ["eager", ATTENTION])
def test_activation_checkpointing_changes_nothing(tmp_path: Path, attention: str) -> None:
    """Two SGD steps with and without: 1e-6."""
    register_attention()
    one, other = tiny_lm(attention=attention), tiny_lm(attention=attention)
    for number, (model, recompute) in enumerate([(one, False), (other, True)]):
        train(
            model,
            PAIRS,
            cut(off_policy_pairs(3, 4), [2, 2]),
            tmp_path / str(number),
            activation_checkpointing=recompute,
        )
    assert largest_difference(parameters(one), parameters(other)) < 1e-6


# The first loss of a stage -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", ["logistic", "nce", "linear"])
@pytest.mark.parametrize(("bf16", "tolerance"), [(False, 1e-5), (True, 1e-3)], ids=["float32", "bfloat16"])
def test_a_stage_starts_at_its_known_loss(tmp_path: Path, link: Link, bf16: bool, tolerance: float) -> None:
    """log 2, 2 log 2 and 0 for every pair, within 1e-5 in float32 and 1e-3 under bfloat16 autocast."""
    expected = {"logistic": LOG2, "nce": 2 * LOG2, "linear": 0.0}[link]
    model, microbatches = tiny_lm(), cut(random_pairs(4, 5), [3, 2])
    records = scored(model, microbatches, bf16)
    _, history = train(
        model,
        PairObjective(beta=0.1, link=link, sft_weight=0.0),
        records,
        tmp_path,
        expected_first=ExpectedFirstValue("loss", loss_at_reference(link), tolerance),
        bf16=bf16,
        learning_rate=2.0,
    )
    assert history[0]["loss"] == pytest.approx(expected, abs=tolerance)
    assert abs(history[1]["loss"] - expected) > 1e-3  # only the first: by then the policy has moved


@pytest.mark.parametrize("link", ["logistic", "nce"])
def test_scores_of_another_policy_stop_the_stage(tmp_path: Path, link: Link) -> None:
    objective = PairObjective(beta=0.1, link=link, sft_weight=0.0)
    model = tiny_lm()
    start = parameters(model)
    with pytest.raises(DemotuneError, match=r"the first loss of the stage is \d.*scores of another policy"):
        train(
            model,
            objective,
            [off_policy_pairs(5, 3)],
            tmp_path,
            expected_first=ExpectedFirstValue("loss", loss_at_reference(link), 1e-5),
        )
    assert largest_difference(parameters(model), start) == 0  # before any update


def test_one_wrong_score_by_a_hundredth_of_a_nat_stops_the_stage(tmp_path: Path) -> None:
    model = tiny_lm()
    [records] = scored(model, [random_pairs(6, 3)])
    first = records[0]
    records[0] = ScoredPair(first.pair, first.demo_ref_logp + 0.01, first.sample_ref_logp)
    with pytest.raises(DemotuneError, match=r"it must be 0.693147 within 1e-05"):
        train(model, PAIRS, [records], tmp_path, expected_first=ExpectedFirstValue("loss", LOG2, 1e-5))


def test_active_dropout_stops_the_stage(tmp_path: Path) -> None:
    """A reference scored without dropout, a policy that trains with it."""
    model = tiny_lm("gpt2", dropout=0.1)
    [records] = scored(model, [random_pairs(7, 3)])
    with pytest.raises(DemotuneError, match="active dropout"):
        train(model, PAIRS, [records], tmp_path, expected_first=ExpectedFirstValue("loss", LOG2, 1e-5))


def test_a_model_with_dropout_starts_at_log_two_once_it_is_loaded_by_us(tmp_path: Path) -> None:
    tiny_lm("gpt2", dropout=0.1).save_pretrained(tmp_path / "model")
    model = loaded(tmp_path / "model")
    records = scored(model, [random_pairs(7, 3)])
    _, history = train(model, PAIRS, records, tmp_path, expected_first=ExpectedFirstValue("loss", LOG2, 1e-5))
    assert history[0]["rewards/margins"] == pytest.approx(0, abs=1e-5)


def loaded(folder: Path) -> PreTrainedModel:
    policy = load_policy(folder, dtype="float32", attn_implementation="eager", device=torch.device("cpu"))
    assert isinstance(policy, PreTrainedModel)
    return policy


@pytest.mark.parametrize("off_by", [-2e-5, 2e-5])
def test_first_loss_tolerance_counts_on_both_sides(off_by: float) -> None:
    check_first_value(LOG2 + off_by / 4, ExpectedFirstValue("loss", LOG2, 1e-5))
    with pytest.raises(DemotuneError):
        check_first_value(LOG2 + off_by, ExpectedFirstValue("loss", LOG2, 1e-5))


# Losses that are no numbers ------------------------------------------------------------------------------------------


class PoisonAfter(TrainerCallback):
    """Sets one weight to NaN after a step, as an overflow would."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.global_step == self._step:
            model.get_output_embeddings().weight.data[3, 0] = math.nan


@pytest.mark.parametrize("objective", [SFTObjective(), PAIRS], ids=["sft", "pairs"])
def test_a_loss_that_is_no_number_stops_with_its_batch(tmp_path: Path, objective: Objective[Any]) -> None:
    records: list[Any] = random_demonstrations(8, 6) if isinstance(objective, SFTObjective) else off_policy_pairs(8, 6)
    microbatches = cut(records, [2, 2, 2])
    with pytest.raises(DemotuneError, match=r"the loss became nan at step 2; its batch is saved in .*bad-batch\.json"):
        train(tiny_lm(), objective, microbatches, tmp_path, callbacks=[PoisonAfter(1)])
    saved = json.loads((tmp_path / "bad-batch.json").read_text())
    assert saved["input_ids"] == objective.collate(microbatches[1])["input_ids"].tolist()


# Metrics -------------------------------------------------------------------------------------------------------------

TRAINER_NAMES = {"loss", "grad_norm", "learning_rate", "epoch", "step", "num_input_tokens_seen", "train_runtime"}
OUR_NAMES = {"num_tokens", "tokens_per_second", "peak_memory_gib"}


def sequence_logp(model: PreTrainedModel, prompt: tuple[int, ...], response: Response) -> float:
    with torch.no_grad():
        return float(naive_response_logps(model, prompt, response.ids).sum())


def test_metrics_of_a_step_have_the_names_and_values_of_trl(tmp_path: Path) -> None:
    """Three pairs in micro-batches of 2 and 1: every number is a mean over the three, from unpadded passes; 1e-5."""
    records, model = off_policy_pairs(9, 3), tiny_lm()
    demo = [sequence_logp(model, r.pair.prompt_ids, r.pair.demo) for r in records]
    sample = [sequence_logp(model, r.pair.prompt_ids, r.pair.sample) for r in records]
    demo_rewards = [0.5 * (logp - r.demo_ref_logp) for logp, r in zip(demo, records, strict=True)]
    sample_rewards = [0.5 * (logp - r.sample_ref_logp) for logp, r in zip(sample, records, strict=True)]
    margins = [one - other for one, other in zip(demo_rewards, sample_rewards, strict=True)]
    objective = PairObjective(beta=0.5, link="logistic", sft_weight=0.0)
    _, [found] = train(model, objective, cut(records, [2, 1]), tmp_path, gradient_accumulation_steps=2)
    expected = {
        "loss": sum(math.log1p(math.exp(-margin)) for margin in margins) / 3,
        "rewards/chosen": sum(demo_rewards) / 3,
        "rewards/rejected": sum(sample_rewards) / 3,
        "rewards/margins": sum(margins) / 3,
        "rewards/accuracies": sum(margin > 0 for margin in margins) / 3,
        "logps/chosen": sum(demo) / 3,
        "logps/rejected": sum(sample) / 3,
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-5), name
    assert set(found) - TRAINER_NAMES == set(expected) - {"loss"} | {"entropy"} | OUR_NAMES
    assert found["num_tokens"] == sum(
        2 * len(r.pair.prompt_ids) + len(r.pair.demo.ids) + len(r.pair.sample.ids) for r in records
    )
    assert found["learning_rate"] == 0.1


def test_metrics_average_over_the_items_between_two_records(tmp_path: Path) -> None:
    """Rate 0, so nothing moves. Two steps of 3 and 1 pairs between records: means over 4 pairs, and over 2 losses."""
    records, model = off_policy_pairs(10, 6), tiny_lm()
    settings: dict[str, Any] = {"learning_rate": 1e-30, "max_grad_norm": 0.0}
    _, each = train(model, PAIRS, [[record] for record in records], tmp_path / "each", **settings)
    _, found = train(model, PAIRS, cut(records, [3, 1, 1, 1]), tmp_path / "two", logging_steps=2, **settings)
    assert len(each) == 6
    assert len(found) == 2
    for name in ("rewards/chosen", "rewards/rejected", "rewards/accuracies", "logps/chosen", "logps/rejected"):
        assert found[0][name] == pytest.approx(sum(record[name] for record in each[:4]) / 4, abs=1e-5), name
        assert found[1][name] == pytest.approx(sum(record[name] for record in each[4:]) / 2, abs=1e-5), name
    losses = [record["loss"] for record in each]
    assert found[0]["loss"] == pytest.approx((sum(losses[:3]) / 3 + losses[3]) / 2, abs=1e-5)


def test_a_phase_shorter_than_logging_steps_still_has_a_record(tmp_path: Path) -> None:
    """The end of a phase is always recorded: its last metrics are what a run is judged by."""
    records = off_policy_pairs(11, 6)
    _, history = train(tiny_lm(), PAIRS, cut(records, [2, 2, 2]), tmp_path, logging_steps=10)
    assert [record["step"] for record in history] == [3]
    assert "rewards/margins" in history[-1]


def test_the_metrics_file_is_the_history_and_begins_anew(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"loss": 9.0, "step": 77}\n')  # left by a killed run
    _, history = train(
        tiny_lm(), SFTObjective(), cut(random_demonstrations(0, 4), [2, 2]), tmp_path, callbacks=[WriteMetrics(file)]
    )
    assert [row for row in read_rows(file) if "loss" in row] == history


# Carried optimizers --------------------------------------------------------------------------------------------------

ADAM = {"optim": "adamw_torch", "learning_rate": 1e-2, "lr_scheduler_type": "linear", "warmup_steps": 2.0}


@pytest.mark.parametrize("settings", [ADAM, {**ADAM, "optim": "rmsprop", "warmup_steps": 0.0}], ids=["adam", "rmsprop"])
def test_a_carried_optimizer_goes_on_as_if_there_were_no_stages(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Two stages of 3 steps against 6 steps at one go: learning rates equal, parameters within 1e-6."""
    microbatches = cut(off_policy_pairs(12, 12), [2] * 6)
    whole, staged = tiny_lm(), tiny_lm()
    _, expected = train(whole, PAIRS, microbatches, tmp_path / "whole", **settings)
    first, records = train(staged, PAIRS, microbatches[:3], tmp_path / "0", carry=Carry(None, 6), **settings)
    first.save_carried(tmp_path)
    _, more = train(staged, PAIRS, microbatches[3:], tmp_path / "1", carry=Carry(tmp_path / CARRIED, 6), **settings)
    rates = [record["learning_rate"] for record in [*records, *more]]
    assert rates == pytest.approx([record["learning_rate"] for record in expected], abs=1e-12)
    assert largest_difference(parameters(staged), parameters(whole)) < 1e-6


def test_a_restarted_optimizer_is_another_one(tmp_path: Path) -> None:
    microbatches = cut(off_policy_pairs(12, 12), [2] * 6)
    whole, staged = tiny_lm(), tiny_lm()
    train(whole, PAIRS, microbatches, tmp_path / "whole", **ADAM)
    train(staged, PAIRS, microbatches[:3], tmp_path / "0", **ADAM)
    train(staged, PAIRS, microbatches[3:], tmp_path / "1", **ADAM)
    assert largest_difference(parameters(staged), parameters(whole)) > 1e-3


def test_one_carried_schedule_spans_stages_of_different_length(tmp_path: Path) -> None:
    """History doubles the pairs of the second stage: still one straight line from the peak to the end of the run."""
    start, rows = save_tiny(tmp_path / "start"), write_rows(tmp_path / "rows.jsonl", 8)
    result = run(
        IRFTConfig(
            model=start,
            data=(rows,),
            output=str(tmp_path / "run"),
            eval_share=0.0,
            stages=2,
            slices="all",
            history=1.0,
            optimizer_across_stages="carry",
            epochs_per_stage=1.0,
            per_device_train_batch_size=2,
            learning_rate=1e-3,
            warmup_steps=0.0,
            max_length=128,
            max_new_tokens=2,
            samples_per_prompt=1,
            bf16=False,
        )
    )
    stages = result.run_folder / "stages"
    found = [row for stage in ("00", "01") for row in read_rows(stages / stage / "metrics.jsonl") if "loss" in row]
    assert len(found) == 4 + 8
    expected = [1e-3 * (1 - step / 12) for step in range(12)]
    assert [row["learning_rate"] for row in found] == pytest.approx(expected, abs=1e-9)


# The end token that is also the padding token ------------------------------------------------------------------------


def test_an_end_token_that_pads_still_learns_as_an_input(tmp_path: Path) -> None:
    """torch drops the gradient of an embedding's padding index; policies that we load have none."""
    tiny_lm(pad_token_id=END).save_pretrained(tmp_path)
    # A conversation: the end token stands inside the prompt.
    row = RenderedDemonstration((5, 6, END, 7), Response((8, END), True), "a")
    objective = SFTObjective()

    def embedding_gradient(model: PreTrainedModel) -> torch.Tensor:
        objective(model, objective.collate([row])).total.backward()
        return model.get_input_embeddings().weight.grad

    plain = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    assert not embedding_gradient(plain)[END].any()  # the trap is there
    found = embedding_gradient(loaded(tmp_path))
    assert found[END].norm() > 1e-3
    naive = tiny_lm(pad_token_id=None)
    naive.load_state_dict(plain.state_dict())
    (-naive_response_logps(naive, row.prompt_ids, row.demo.ids).sum()).backward()
    torch.testing.assert_close(found, naive.get_input_embeddings().weight.grad, atol=1e-5, rtol=1e-3)


# Checkpoints ---------------------------------------------------------------------------------------------------------


def test_only_whole_checkpoints_count_and_others_go(tmp_path: Path) -> None:
    for step, whole in [(5, True), (10, True), (9, True), (100, False)]:
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "model.safetensors").touch()
        if whole:
            seal(folder / WHOLE, folder.iterdir())
    assert latest_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")  # by number, not by name
    assert not (tmp_path / "checkpoint-100").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-5", "checkpoint-10", "checkpoint-9"}


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "never-made") is None
    (tmp_path / "checkpoint-3").mkdir()
    assert latest_checkpoint(tmp_path) is None


class KilledError(Exception):
    """A process that dies."""


class DiesAfter(TrainerCallback):
    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self._step:
            raise KilledError


def test_a_killed_phase_goes_on_from_its_checkpoint_to_the_same_parameters(tmp_path: Path) -> None:
    """Four steps of two micro-batches, a checkpoint every two steps, death in the fourth: 1e-7; losses 1e-6."""
    microbatches = cut(off_policy_pairs(13, 12), [1, 2, 2, 1, 1, 2, 2, 1])
    settings: dict[str, Any] = {**ADAM, "gradient_accumulation_steps": 2}
    whole, killed, resumed = tiny_lm(), tiny_lm(), tiny_lm()
    _, expected = train(whole, PAIRS, microbatches, tmp_path / "whole", **settings)
    with pytest.raises(KilledError):
        train(killed, PAIRS, microbatches, tmp_path / "run", callbacks=[Checkpoints(2), DiesAfter(3)], **settings)
    again = DiesAfter(0)  # steps 1 and 2 are not taken a second time
    trainer, found = train(
        resumed, PAIRS, microbatches, tmp_path / "run", callbacks=[Checkpoints(2), again], **settings
    )
    assert trainer.state.global_step == 4
    assert [record["loss"] for record in found] == pytest.approx([record["loss"] for record in expected], abs=1e-6)
    assert largest_difference(parameters(resumed), parameters(whole)) < 1e-7


@pytest.mark.parametrize(
    "damaged", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", WHOLE, None]
)
def test_a_damaged_checkpoint_is_dropped_and_the_one_before_is_used(
    damaged: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Six steps, checkpoints after two and four, death in the sixth; one bit of the later one flips: 1e-7.

    None: both checkpoints lack a file, so the phase begins anew.
    """
    microbatches = cut(off_policy_pairs(13, 12), [2] * 6)
    whole, killed, resumed = tiny_lm(), tiny_lm(), tiny_lm()
    train(whole, PAIRS, microbatches, tmp_path / "whole", **ADAM)
    with pytest.raises(KilledError):
        train(killed, PAIRS, microbatches, tmp_path / "run", callbacks=[Checkpoints(2), DiesAfter(5)], **ADAM)
    two, four = (tmp_path / "run" / "checkpoints" / f"checkpoint-{step}" for step in (2, 4))
    if damaged is None:
        (two / "optimizer.pt").unlink()
        (four / "scheduler.pt").unlink()
        first = 1
    else:
        content = bytearray((four / damaged).read_bytes())
        content[len(content) // 2] ^= 1
        (four / damaged).write_bytes(content)
        first = 3
    steps = _CountSteps()
    _, history = train(resumed, PAIRS, microbatches, tmp_path / "run", callbacks=[Checkpoints(2), steps], **ADAM)
    assert steps.made == list(range(first, 7))
    assert [record["step"] for record in history] == [1, 2, 3, 4, 5, 6]
    assert largest_difference(parameters(resumed), parameters(whole)) < 1e-7
    shown = capsys.readouterr().out
    assert shown.count("is damaged; training goes on from before this checkpoint") == (2 if damaged is None else 1)
    assert damaged in (None, WHOLE) or damaged in shown


class _CountSteps(TrainerCallback):
    def __init__(self) -> None:
        self.made: list[int] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.made.append(state.global_step)


def test_no_record_says_a_mean_loss_over_what_only_some_steps_made(tmp_path: Path) -> None:
    """The Trainer divides the losses since a resume by steps that it counts otherwise; what is said is each step's."""
    file = tmp_path / "metrics.jsonl"
    rows = cut(random_demonstrations(0, 4), [2, 2])
    trainer, _ = train(tiny_lm(), SFTObjective(), rows, tmp_path, callbacks=[WriteMetrics(file)])
    assert [set(row) & {"train_loss", "loss"} for row in read_rows(file)] == [{"loss"}, {"loss"}]
    assert not any("train_loss" in record for record in trainer.state.log_history)


def test_the_tokenizer_of_these_tests_is_one_token_per_letter() -> None:
    tokenizer = letter_tokenizer()
    assert tokenizer("abz</s>")["input_ids"] == [2, 3, 27, END]
    assert tokenizer.decode([2, 3, 27]) == "abz"


def test_pairs_of_these_tests_are_uneven() -> None:
    pairs: list[Pair] = random_pairs(0, 12)
    assert len({len(pair.prompt_ids) for pair in pairs}) > 3
    assert {pair.sample.finished for pair in pairs} == {True, False}
