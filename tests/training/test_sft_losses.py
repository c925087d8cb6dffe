"""Losses of supervised fine-tuning and T-SPIN's, against numbers worked out by hand; DFT against TRL."""

from math import log
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from helpers.micro import END, assert_gradients_agree, gradients, random_demonstrations, tiny_lm
from helpers.micro import letter_tokenizer as make_tokenizer
from torch import Tensor
from torch.testing import assert_close
from trl import SFTConfig, SFTTrainer

from demotune.models.logprobs import response_logps
from demotune.models.packing import pack
from demotune.training.losses import sft_loss, tspin_loss
from demotune.training.sft_losses import SFTLoss, demonstration_loss

LOSSES: tuple[SFTLoss, ...] = ("nll", "dft", "iw", "psft")
BIT = log(2)


def float64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def hand_worked_tokens() -> tuple[Tensor, Tensor, Tensor]:
    """(log-probabilities, mask, those of the anchor): responses of 2 tokens and of 1, at either end of their rows.

    Response 1: (1/2, 1/8) where the anchor has (1/4, 1/4): ratios 2 and 1/2, their product 1.
    Response 2: (1/2) where the anchor has (1/8): ratio 4.
    """
    logps = float64(1 / 2, 1 / 8, 0.9, 0.7, 0.1, 1 / 2).log().view(2, 3)
    anchor = float64(1 / 4, 1 / 4, 0.1, 0.2, 0.6, 1 / 8).log().view(2, 3)
    return logps, torch.tensor([[True, True, False], [False, False, True]]), anchor


@pytest.mark.parametrize(
    ("loss", "values", "slopes"),
    [
        # log 2 + log 8 = 4 bits; log 2
        ("nll", (4 * BIT, BIT), (-1, -1, -1)),
        # 1/2 * 1 bit + 1/8 * 3 bits = 7/8 bit; 1/2 * 1 bit; slope -p
        ("dft", (7 / 8 * BIT, BIT / 2), (-1 / 2, -1 / 8, -1 / 2)),
        # weights (2 * 1/2)^(1/2) = 1 and 4
        ("iw", (4 * BIT, 4 * BIT), (-1, -1, -4)),
        # ratios 2 and 4 are past 1.28 and have no slope; -(1.28 + 1/2) and -1.28
        ("psft", (-1.78, -1.28), (0, -1 / 2, 0)),
    ],
)
def test_value_and_gradient(loss: SFTLoss, values: tuple[float, float], slopes: tuple[float, float, float]) -> None:
    """Sums, one per response; the gradient falls on response tokens alone."""
    logps, mask, anchor = hand_worked_tokens()
    logps.requires_grad_()
    found = demonstration_loss(loss, logps, mask, anchor)
    assert_close(found, float64(*values), atol=1e-14, rtol=0)
    found.sum().backward()
    assert_close(logps.grad, float64(slopes[0], slopes[1], 0, 0, 0, slopes[2]).view(2, 3), atol=1e-14, rtol=0)


@pytest.mark.parametrize("loss", ["iw", "psft"])
def test_at_the_anchor_the_gradient_is_that_of_the_likelihood(loss: SFTLoss) -> None:
    logps, mask, _ = hand_worked_tokens()
    logps.requires_grad_()
    demonstration_loss(loss, logps, mask, logps.detach()).sum().backward()
    assert_close(logps.grad, -mask.double(), atol=1e-14, rtol=0)


def test_a_long_way_from_the_anchor_the_weight_is_bounded() -> None:
    """A ratio of e^50 per token: 16 times log 2."""
    logps, mask = float64(-BIT).unsqueeze(0), torch.tensor([[True]])
    assert demonstration_loss("iw", logps, mask, logps - 50).item() == pytest.approx(16 * BIT)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("left", "right", "value"), [(0, 4, -2.5), (4, 0, -2.5), (3, 7, -1000.0), (2, 2, -torch.inf)])
def test_padding_changes_nothing(loss: SFTLoss, left: int, right: int, value: float) -> None:
    """Whatever the padding holds, its gradient is 0 too."""
    logps, mask, anchor = hand_worked_tokens()
    pad = torch.nn.functional.pad
    padded = pad(logps, (left, right), value=value).requires_grad_()
    wide = pad(mask, (left, right), value=False)
    found = demonstration_loss(loss, padded, wide, pad(anchor, (left, right), value=value))
    assert_close(found, demonstration_loss(loss, logps, mask, anchor), atol=1e-14, rtol=0)
    found.sum().backward()
    assert padded.grad is not None
    assert (padded.grad[~wide] == 0).all()


@pytest.mark.parametrize("loss", ["iw", "psft"])
def test_a_loss_with_an_anchor_needs_it(loss: SFTLoss) -> None:
    logps, mask, _ = hand_worked_tokens()
    with pytest.raises(ValueError, match="give anchor_logps"):
        demonstration_loss(loss, logps, mask)


def test_nll_is_the_loss_of_sft() -> None:
    logps, mask, _ = hand_worked_tokens()
    assert_close(demonstration_loss("nll", logps, mask), sft_loss(logps, mask), atol=0, rtol=0)


def test_dft_equals_that_of_trl(tmp_path: Path) -> None:
    """One batch through both: loss 1e-5, 100 times its gradient. TRL adds the end token, pads, and has its own code."""
    policy, rows, tokenizer = tiny_lm(), random_demonstrations(2, 5), make_tokenizer()
    assert all(row.demo.ids[-1] == END for row in rows)
    trainer = SFTTrainer(
        model=tiny_lm(),
        args=SFTConfig(
            output_dir=str(tmp_path),
            loss_type="dft",
            bf16=False,
            use_cpu=True,
            report_to="none",
            max_length=None,
            activation_checkpointing=False,
            dataset_num_proc=None,
        ),
        train_dataset=Dataset.from_list(
            [
                {"prompt": tokenizer.decode(row.prompt_ids), "completion": tokenizer.decode(row.demo.ids[:-1])}
                for row in rows
            ]
        ),
        processing_class=tokenizer,
    )
    trainer.model.train()
    columns = [{name: row[name] for name in ("input_ids", "labels")} for row in trainer.train_dataset]
    theirs = trainer.compute_loss(trainer.model, trainer.data_collator(columns))
    (100 * theirs).backward()  # of unlikely tokens it is small

    found = response_logps(policy, pack([row.prompt_ids for row in rows], [row.demo.ids for row in rows]))
    ours = demonstration_loss("dft", found.logps, found.mask).sum() / found.mask.sum()
    (100 * ours).backward()
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    assert_gradients_agree(gradients(policy), gradients(trainer.model))


# T-SPIN ------------------------------------------------------------------------------------------------------------


def test_tspin_value_rewards_and_gradient() -> None:
    """beta 1/2, history weight 3; log pi of demonstration, sample, first sample: 1 bit, -1 bit, -5 bits.

    Margins of rewards: 1 bit and 2 bits; sigmoids 2/3 and 4/5. Loss log(3/2) + 3 log(5/4).
    Slopes: -1/2 * 1/3; 1/2 * 1/3 - 3 * 1/2 * 1/5; 3 * 1/2 * 1/5.
    """
    sides = [float64(bits * BIT).requires_grad_() for bits in (1, -1, -5)]
    found = tspin_loss(*sides, beta=0.5, history_weight=3.0)
    assert_close(found.loss, float64(log(3 / 2) + 3 * log(5 / 4)), atol=1e-14, rtol=0)
    found.loss.sum().backward()
    slopes = [side.grad.item() for side in sides if side.grad is not None]
    assert slopes == pytest.approx([-1 / 6, 1 / 6 - 3 / 10, 3 / 10], abs=1e-14)
    rewards = (found.demo_reward, found.sample_reward, found.first_reward)
    assert [reward.item() for reward in rewards] == pytest.approx([BIT / 2, -BIT / 2, -5 * BIT / 2], abs=1e-14)
    assert not any(reward.requires_grad for reward in rewards)


def test_tspin_keeps_a_gradient_where_samples_are_like_demonstrations() -> None:
    """With the first term alone nothing is left to lower a first sample: history weight 0 against 1."""
    for weight, slope in ((0.0, 0.0), (1.0, 0.25)):
        first = float64(-2.0).requires_grad_()
        tspin_loss(float64(-2.0), float64(-2.0), first, 0.5, weight).loss.backward()
        assert first.grad is not None
        assert first.grad.item() == pytest.approx(slope, abs=1e-14)


def test_tspin_where_all_three_are_equal() -> None:
    same = torch.full((2,), -7.0)
    assert_close(tspin_loss(same, same, same, 0.1, 0.5).loss, torch.full((2,), 1.5 * BIT), atol=1e-6, rtol=0)


def test_tspin_without_history_is_the_logistic_loss_of_the_first_two() -> None:
    demo, sample = float64(3 * BIT, -BIT), float64(BIT, 3 * BIT)
    expected = -torch.nn.functional.logsigmoid(0.5 * (demo - sample))
    assert_close(tspin_loss(demo, sample, float64(0.0, 0.0), 0.5, 0.0).loss, expected, atol=1e-14, rtol=0)
