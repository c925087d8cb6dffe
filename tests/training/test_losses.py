"""The losses against numbers worked out by hand. What they mean for learning is held by test_theory.py."""

from math import exp, log

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from demotune.config.links import Link
from demotune.training.losses import implicit_reward_loss, loss_at_reference, sft_loss

LINKS: tuple[Link, ...] = ("logistic", "linear", "nce")
BETA = 0.5


def float64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def hand_worked_pairs() -> tuple[Tensor, Tensor]:
    """Two pairs (demo_logratio, sample_logratio), chosen so that every sigmoid is a fraction. log 2 = one bit.

    Pair 1: (3 bits, 1 bit):   margin m = 0.5 * (3 - 1) = 1 bit,    sigmoid(m) = 2/3.
    Pair 2: (-1 bit, 3 bits):  margin m = 0.5 * (-1 - 3) = -2 bits, sigmoid(m) = 1/5.
    """
    bit = log(2)
    return float64(3 * bit, -bit), float64(bit, 3 * bit)


# Links: value ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        # -log(2/3) and -log(1/5)
        ("logistic", (0.4054651081081644, 1.6094379124341003)),
        # -(1 bit) and +(2 bits)
        ("linear", (-0.6931471805599453, 1.3862943611198906)),
        # sigmoid(3 bits) = 8/9, sigmoid(-1 bit) = 1/3; so log(9/8) + log(3) = log(27/8)
        # sigmoid(-1 bit) = 1/3, sigmoid(-3 bits) = 1/9; so log(3) + log(9) = log(27)
        ("nce", (1.2163953243244932, 3.295836866004329)),
    ],
)
def test_link_value(link: Link, expected: tuple[float, float]) -> None:
    """One value per pair, not reduced."""
    assert_close(implicit_reward_loss(*hand_worked_pairs(), BETA, link).loss, float64(*expected), atol=1e-14, rtol=0)


@pytest.mark.parametrize("link", LINKS)
def test_rewards_are_beta_logratios_outside_the_graph(link: Link) -> None:
    demo, sample = (x.requires_grad_() for x in hand_worked_pairs())
    pairs = implicit_reward_loss(demo, sample, BETA, link)
    # half of (3 bits, -1 bit) and of (1 bit, 3 bits)
    assert_close(pairs.demo_reward, float64(1.0397207708399179, -0.34657359027997264), atol=1e-14, rtol=0)
    assert_close(pairs.sample_reward, float64(0.34657359027997264, 1.0397207708399179), atol=1e-14, rtol=0)
    assert pairs.loss.requires_grad
    assert not pairs.demo_reward.requires_grad
    assert not pairs.sample_reward.requires_grad


@pytest.mark.parametrize(("link", "expected"), [("logistic", 0.6931471805599453), ("linear", 0.0), ("nce", 2 * log(2))])
def test_loss_at_reference(link: Link, expected: float) -> None:
    """sigmoid(0) = 1/2: once for logistic, twice for nce; linear is 0. Whatever beta is."""
    assert loss_at_reference(link) == pytest.approx(expected, abs=1e-15)
    for beta in (0.01, 0.1, 7.0):
        loss = implicit_reward_loss(torch.zeros(3), torch.zeros(3), beta, link).loss
        assert_close(loss, torch.full((3,), expected), atol=1e-7, rtol=0)


# Links: gradient ---------------------------------------------------------------------------------------------------


def link_gradients(link: Link, demo: Tensor, sample: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    demo, sample = demo.clone().requires_grad_(), sample.clone().requires_grad_()
    implicit_reward_loss(demo, sample, beta, link).loss.sum().backward()
    assert demo.grad is not None
    assert sample.grad is not None
    return demo.grad, sample.grad


@pytest.mark.parametrize(
    ("link", "demo_expected", "sample_expected"),
    [
        # -+ beta * sigmoid(-m): 0.5 * 1/3 and 0.5 * 4/5
        ("logistic", (-1 / 6, -2 / 5), (1 / 6, 2 / 5)),
        # -+ beta
        ("linear", (-0.5, -0.5), (0.5, 0.5)),
        # -sigmoid(-demo): 1/9 and 2/3; +sigmoid(sample): 2/3 and 8/9; no beta
        ("nce", (-1 / 9, -2 / 3), (2 / 3, 8 / 9)),
    ],
)
def test_link_gradient(link: Link, demo_expected: tuple[float, float], sample_expected: tuple[float, float]) -> None:
    demo_grad, sample_grad = link_gradients(link, *hand_worked_pairs(), BETA)
    assert_close(demo_grad, float64(*demo_expected), atol=1e-14, rtol=0)
    assert_close(sample_grad, float64(*sample_expected), atol=1e-14, rtol=0)


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("beta", [0.05, 1.0, 4.0])
def test_descent_raises_demonstrations_and_lowers_samples(link: Link, beta: float) -> None:
    grid = torch.linspace(-5, 5, 11, dtype=torch.float64)
    demo_grad, sample_grad = link_gradients(link, *torch.cartesian_prod(grid, grid).unbind(dim=1), beta)
    assert (demo_grad < 0).all()
    assert (sample_grad > 0).all()


@pytest.mark.parametrize("link", LINKS)
def test_pairs_do_not_touch_each_other(link: Link) -> None:
    demo, sample = hand_worked_pairs()
    together = implicit_reward_loss(demo, sample, BETA, link).loss
    alone = [implicit_reward_loss(demo[i : i + 1], sample[i : i + 1], BETA, link).loss for i in range(2)]
    assert_close(together, torch.cat(alone), atol=0, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    ("link", "beta", "demo", "sample", "loss", "demo_grad", "sample_grad"),
    [
        # margins of +-2000 and -250 nats: log sigmoid(m) is 0 or m to the last digit
        ("logistic", 1.0, 1000.0, -1000.0, 0.0, 0.0, 0.0),
        ("logistic", 1.0, -1000.0, 1000.0, 2000.0, -1.0, 1.0),
        ("logistic", 0.125, -1000.0, 1000.0, 250.0, -0.125, 0.125),
        ("logistic", 1.0, 1000.0, 1000.0, log(2), -0.5, 0.5),
        ("nce", 1.0, 1000.0, -1000.0, 0.0, 0.0, 0.0),
        ("nce", 1.0, -1000.0, 1000.0, 2000.0, -1.0, 1.0),
        ("nce", 1.0, 1000.0, 1000.0, 1000.0, 0.0, 1.0),
        ("nce", 1.0, -1000.0, -1000.0, 1000.0, -1.0, 0.0),
        ("linear", 0.125, -1000.0, 1000.0, 250.0, -0.125, 0.125),
    ],
)
def test_a_thousand_nats(
    dtype: torch.dtype,
    link: Link,
    *,
    beta: float,
    demo: float,
    sample: float,
    loss: float,
    demo_grad: float,
    sample_grad: float,
) -> None:
    """Finite and right far outside the range of exp. 1000 and 2000 are exact in bfloat16; log 2 is not (2^-9)."""
    demo_logratio, sample_logratio = torch.tensor([demo], dtype=dtype), torch.tensor([sample], dtype=dtype)
    actual = implicit_reward_loss(demo_logratio, sample_logratio, beta, link).loss
    grads = link_gradients(link, demo_logratio, sample_logratio, beta)
    tolerance = 2e-3 if dtype == torch.bfloat16 else 1e-6
    for value, expected in zip((actual, *grads), (loss, demo_grad, sample_grad), strict=True):
        assert_close(value, torch.tensor([expected], dtype=dtype), atol=tolerance, rtol=0)


def test_logistic_keeps_small_losses() -> None:
    """-log sigmoid(30) = log(1 + e^-30) = e^-30 to 13 digits; log(sigmoid(30)) in float32 would be 0."""
    loss = implicit_reward_loss(torch.tensor([30.0]), torch.tensor([0.0]), 1.0, "logistic").loss
    assert loss.item() == pytest.approx(exp(-30), rel=1e-5)


# SFT ---------------------------------------------------------------------------------------------------------------


def hand_worked_tokens() -> tuple[Tensor, Tensor]:
    """Responses of 3 and 1 tokens, with probabilities (1/2, 1/4, 1/8) at the start and 1/3 at the end of their rows.

    The other positions, padding and prompt, hold log-probabilities too, as they do in a real batch.
    """
    logps = float64(1 / 2, 1 / 4, 1 / 8, 0.9, 0.7, 0.2, 0.6, 0.1, 0.3, 1 / 3).log().view(2, 5)
    mask = torch.tensor([[True, True, True, False, False], [False, False, False, False, True]])
    return logps, mask


def test_sft_value() -> None:
    """Sums, one per response: -log(1/2 * 1/4 * 1/8) = log 64 and -log(1/3) = log 3."""
    assert_close(sft_loss(*hand_worked_tokens()), float64(4.1588830833596715, 1.0986122886681098), atol=1e-14, rtol=0)


def test_sft_gradient_is_minus_one_on_response_tokens_and_zero_elsewhere() -> None:
    logps, mask = hand_worked_tokens()
    logps.requires_grad_()
    sft_loss(logps, mask).sum().backward()
    assert_close(logps.grad, float64(-1, -1, -1, 0, 0, 0, 0, 0, 0, -1).view(2, 5), atol=0, rtol=0)


@pytest.mark.parametrize("masked_value", [0.0, -0.5, -1000.0])
def test_sft_masked_positions_change_nothing(masked_value: float) -> None:
    logps, mask = hand_worked_tokens()
    assert_close(sft_loss(logps.masked_fill(~mask, masked_value), mask), sft_loss(logps, mask), atol=0, rtol=0)


@pytest.mark.parametrize(("left", "right"), [(0, 4), (4, 0), (3, 7)])
def test_sft_padding_changes_nothing(left: int, right: int) -> None:
    logps, mask = hand_worked_tokens()
    padded_logps = torch.nn.functional.pad(logps, (left, right), value=-2.5)
    padded_mask = torch.nn.functional.pad(mask, (left, right), value=False)
    assert_close(sft_loss(padded_logps, padded_mask), sft_loss(logps, mask), atol=1e-14, rtol=0)


def test_sft_rows_do_not_touch_each_other() -> None:
    logps, mask = hand_worked_tokens()
    assert_close(sft_loss(logps[1:], mask[1:]), sft_loss(logps, mask)[1:], atol=0, rtol=0)
