"""The linear reward: its columns are what a classifier's head reads, its fit the optimum, its head an ordinary one."""

import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.micro import ARCHITECTURES, END, PAD, Architecture, random_ids, tiny_lm
from helpers.tiny import save_tiny, tiny_tokenizer
from numpy.typing import NDArray
from safetensors.torch import load_file
from scipy.optimize import minimize
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from demotune import DemotuneError, ScalarReward
from demotune.common.statistics import share_interval
from demotune.models.attention import carries_layouts
from demotune.models.policy import load_policy
from demotune.models.question import Question
from demotune.models.reward import save_reward_model
from demotune.models.reward_head import completion_rewards
from demotune.models.states import end_states, followed_by
from demotune.records import Completion, Demonstration, Pair, Response
from demotune.rewards.explain import explain
from demotune.rewards.features import FEATURES, WITHOUT_LENGTH, feature_table
from demotune.rewards.linear import Columns, PairColumns, accuracy_by_prompt, fit_linear_reward, pair_columns
from demotune.rewards.score import JudgedResponse

Floats = NDArray[np.float64]


def load(folder: Path) -> PreTrainedModel:
    """The tiny model with our attention, as commands load it."""
    model = load_policy(folder, dtype="float32", attn_implementation=None, device=torch.device("cpu"))
    assert carries_layouts(model)
    assert isinstance(model, PreTrainedModel)
    return model


def some_completions(seed: int, count: int) -> list[Completion]:
    """Prompts with two or three responses of uneven length, in mixed order."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        prompt = random_ids(rng, 1, 9)
        found += [Completion(prompt, Response((*random_ids(rng, 1, 9), END), True)) for _ in range(rng.randint(2, 3))]
    return rng.sample(found, len(found))


def some_pairs(seed: int, prompts: int, samples: int) -> list[Pair]:
    """Demonstrations are made of the lower ids, samples of the higher ones."""
    rng = random.Random(seed)
    pairs = []
    for number in range(prompts):
        prompt = random_ids(rng, 2, 6)
        demo = Response((*random_ids(rng, 2, 8, 40), END), True)
        for _ in range(samples):
            ids = tuple(token + 20 for token in random_ids(rng, 2, 8, 40))
            pairs.append(Pair(f"row-{number}", prompt, demo, Response((*ids, END), True)))
    return pairs


def alone(model: PreTrainedModel, completion: Completion) -> torch.Tensor:
    """The definition: one row without padding, the backbone's last state at its last token."""
    ids = torch.tensor([[*completion.prompt_ids, *completion.response.ids]])
    with torch.no_grad():
        return model.base_model(input_ids=ids).last_hidden_state[0, -1]


# Columns -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("budget", [1, 60, 10_000])
def test_states_are_those_of_each_row_alone(architecture: Architecture, budget: int) -> None:
    """Padded, for models without layouts; one row at a time, some, all together; in the order given."""
    model, rows = tiny_lm(architecture), some_completions(0, 6)
    found = end_states(model, rows, pad_id=PAD, bf16=False, budget=budget)
    assert not found.requires_grad
    torch.testing.assert_close(found, torch.stack([alone(model, row) for row in rows]), atol=1e-5, rtol=0)


def test_packed_states_are_those_of_each_row_alone(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    model, rows = load(tmp_path), some_completions(1, 8)
    expected = torch.stack([alone(model, row) for row in rows])
    counted: list[int] = []
    for budget in (1, 60, 10_000):
        found = end_states(model, rows, pad_id=PAD, bf16=False, budget=budget, advance=counted.append)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert sum(counted) == 3 * len(rows)


def test_a_question_is_read_at_its_last_token() -> None:
    model, rows = tiny_lm(), some_completions(2, 3)
    found = end_states(model, followed_by(rows, (7, 8)), pad_id=PAD, bf16=False)
    asked = [Completion(row.prompt_ids, Response((*row.response.ids, 7, 8), True)) for row in rows]
    torch.testing.assert_close(found, torch.stack([alone(model, row) for row in asked]), atol=1e-5, rtol=0)


def test_named_features_by_hand() -> None:
    """Response 5 6 5 6 5 6 5, cut off, to prompt 5 7: 4-grams 5656 6565 5656 6565, bigrams 56 65 56 65 56 65."""
    row = Completion((5, 7), Response((5, 6, 5, 6, 5, 6, 5), False))
    assert dict(zip(FEATURES, feature_table([row], [*FEATURES])[0], strict=True)) == {
        "finished": 0.0,
        "repetition": 0.5,
        "distinct_bigrams": 2 / 6,
        "prompt_overlap": 0.5,
        "log_length": np.log2(7),
    }
    assert "log_length" not in WITHOUT_LENGTH


def test_named_features_stand_behind_the_states_and_do_not_see_the_question() -> None:
    model, rows = tiny_lm(), some_completions(2, 3)
    found = Columns(("log_length", "finished"), Question("?", (7, 8))).of(model, rows, pad_id=PAD, bf16=False)
    states = end_states(model, followed_by(rows, (7, 8)), pad_id=PAD, bf16=False)
    assert found.shape == (len(rows), 16 + 2)
    np.testing.assert_allclose(found[:, :16], states.numpy(), atol=1e-7)
    assert found[:, 16].tolist() == [np.log2(len(row.response.ids)) for row in rows]


def test_equal_pairs_are_left_out_and_sides_keep_their_pairs() -> None:
    model, pairs = tiny_lm(), some_pairs(3, 4, 3)
    equal = [dataclasses.replace(pair, sample=pair.demo) for pair in pairs[:5]]
    found = pair_columns(model, [*equal, *pairs], Columns(), pad_id=PAD, bf16=False)
    assert found.equal == 5
    assert found.prompts == tuple(pair.prompt_ids for pair in pairs)
    for number, pair in enumerate(pairs):
        for column, side in ((found.demo, pair.demo), (found.sample, pair.sample)):
            expected = alone(model, Completion(pair.prompt_ids, side)).numpy()
            np.testing.assert_allclose(column[number], expected, atol=1e-5)


# Fit -----------------------------------------------------------------------------------------------------------------


def made_up(seed: int, prompts: int, samples: int, signal: Sequence[float], width: int = 6) -> PairColumns:
    """Normal columns; the demonstration's are shifted by `signal`."""
    rng = np.random.default_rng(seed)
    count = prompts * samples
    shift = np.pad(np.array(signal), (0, width - len(signal)))
    demo, sample = rng.normal(size=(count, width)) + shift, rng.normal(size=(count, width))
    return PairColumns(demo, sample, tuple(number // samples for number in range(count)))


def test_the_fit_is_the_optimum_of_its_objective() -> None:
    """Uneven numbers of samples, columns of uneven size: against scipy on the objective as the docstring states it."""
    train = made_up(0, 30, 3, [1.0, -0.5])
    keep = np.array([number for number in range(90) if number % 7])
    sizes = np.array([1.0, 10.0, 0.1, 1.0, 3.0, 1.0])
    prompts = tuple(train.prompts[number] for number in keep)
    train = PairColumns(train.demo[keep] * sizes, train.sample[keep] * sizes, prompts)
    reward = fit_linear_reward(train, None, Columns())
    standard = train.differences / reward.scale

    def objective(weights: Floats) -> float:
        losses = np.log1p(np.exp(-standard @ weights))
        by_prompt = [losses[[p == prompt for p in prompts]].mean() for prompt in set(prompts)]
        return float(np.mean(by_prompt) + reward.l2 * (weights @ weights) / 2)

    best = minimize(objective, np.zeros(6), method="BFGS", options={"gtol": 1e-7})
    np.testing.assert_allclose(reward.weights, best.x, atol=1e-4)
    assert reward.weights[0] > 0 > reward.weights[1]
    margins = reward.score(train.demo) - reward.score(train.sample)
    np.testing.assert_allclose(margins, standard @ reward.weights, atol=1e-9)


def test_scale_is_the_root_mean_square_and_a_constant_column_counts_for_nothing() -> None:
    train = made_up(2, 20, 2, [1.0])
    train.demo[:, 5] = train.sample[:, 5] = 4.0
    reward = fit_linear_reward(train, None, Columns())
    expected = np.sqrt((train.differences[:, :5] ** 2).mean(axis=0))
    np.testing.assert_allclose(reward.scale, [*expected, 1.0])
    assert reward.weights[5] == 0


def test_what_is_learned_holds_on_new_prompts_and_noise_does_not() -> None:
    learned = fit_linear_reward(made_up(3, 80, 2, [1.5]), made_up(4, 200, 2, [1.5]), Columns())
    nothing = fit_linear_reward(made_up(3, 80, 2, [], width=40), made_up(4, 200, 2, [], width=40), Columns())
    assert learned.accuracy.low > 0.75
    assert learned.heldout_prompts == nothing.heldout_prompts == 200
    assert nothing.accuracy.low < 0.5 < nothing.accuracy.high
    assert nothing.l2 / 40 > learned.l2 / 6  # the less there is, the stronger the penalty


def test_without_held_out_pairs_each_prompt_is_judged_by_a_fit_without_it() -> None:
    """40 columns separate 20 pairs of noise perfectly; the accuracy must not say so."""
    train = made_up(5, 20, 1, [], width=40)
    reward = fit_linear_reward(train, None, Columns())
    assert reward.heldout_prompts == 0
    assert reward.accuracy.value < 0.8
    loose = fit_linear_reward(train, train, Columns())
    assert loose.accuracy.value > 0.9  # of the pairs that it was fitted on


def test_accuracy_counts_prompts_by_hand() -> None:
    """Prompt a: right, tie: 3/4. b: wrong: 0. c: right twice: 1. Together 1.75 of 3."""
    found = accuracy_by_prompt(np.array([1.0, 0.0, -2.0, 0.1, 3.0]), ["a", "a", "b", "c", "c"])
    assert found.value == pytest.approx(1.75 / 3)
    assert (found.low, found.high) == (share_interval(1, 3).low, share_interval(2, 3).high)


def test_the_same_pairs_give_the_same_reward() -> None:
    one, other = (fit_linear_reward(made_up(6, 30, 2, [1.0]), None, Columns()) for _ in range(2))
    assert one.weights.tolist() == other.weights.tolist()
    assert (one.l2, one.accuracy) == (other.l2, other.accuracy)


def test_too_few_differing_prompts_are_refused_with_the_fix() -> None:
    few = dataclasses.replace(made_up(7, 4, 9, [1.0]), equal=12)
    with pytest.raises(DemotuneError, match=r"only 4 prompts .*12 pairs have equal sides.* needs 5; give more prompts"):
        fit_linear_reward(few, None, Columns())
    with pytest.raises(DemotuneError, match="only 0 prompts"):
        fit_linear_reward(pair_columns(tiny_lm(), [], Columns(), pad_id=PAD, bf16=False), None, Columns())


def test_no_held_out_pair_that_differs_is_as_none() -> None:
    train, heldout = made_up(8, 20, 1, [1.0]), PairColumns(np.zeros((0, 0)), np.zeros((0, 0)), (), 3)
    assert fit_linear_reward(train, heldout, Columns()).accuracy == fit_linear_reward(train, None, Columns()).accuracy


# Head ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("question", [(), (7, 8)])
def test_a_saved_reward_is_an_ordinary_classifier(tmp_path: Path, question: tuple[int, ...]) -> None:
    """Its scores are X @ w: by demotune, by transformers in a padded batch; the backbone's weights are untouched."""
    save_tiny(tmp_path / "model")
    columns, pairs = Columns(question=Question("?", question) if question else None), some_pairs(9, 12, 2)
    train = pair_columns(load(tmp_path / "model"), pairs, columns, pad_id=PAD, bf16=False)
    reward = fit_linear_reward(train, None, columns)
    model = reward.as_head(load(tmp_path / "model"), PAD)
    save_reward_model(model, tiny_tokenizer(), reward.facts(None), tmp_path / "reward", "card")

    sides = [Completion(pair.prompt_ids, pair.sample) for pair in pairs]
    samples = followed_by(sides, question)
    expected = reward.score(train.sample).tolist()
    assert np.ptp(expected) > 0.1  # or this test shows nothing
    found = completion_rewards(model, samples, pad_id=PAD, bound=None, batch_size=5, bf16=False)
    assert found == pytest.approx(expected, abs=1e-5)
    assert ScalarReward(tmp_path / "reward", bf16=False).rewards_of(sides) == pytest.approx(expected, abs=1e-5)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward")
    rows = [[*row.prompt_ids, *row.response.ids] for row in samples]
    batch = tiny_tokenizer().pad({"input_ids": rows}, return_tensors="pt", padding_side="right")
    with torch.no_grad():
        assert plain(**batch).logits.squeeze(-1).tolist() == pytest.approx(expected, abs=1e-5)

    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("model", "reward"))
    assert after.pop("score.weight").shape == (1, 16)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_named_features_have_weights_beside_the_head() -> None:
    """Demonstrations never repeat themselves, samples do nothing else."""
    rng = random.Random(0)
    pairs = [
        Pair(
            f"row-{number}",
            random_ids(rng, 2, 6),
            Response((*rng.sample(range(2, 40), 12), END), True),
            Response((*(rng.randrange(2, 40),) * 12, END), True),
        )
        for number in range(20)
    ]
    columns = Columns(WITHOUT_LENGTH)
    reward = fit_linear_reward(pair_columns(tiny_lm(), pairs, columns, pad_id=PAD, bf16=False), None, columns)
    assert list(reward.feature_weights) == [*WITHOUT_LENGTH]
    assert reward.feature_weights["repetition"] < 0 < reward.feature_weights["distinct_bigrams"]
    assert reward.feature_weights["finished"] == 0  # all are
    assert reward.facts("a{prompt}").features == reward.feature_weights
    assert reward.as_head(tiny_lm(), PAD).score.weight.shape == (1, len(reward.weights) - len(WITHOUT_LENGTH))


# Explanations --------------------------------------------------------------------------------------------------------


def judged(reward: float, tokens: int, *, finished: bool = True) -> JudgedResponse:
    row = Demonstration(({"role": "user", "content": "p"},), f"{tokens} tokens", "x:1")
    return JudgedResponse(row, Completion((3, 4), Response(tuple(range(5, 5 + tokens)), finished)), reward)


def test_an_explanation_shows_both_ends_and_correlations() -> None:
    """Rewards 2, -1, 2, 0 of 4, 1, 4, 2 tokens: on a line."""
    rows = [judged(2, 4), judged(-1, 1), judged(2, 4, finished=False), judged(0, 2)]
    found = explain(rows, {"finished": 0.3}, shown=2)
    assert found.feature_weights == {"finished": 0.3}
    assert found.highest == (rows[0], rows[2])
    assert found.lowest == (rows[1], rows[3])
    assert found.length_correlation == pytest.approx(1.0)
    # finished is 1 1 0 1: covariance -(2 - 0.75) / 4, variances 3/16 and 27/16
    assert found.correlations["finished"] == pytest.approx(-(1.25 / 4) / np.sqrt(3 / 16 * 27 / 16))
    assert np.isnan(found.correlations["repetition"])  # all 0
    assert np.isnan(found.correlations["prompt_overlap"])


def test_rewards_that_are_all_equal_explain_nothing() -> None:
    found = explain([judged(1, 3), judged(1, 5)], {})
    assert np.isnan(found.length_correlation)
    assert len(found.highest) == len(found.lowest) == 2
