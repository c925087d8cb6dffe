"""Objectives on batches of records: layout, values worked out by hand from a bigram policy, gradients."""

import copy
from math import log
from typing import Literal

import pytest
import torch
from helpers.micro import (
    END,
    Bigram,
    largest_difference,
    parameters,
    random_demonstrations,
    random_pairs,
    scored,
    tiny_lm,
)
from helpers.rewards import with_random_head
from torch.nn.functional import logsigmoid
from torch.testing import assert_close

from demotune.config.links import Link
from demotune.config.methods import IRFTConfig, SFTConfig, SPINConfig
from demotune.models.batches import pair_batch
from demotune.models.logprobs import naive_response_logps
from demotune.models.reward import reward_from_policy
from demotune.records import Pair, RenderedDemonstration, Response, ScoredDemonstration, ScoredPair, Triplet
from demotune.training.methods import irft, sft, spin
from demotune.training.objectives import (
    AnchoredSFTObjective,
    PairObjective,
    RewardObjective,
    SFTObjective,
    TripletObjective,
)

BIT = log(2)


def policy() -> Bigram:
    """From 2 to 3 with 1/2, from 3 to the end token with 1/4, from 2 to the end token with 1/8."""
    return Bigram([[0.25] * 4, [0.25] * 4, [0.25, 0.125, 0.125, 0.5], [0.125, 0.25, 0.5, 0.125]])


def hand_worked_pairs() -> list[ScoredPair]:
    """Two pairs whose log-probabilities are whole bits: -3 (two tokens) and -4, -3 and -1.

    With these references the log-ratios are (1, -1) and (-1, 2) bits.
    """
    return [
        ScoredPair(pair("a", (2,), (3, END), Response((2, 3), False)), -4 * BIT, -3 * BIT),
        ScoredPair(pair("b", (3, 2), (END,), Response((3,), False)), -2 * BIT, -3 * BIT),
    ]


def pair(key: str, prompt: tuple[int, ...], demo: tuple[int, ...], sample: Response) -> Pair:
    return Pair(key, prompt, Response(demo, True), sample)


# Pairs ---------------------------------------------------------------------------------------------------------------


def test_a_batch_of_pairs_is_demonstrations_then_samples_of_the_same_prompts() -> None:
    batch = PairObjective(beta=0.5, link="logistic", sft_weight=0.0).collate(hand_worked_pairs())
    # Prompt, demonstration, sample of the first pair: 2 | 3 END | 2 3; of the second: 3 2 | END | 3.
    assert batch["input_ids"].tolist() == [[2, 3, END, 2, 3, 3, 2, END, 3]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 1, 2, 0, 1, 2, 2]]
    assert batch["prompt_slots"].tolist() == [[-1, 0], [5, 6]]
    assert batch["response_slots"].tolist() == [[1, 2], [7, -1], [3, 4], [8, -1]]
    assert batch["prompt_of"].tolist() == [0, 1, 0, 1]
    assert int(batch["tokens"]) == 12  # the prompts count for each response
    assert batch["response_mask"].tolist() == [[True, True], [True, False], [True, True], [True, False]]
    assert_close(batch["demo_ref_logps"], torch.tensor([-4 * BIT, -2 * BIT]))
    assert_close(batch["sample_ref_logps"], torch.tensor([-3 * BIT, -3 * BIT]))
    assert int(batch["items"]) == 2
    scoring = pair_batch([scored_pair.pair for scored_pair in hand_worked_pairs()])
    assert all(torch.equal(scoring[name], batch[name]) for name in scoring)


def several_samples() -> list[Pair]:
    """A demonstration with three samples of uneven length, two of them the same, beside one with one."""
    first, other = random_pairs(3, 2)
    samples = [pair.sample for pair in random_pairs(4, 2)]
    group = [Pair(first.key, first.prompt_ids, first.demo, sample) for sample in (*samples, samples[0])]
    return [*group, other]


def test_prompt_and_demonstration_of_several_samples_are_computed_once() -> None:
    pairs = several_samples()
    batch = pair_batch(pairs)
    one, two, again, other = pairs
    parts = [one.prompt_ids, one.demo.ids, one.sample.ids, two.sample.ids, *other.sides[1], other.demo.ids]
    assert batch["input_ids"].shape == (1, sum(map(len, parts)))
    assert again.sample == one.sample
    assert batch["demo_rows"].tolist() == [0, 0, 0, 1]
    assert batch["sample_rows"].tolist() == [2, 3, 2, 4]


@pytest.mark.parametrize("link", ["logistic", "linear", "nce"])
def test_several_samples_together_have_the_gradient_of_separate_pairs(link: Link) -> None:
    """Loss and gradient against pairs that are computed one by one, sft_weight included; 1e-4 relative."""
    records = scored(tiny_lm(seed=1), [several_samples()])[0]
    separate = [rows[0] for rows in scored(tiny_lm(seed=1), [[record.pair] for record in records])]
    for found, alone in zip(records, separate, strict=True):
        assert (found.demo_ref_logp, found.sample_ref_logp) == pytest.approx(
            (alone.demo_ref_logp, alone.sample_ref_logp), abs=1e-4
        )
    objective = PairObjective(beta=0.3, link=link, sft_weight=0.2)
    together, one_by_one = tiny_lm(), tiny_lm()
    whole = objective(together, objective.collate(records))
    whole.total.backward()
    parts = [objective(one_by_one, objective.collate([record])).total for record in records]
    sum(parts).backward()
    assert float(whole.total.detach()) == pytest.approx(float(sum(parts).detach()), rel=1e-4)
    assert whole.metrics["logps/chosen"].shape == (4,)
    assert largest_difference(gradients(together), gradients(one_by_one)) < 1e-4


def test_tspin_together_has_the_loss_and_gradient_of_its_formula_on_separate_responses() -> None:
    """-log sigmoid(b (demo - sample)) - w log sigmoid(b (sample - first)), each response by itself; 1e-4 relative."""
    records = [Triplet(one, first.demo) for one, first in zip(several_samples(), random_pairs(6, 4), strict=True)]
    objective = TripletObjective(beta=0.3, weight=0.7)
    assert objective.loss_at_reference is None
    together, one_by_one = tiny_lm(), tiny_lm()
    whole = objective(together, objective.collate(records))
    whole.total.backward()

    def logp(prompt: tuple[int, ...], response: Response) -> torch.Tensor:
        return naive_response_logps(one_by_one, prompt, response.ids).sum()

    expected = torch.zeros(())
    for record in records:
        sides = (record.pair.demo, record.pair.sample, record.first)
        demo, sample, first = (0.3 * logp(record.pair.prompt_ids, side) for side in sides)
        expected = expected - logsigmoid(demo - sample) - 0.7 * logsigmoid(sample - first)
    expected.backward()
    assert float(whole.total.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    assert largest_difference(gradients(together), gradients(one_by_one)) < 1e-4
    assert objective.tokens(records[0]) >= len(records[0].first.ids)


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_rewards_of_several_samples_have_the_gradient_of_separate_pairs() -> None:
    """A demonstration with three samples is scored once; loss and gradient as of pairs one by one, 1e-4."""
    pairs = several_samples()
    objective = RewardObjective("logistic", None, 0.1, pad_id=0)
    together, one_by_one = (with_random_head(reward_from_policy(tiny_lm(), 0)) for _ in range(2))
    batch = objective.collate(pairs)
    assert len(batch["response_slots"]) == 5
    whole = objective(together, batch).total
    whole.backward()
    parts = sum(objective(one_by_one, objective.collate([pair])).total for pair in pairs)
    parts.backward()
    assert float(whole.detach()) == pytest.approx(float(parts.detach()), rel=1e-4)
    assert largest_difference(gradients(together), gradients(one_by_one)) < 1e-4


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        # margins 0.5 * (1 + 1) = 1 bit and 0.5 * (-1 - 2) = -1.5 bits; sigmoid(1 bit) = 2/3
        ("logistic", (log(3 / 2), log(1 + 2**1.5))),
        ("linear", (-BIT, 1.5 * BIT)),
        # sigmoid(1 bit) = 2/3 twice; sigmoid(-1 bit) = 1/3 and sigmoid(-2 bits) = 1/5
        ("nce", (2 * log(3 / 2), log(3) + log(5))),
    ],
)
def test_loss_and_metrics_of_two_pairs(link: Link, expected: tuple[float, float]) -> None:
    """Summed over pairs, so that the caller can divide by the pairs of a whole step. Tolerance 1e-5, float32."""
    objective = PairObjective(beta=0.5, link=link, sft_weight=0.0)
    found = objective(policy(), objective.collate(hand_worked_pairs()))
    assert found.at_start is not None
    assert_close(found.at_start, torch.tensor(expected), atol=1e-5, rtol=0)
    assert float(found.total) == pytest.approx(sum(expected), abs=1e-5)
    assert found.total.requires_grad
    bits = {name: (values / BIT).tolist() for name, values in found.metrics.items() if name != "rewards/accuracies"}
    assert bits.pop("entropy") == pytest.approx([1.75] * 6, abs=1e-5)  # each row of the table: 1.75 bits
    assert bits == {
        "rewards/chosen": pytest.approx([0.5, -0.5], abs=1e-5),
        "rewards/rejected": pytest.approx([-0.5, 1.0], abs=1e-5),
        "rewards/margins": pytest.approx([1.0, -1.5], abs=1e-5),
        "logps/chosen": pytest.approx([-3.0, -3.0], abs=1e-5),
        "logps/rejected": pytest.approx([-4.0, -1.0], abs=1e-5),
    }
    assert found.metrics["rewards/accuracies"].tolist() == [1.0, 0.0]
    assert not any(values.requires_grad for values in found.metrics.values())


def test_sft_weight_adds_the_mean_nll_per_token_of_each_demonstration() -> None:
    """3 bits over 2 tokens and 3 bits over 1 token, so 4.5 bits in all; the pair loss stays apart."""
    plain, anchored = (PairObjective(beta=0.5, link="logistic", sft_weight=weight) for weight in (0.0, 0.2))
    batch = plain.collate(hand_worked_pairs())
    without, with_anchor = plain(policy(), batch), anchored(policy(), batch)
    assert float(with_anchor.total - without.total) == pytest.approx(0.2 * 4.5 * BIT, abs=1e-5)
    assert_close(with_anchor.at_start, without.at_start, atol=0, rtol=0)


def test_sft_weight_pulls_on_demonstrations_alone() -> None:
    """The anchor's gradient equals that of the weighted NLL of unpadded demonstrations; 1e-4 relative to its norm."""
    model = tiny_lm()
    records = scored(tiny_lm(seed=1), [random_pairs(0, 4)])[0]

    def gradient(weight: float) -> dict[str, torch.Tensor]:
        copied = copy.deepcopy(model)
        objective = PairObjective(beta=0.1, link="logistic", sft_weight=weight)
        objective(copied, objective.collate(records)).total.backward()
        return {name: parameter.grad for name, parameter in copied.named_parameters()}

    with_anchor, without = gradient(0.7), gradient(0.0)
    for record in records:
        ids = record.pair.demo.ids
        (-0.7 * naive_response_logps(model, record.pair.prompt_ids, ids).sum() / len(ids)).backward()
    for name, parameter in model.named_parameters():
        error = (with_anchor[name] - without[name] - parameter.grad).norm()
        assert float(error) <= 1e-4 * float(parameter.grad.norm()) + 1e-5, name


def test_spin_has_no_choices_and_is_irft_with_its_defaults() -> None:
    assert spin.objective(SPINConfig(output="x", beta=0.3)) == PairObjective(beta=0.3, link="logistic", sft_weight=0.0)
    assert irft.objective(IRFTConfig(output="x", beta=0.3)) == spin.objective(SPINConfig(output="x", beta=0.3))
    chosen = IRFTConfig(output="x", beta=0.3, link="nce", sft_weight=0.4)
    assert irft.objective(chosen) == PairObjective(beta=0.3, link="nce", sft_weight=0.4)


# SFT -----------------------------------------------------------------------------------------------------------------


def two_demonstrations() -> list[RenderedDemonstration]:
    """Of 1 + 2 bits and of 3 bits."""
    return [
        RenderedDemonstration((2,), Response((3, END), True), "a"),
        RenderedDemonstration((3, 2), Response((END,), True), "b"),
    ]


def test_sft_of_two_demonstrations() -> None:
    """3 bits each: two tokens of 1 and 2 bits, and one of 3 bits. Greedy is only the first: from 2 to 3."""
    objective = SFTObjective()
    batch = objective.collate(two_demonstrations())
    assert int(batch["items"]) == 3  # tokens
    found = objective(policy(), batch)
    assert float(found.total) == pytest.approx(6 * BIT, abs=1e-5)
    assert found.at_start is None
    assert found.metrics["logps/chosen"].tolist() == pytest.approx([-3 * BIT, -3 * BIT], abs=1e-5)
    assert found.metrics["mean_token_accuracy"].tolist() == [1.0, 0.0, 0.0]
    assert found.metrics["entropy"].tolist() == pytest.approx([1.75 * BIT] * 3, abs=1e-5)


def test_sft_gradient_is_that_of_the_definition() -> None:
    """-sum of naive log-probabilities over unpadded rows; 1e-4 relative to each parameter's gradient."""
    model, naive_model = tiny_lm("neox"), tiny_lm("neox")
    rows, objective = random_demonstrations(3, 5), SFTObjective()
    objective(model, objective.collate(rows)).total.backward()
    for row in rows:
        (-naive_response_logps(naive_model, row.prompt_ids, row.demo.ids).sum()).backward()
    for (name, found), expected in zip(model.named_parameters(), naive_model.parameters(), strict=True):
        error = float((found.grad - expected.grad).norm())
        assert error <= 1e-4 * float(expected.grad.norm()) + 1e-5, name
    assert largest_difference(parameters(model), parameters(naive_model)) == 0


def test_dft_of_two_demonstrations() -> None:
    """1/2 * 1 bit + 1/4 * 2 bits, and 1/8 * 3 bits."""
    objective = SFTObjective("dft")
    found = objective(policy(), objective.collate(two_demonstrations()))
    assert float(found.total) == pytest.approx(11 / 8 * BIT, abs=1e-5)


@pytest.mark.parametrize(("loss", "total"), [("iw", (3 + 2 * 3) * BIT), ("psft", -(1.28 + 0.5 + 1.28))])
def test_anchored_losses_of_two_demonstrations(loss: Literal["iw", "psft"], total: float) -> None:
    """The anchor has 2 + 1 and 4 bits: ratios 2 and 1/2, whose mean is 1, and 2."""
    first, second = two_demonstrations()
    rows = [ScoredDemonstration(first, (-2 * BIT, -BIT)), ScoredDemonstration(second, (-4 * BIT,))]
    objective = AnchoredSFTObjective(loss)
    batch = objective.collate(rows)
    assert int(batch["items"]) == 3  # tokens
    assert [objective.tokens(row) for row in rows] == [3, 3]
    found = objective(policy(), batch)
    assert float(found.total) == pytest.approx(total, abs=1e-5)
    assert found.metrics["val/ratio"].tolist() == pytest.approx([2, 0.5, 2], abs=1e-5)
    assert found.at_start is not None
    assert found.at_start.tolist() == pytest.approx([BIT] * 3, abs=1e-5)
    assert found.metrics["logps/chosen"].tolist() == pytest.approx([-3 * BIT, -3 * BIT], abs=1e-5)
    clipped = found.metrics.get("clip_ratio/high_mean")
    assert (None if clipped is None else clipped.tolist()) == (None if loss == "iw" else [1.0, 0.0, 1.0])


def test_sft_takes_the_loss_of_its_config() -> None:
    assert sft.objective(SFTConfig(output="x")) == SFTObjective("nll")
    assert sft.objective(SFTConfig(output="x", loss="dft")) == SFTObjective("dft")
    assert sft.objective(SFTConfig(output="x", loss="psft")) == AnchoredSFTObjective("psft")
