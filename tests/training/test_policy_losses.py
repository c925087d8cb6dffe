"""The losses and advantages of RFT against numbers worked out by hand, naive forms, and sums over all outcomes.

Float64. `bit` is log 2, so that ratios and sigmoids are fractions.
"""

from itertools import product
from math import exp, log, sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from demotune.config.links import RewardLink
from demotune.models.reward_head import bounded
from demotune.training.advantages import (
    generalised,
    group_normalised,
    leave_one_out,
    returns_to_go,
    shaped_scores,
    token_rewards,
)
from demotune.training.losses import (
    KLEstimator,
    PolicyLoss,
    RatioLevel,
    kl_estimate,
    policy_loss,
    reward_loss,
)

BIT = log(2)
INF, NAN = float("inf"), float("nan")
LINKS: tuple[RewardLink, ...] = ("logistic", "linear")
LEVELS: tuple[RatioLevel, ...] = ("sequence", "token")
ESTIMATORS: tuple[KLEstimator, ...] = ("k1", "k3")


def float64(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def normal(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def near(actual: Tensor | None, expected: Tensor, tolerance: float = 1e-14) -> None:
    """Absolute: the number at the call is the largest error accepted."""
    assert actual is not None
    assert_close(actual, expected, atol=tolerance, rtol=0.0)


# Reward loss -------------------------------------------------------------------------------------------------------


def hand_worked_rewards() -> tuple[Tensor, Tensor]:
    """Two pairs (demo_reward, sample_reward).

    Pair 1: (3 bits, 2 bits): margin 1 bit,   sigmoid 2/3, sum 5 bits.
    Pair 2: (-1 bit, 1 bit):  margin -2 bits, sigmoid 1/5, sum 0.
    """
    return float64([3 * BIT, -BIT]), float64([2 * BIT, BIT])


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("logistic", [0.4054651081081644, 1.6094379124341003]),  # log(3/2), log(5)
        ("linear", [-0.6931471805599453, 1.3862943611198906]),  # -1 bit, 2 bits
    ],
)
def test_reward_loss_value(link: RewardLink, expected: list[float]) -> None:
    """One value per pair. The centre 0.5 adds 0.5 * (5 bits)^2 = 12.5 * 0.48045301391820142 to the first alone."""
    near(reward_loss(*hand_worked_rewards(), link), float64(expected))
    near(reward_loss(*hand_worked_rewards(), link, center=0.5), float64(expected) + float64([6.005662673977518, 0.0]))


def reward_gradients(link: RewardLink, demo: Tensor, sample: Tensor, center: float = 0.0) -> tuple[Tensor, ...]:
    demo, sample = demo.clone().requires_grad_(), sample.clone().requires_grad_()
    return torch.autograd.grad(reward_loss(demo, sample, link, center).sum(), (demo, sample))


@pytest.mark.parametrize(("link", "slopes"), [("logistic", [1 / 3, 4 / 5]), ("linear", [1.0, 1.0])])
def test_reward_loss_gradient(link: RewardLink, slopes: list[float]) -> None:
    """-+ sigmoid(-margin), or -+ 1; the centre 0.5 adds 2 * 0.5 * (5 bits, 0) to both sides."""
    demo, sample = reward_gradients(link, *hand_worked_rewards())
    near(demo, -float64(slopes))
    near(sample, float64(slopes))
    demo, sample = reward_gradients(link, *hand_worked_rewards(), center=0.5)
    near(demo, float64([5 * BIT, 0.0]) - float64(slopes))
    near(sample, float64([5 * BIT, 0.0]) + float64(slopes))


@pytest.mark.parametrize("link", LINKS)
def test_reward_descent_raises_demonstrations_and_lowers_samples(link: RewardLink) -> None:
    """At every point of a grid; and a shift of both rewards changes nothing without a centre (1e-14)."""
    grid = torch.linspace(-5, 5, 11, dtype=torch.float64)
    demo, sample = torch.cartesian_prod(grid, grid).unbind(dim=1)
    demo_gradient, sample_gradient = reward_gradients(link, demo, sample)
    assert (demo_gradient < 0).all()
    assert (sample_gradient > 0).all()
    near(reward_loss(demo + 3, sample + 3, link), reward_loss(demo, sample, link))


def test_centre_moves_the_sum_of_rewards_towards_zero() -> None:
    """At margin 0 with rewards of +-2 the two sides' gradients sum to 4 * 0.01 * (2 + 2) = 0.16 in the same sign."""
    for level in (2.0, -2.0):
        gradients = reward_gradients("logistic", float64([level]), float64([level]), center=0.01)
        near(gradients[0] + gradients[1], float64([0.08 * level]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("demo", "loss", "slope"), [(1000.0, 0.0, 0.0), (-1000.0, 2000.0, -1.0)])
def test_reward_loss_far_outside_the_range_of_exp(dtype: torch.dtype, demo: float, loss: float, slope: float) -> None:
    rewards = torch.tensor([demo], dtype=dtype), torch.tensor([-demo], dtype=dtype)
    assert reward_loss(*rewards, "logistic").item() == loss
    assert [gradient.item() for gradient in reward_gradients("logistic", *rewards)] == [slope, -slope]


# Bounded rewards ---------------------------------------------------------------------------------------------------


def test_bounded() -> None:
    """R = 3 at scores of 1 bit, -2 bits, 0: 3 * (2/3, 1/5, 1/2), with slopes 3 * s (1 - s); no bound, no change."""
    scores = float64([BIT, -2 * BIT, 0.0]).requires_grad_()
    rewards = bounded(scores, 3.0)
    near(rewards, float64([2.0, 0.6, 1.5]))
    near(torch.autograd.grad(rewards.sum(), scores)[0], float64([2 / 3, 12 / 25, 3 / 4]))
    near(bounded(float64([-1000.0, 1000.0]), 3.0), float64([0.0, 3.0]), 0.0)
    assert bounded(scores, None) is scores


# KL estimates ------------------------------------------------------------------------------------------------------

POLICY, REFERENCE = [1 / 2, 1 / 4, 1 / 4], [1 / 4, 1 / 4, 1 / 2]
"""KL = 1/2 log 2 + 1/4 log 1 + 1/4 log(1/2) = 1/4 bit."""


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        ("k1", [BIT, 0.0, -BIT]),
        ("k3", [BIT - 1 / 2, 0.0, 1 - BIT]),  # 1/2 - 1 + bit, 0, 2 - 1 - bit
    ],
)
def test_kl_estimate(estimator: KLEstimator, expected: list[float]) -> None:
    """Each value; and their mean under the policy is the KL, 1/4 bit."""
    estimates = kl_estimate(float64(POLICY).log(), float64(REFERENCE).log(), estimator)
    near(estimates, float64(expected))
    near(float64(POLICY) @ estimates, float64(BIT / 4))


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("seed", range(3))
def test_kl_estimates_are_unbiased(estimator: KLEstimator, seed: int) -> None:
    """Over a categorical of 6, to 1e-13; k3 is nowhere negative, k1 somewhere is."""
    logps, ref_logps = normal(seed, 6).log_softmax(-1), normal(seed + 50, 6).log_softmax(-1)
    kl = sum(exp(p) * (p - q) for p, q in zip(logps.tolist(), ref_logps.tolist(), strict=True))
    estimates = kl_estimate(logps, ref_logps, estimator)
    near(logps.exp() @ estimates, float64(kl), 1e-13)
    assert bool((estimates >= 0).all()) == (estimator == "k3")


def test_k3_keeps_tiny_differences() -> None:
    """At a log-ratio h = 1e-6, k3 = h^2/2 to 1e-6 of it; exp(-h) - 1 + h in plain arithmetic has no such digits."""
    assert kl_estimate(float64(1e-6), float64(0.0), "k3").item() == pytest.approx(5e-13, rel=1e-6)


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        # pi (k1 - KL): 1/2 * 3/4, 1/4 * -1/4, 1/4 * -5/4 bits: the KL's own gradient
        ("k1", [3 / 8 * BIT, -1 / 16 * BIT, -5 / 16 * BIT]),
        # that, plus E[pi_ref/pi grad log pi] = pi_ref - pi
        ("k3", [3 / 8 * BIT - 1 / 4, -1 / 16 * BIT, -5 / 16 * BIT + 1 / 4]),
    ],
)
def test_gradient_of_a_kl_penalty_inside_the_reward(estimator: KLEstimator, expected: list[float]) -> None:
    """Every outcome as a one-token response, weighted by its probability: the expected policy gradient in logits."""
    logits = float64(POLICY).log().requires_grad_()
    logps, ref_logps = logits.log_softmax(-1), float64(REFERENCE).log()
    kl_gradient = torch.autograd.grad((logps.exp() * (logps - ref_logps)).sum(), logits, retain_graph=True)[0]
    near(kl_gradient, float64([3 / 8 * BIT, -1 / 16 * BIT, -5 / 16 * BIT]))
    penalty = -kl_estimate(logps, ref_logps, estimator).detach()
    found = policy_loss(
        logps[:, None], logps[:, None].detach(), penalty, torch.ones(3, 1).bool(), epsilon=0.2, level="sequence"
    )
    near(torch.autograd.grad(float64(POLICY) @ found.loss, logits)[0], float64(expected))


# Policy loss -------------------------------------------------------------------------------------------------------

EPSILON = 0.2


def surrogate(ratios: object, advantages: object, level: RatioLevel, mask: object = None) -> tuple[PolicyLoss, Tensor]:
    """The loss at given token ratios, and the gradient of its sum with respect to `logps`."""
    ratio = float64(ratios)
    response_mask = torch.ones_like(ratio).bool() if mask is None else torch.tensor(mask)
    old_logps = torch.full_like(ratio, -1.5)
    logps = (old_logps + ratio.log()).requires_grad_()
    found = policy_loss(logps, old_logps, float64(advantages), response_mask, epsilon=EPSILON, level=level)
    return found, torch.autograd.grad(found.loss.sum(), logps)[0]


SURROGATE_CASES = pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope", "low", "high"),
    [
        (1.25, 2.0, -2.4, 0.0, False, True),  # min(2.5, 1.2 * 2)
        (1.25, -2.0, 2.5, 2.5, False, False),  # min(-2.5, -2.4)
        (0.75, 2.0, -1.5, -1.5, False, False),  # min(1.5, 0.8 * 2)
        (0.75, -2.0, 1.6, 0.0, True, False),  # min(-1.5, -1.6)
        (0.9, 2.0, -1.8, -1.8, False, False),
        (0.9, -2.0, 1.8, 1.8, False, False),
        (1.0, 2.0, -2.0, -2.0, False, False),
        (1.25, 0.0, 0.0, 0.0, False, False),
    ],
)


@SURROGATE_CASES
@pytest.mark.parametrize("level", LEVELS)
def test_surrogate_of_one_ratio(
    level: RatioLevel, ratio: float, advantage: float, *, loss: float, slope: float, low: bool, high: bool
) -> None:
    """Epsilon 0.2. The slope in log pi is -A * ratio inside, 0 where the clip holds. A descent step with a positive
    advantage raises log pi, with a negative one lowers it.

    At level `sequence` the ratio is that of the whole response, made of two tokens' (1.5, ratio / 1.5).
    """
    if level == "sequence":
        found, gradient = surrogate([[1.5, ratio / 1.5]], [advantage], level)
        near(found.ratio, float64([ratio]))
        near(gradient, float64([[slope, slope]]))
        flags = found.clipped_low.tolist(), found.clipped_high.tolist()
        assert flags == ([low], [high])
    else:
        found, gradient = surrogate([[ratio]], [[advantage]], level)
        near(found.ratio, float64([[ratio]]))
        near(gradient, float64([[slope]]))
        assert (found.clipped_low.tolist(), found.clipped_high.tolist()) == ([[low]], [[high]])
    near(found.loss, float64([loss]))
    assert not found.ratio.requires_grad


def test_token_level_sums_over_tokens() -> None:
    """Ratios (3/2, 9/10, 3/4) with A = 1: -(1.2 + 0.9 + 0.75); with A = -1: 1.5 + 0.9 + 0.8; one each: see below."""
    ratios = [[1.5, 0.9, 0.75]] * 3
    found, gradient = surrogate(ratios, [[1.0] * 3, [-1.0] * 3, [-1.0, 1.0, 2.0]], "token")
    near(found.loss, float64([-2.85, 3.2, 1.5 - 0.9 - 1.5]))
    near(gradient, float64([[0.0, -0.9, -0.75], [1.5, 0.9, 0.0], [1.5, -0.9, -1.5]]))
    assert found.clipped_high.tolist() == [[True, False, False], [False] * 3, [False] * 3]
    assert found.clipped_low.tolist() == [[False] * 3, [False, False, True], [False] * 3]


def test_the_levels_differ_where_tokens_cancel() -> None:
    """Ratios 2 and 1/2: as one response, 1, nothing is clipped; token by token the first is, at 1.2."""
    sequence, sequence_gradient = surrogate([[2.0, 0.5]], [1.0], "sequence")
    token, token_gradient = surrogate([[2.0, 0.5]], [[1.0, 1.0]], "token")
    near(sequence.loss, float64([-1.0]))
    near(sequence_gradient, float64([[-1.0, -1.0]]))
    near(token.loss, float64([-1.7]))
    near(token_gradient, float64([[0.0, -0.5]]))


def random_rollouts(seed: int, level: RatioLevel) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Five responses of 1 to 6 tokens: (logps, old_logps, advantages, mask), zeros beyond the end."""
    mask = torch.arange(6) < torch.tensor([6, 1, 3, 5, 2])[:, None]
    old_logps = -normal(seed, 5, 6).abs().masked_fill(~mask, 0.0)
    logps = old_logps + normal(seed + 1, 5, 6, scale=0.3).masked_fill(~mask, 0.0)
    return logps, old_logps, normal(seed + 2, *(5, 6)[: 1 + (level == "token")]), mask


def naive_policy_loss(logps: Tensor, old_logps: Tensor, advantages: Tensor, mask: Tensor, level: RatioLevel) -> Tensor:
    """Equation 7 of the PPO paper, one number at a time."""
    losses = []
    for row, length in enumerate(mask.sum(dim=1).tolist()):
        log_ratios = [float(logps[row, t] - old_logps[row, t]) for t in range(length)]
        if level == "sequence":
            terms = [(exp(sum(log_ratios)), float(advantages[row]))]
        else:
            terms = [(exp(log_ratios[t]), float(advantages[row, t])) for t in range(length)]
        losses.append(-sum(min(r * a, min(max(r, 1 - EPSILON), 1 + EPSILON) * a) for r, a in terms))
    return float64(losses)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("seed", range(4))
def test_policy_loss_equals_its_naive_form(level: RatioLevel, seed: int) -> None:
    """Values to 1e-13; and a gradient of exactly 0 on response tokens means clipped, and the reverse."""
    logps, old_logps, advantages, mask = random_rollouts(10 * seed, level)
    logps.requires_grad_()
    found = policy_loss(logps, old_logps, advantages, mask, epsilon=EPSILON, level=level)
    near(found.loss.detach(), naive_policy_loss(logps.detach(), old_logps, advantages, mask, level), 1e-13)
    gradient = torch.autograd.grad(found.loss.sum(), logps)[0]
    clipped = found.clipped_low | found.clipped_high
    assert clipped.any()
    assert not clipped.all()
    assert torch.equal((gradient == 0) & mask, (clipped if level == "token" else clipped[:, None]) & mask)


@pytest.mark.parametrize("level", LEVELS)
def test_at_the_old_policy_the_gradient_is_that_of_reinforce(level: RatioLevel) -> None:
    """Ratio 1: the gradient of the mean is that of the mean of -A * log pi summed over tokens, whatever the lengths."""
    logps, _, advantages, mask = random_rollouts(3, level)
    logps.requires_grad_()
    found = policy_loss(logps, logps.detach(), advantages, mask, epsilon=EPSILON, level=level)
    per_token = advantages if level == "token" else advantages[:, None].expand_as(logps)
    expected = torch.where(mask, -per_token / 5, 0.0)
    near(torch.autograd.grad(found.loss.mean(), logps)[0], expected, 1e-15)
    near(found.ratio, torch.ones_like(found.ratio), 0.0)
    reinforce = -(per_token * logps * mask).sum(dim=1).mean()
    near(torch.autograd.grad(reinforce, logps)[0], expected, 1e-15)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("garbage", [(-INF, -INF, 0.0), (-INF, 0.0, 5.0), (NAN, NAN, NAN), (-3.0, -70.0, 1e9)])
def test_policy_loss_padding_and_masked_garbage_change_nothing(
    level: RatioLevel, garbage: tuple[float, float, float]
) -> None:
    """Loss to 1e-14, and a gradient of exactly 0 there; no ratio but 1 and no clip is reported there."""
    logps, old_logps, advantages, mask = random_rollouts(7, level)
    expected = policy_loss(logps, old_logps, advantages, mask, epsilon=EPSILON, level=level).loss
    mask = torch.nn.functional.pad(mask, (0, 3), value=False)
    logps, old_logps, padded = (
        torch.nn.functional.pad(table, (0, 3)).masked_fill(~mask, value) if table.ndim == 2 else table
        for table, value in zip((logps, old_logps, advantages), garbage, strict=True)
    )
    logps.requires_grad_()
    found = policy_loss(logps, old_logps, padded, mask, epsilon=EPSILON, level=level)
    near(found.loss.detach(), expected)
    gradient = torch.autograd.grad(found.loss.sum(), logps)[0]
    assert gradient.isfinite().all()
    assert (gradient[~mask] == 0).all()
    if level == "token":
        assert (found.ratio[~mask] == 1).all()
        assert not (found.clipped_low | found.clipped_high)[~mask].any()


@pytest.mark.parametrize("level", LEVELS)
def test_responses_do_not_touch_each_other(level: RatioLevel) -> None:
    tables = random_rollouts(11, level)
    together = policy_loss(*tables, epsilon=EPSILON, level=level).loss
    alone = [policy_loss(*(t[i : i + 1] for t in tables), epsilon=EPSILON, level=level).loss for i in range(5)]
    near(torch.cat(alone), together, 1e-14)


# Advantages of responses -------------------------------------------------------------------------------------------


def test_leave_one_out() -> None:
    """(1, 2, 6): 1 - 8/2, 2 - 7/2, 6 - 3/2; equal rewards have no advantage; a group of two is +- the difference."""
    near(leave_one_out(float64([[1, 2, 6], [5, 5, 5]])), float64([[-3.0, -1.5, 4.5], [0.0, 0.0, 0.0]]))
    near(leave_one_out(float64([[1, 4]])), float64([[-3.0, 3.0]]))


def test_group_normalised() -> None:
    """(1, 2, 6): (-2, -1, 3) / sqrt(14/2). (0, 1, 2) has a deviation of 1: +-1 / 1.0001 by default. No 0/0."""
    near(group_normalised(float64([[1, 2, 6]]), epsilon=0.0), float64([[-2.0, -1.0, 3.0]]) / sqrt(7))
    near(group_normalised(float64([[0, 1, 2]])), float64([[-0.9999000099990001, 0.0, 0.9999000099990001]]))
    near(group_normalised(float64([[5, 5, 5]])), float64([[0.0, 0.0, 0.0]]), 0.0)


@pytest.mark.parametrize("advantages", [leave_one_out, group_normalised])
def test_response_advantages_belong_to_their_prompt(advantages: object) -> None:
    """Each row alone gives the same, sums to 0 and ignores a constant (1e-12). One response is an error, not 0/0."""
    assert callable(advantages)
    rewards = normal(0, 4, 5)
    together = advantages(rewards)
    near(torch.cat([advantages(row[None]) for row in rewards]), together, 1e-14)
    near(together.sum(dim=1), torch.zeros(4, dtype=torch.float64), 1e-12)
    near(advantages(rewards + float64([[100.0], [-7.0], [0.0], [3.0]])), together, 1e-12)
    with pytest.raises(ValueError, match="at least 2 responses per prompt, got 1"):
        advantages(rewards[:, :1])


@pytest.mark.parametrize("responses", [2, 3])
def test_leave_one_out_is_unbiased(responses: int) -> None:
    """Over all 4^n draws, the expected gradient of the mean loss is -grad E r = -pi (r - E r) in logits, to 1e-14."""
    logits, reward = normal(1, 4).requires_grad_(), normal(2, 4)
    logps = logits.log_softmax(-1)
    probs = logps.detach().exp()
    expected_loss = torch.zeros((), dtype=torch.float64)
    for draw in product(range(4), repeat=responses):
        drawn = logps[list(draw)][:, None]
        advantages = leave_one_out(reward[None, list(draw)])[0]
        mask = torch.ones_like(drawn).bool()
        losses = policy_loss(drawn, drawn.detach(), advantages, mask, epsilon=EPSILON, level="sequence").loss
        expected_loss = expected_loss + probs[list(draw)].prod() * losses.mean()
    near(torch.autograd.grad(expected_loss, logits)[0], -probs * (reward - probs @ reward), 1e-14)


def test_shaped_scores() -> None:
    """(1, 2, 6) has mean 3 and standard deviation sqrt(7): (-2, -1, 3) / 2.6457; clipped at 0.5; or one of the two."""
    scores = float64([1, 2, 6])
    whitened = float64([-2.0, -1.0, 3.0]) / (sqrt(7) + 1e-8)
    near(shaped_scores(scores, whiten=True, clip=None), whitened)
    near(shaped_scores(scores, whiten=True, clip=0.5), float64([-0.5, -1 / (sqrt(7) + 1e-8), 0.5]))
    near(shaped_scores(scores, whiten=False, clip=1.5), float64([1.0, 1.5, 1.5]))
    near(shaped_scores(-scores, whiten=False, clip=1.5), float64([-1.0, -1.5, -1.5]))
    near(shaped_scores(scores, whiten=False, clip=None), scores, 0.0)
    near(shaped_scores(float64([4, 4]), whiten=True, clip=None), float64([0.0, 0.0]), 0.0)


# Advantages of tokens ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("garbage", [0.0, 9.0, INF, NAN])
def test_token_rewards(garbage: float) -> None:
    """beta = 1/2: -kl/2 at each token, and +2 on the second of two, -3 on the third of three; nothing on padding."""
    mask = torch.tensor([[True, True, False, False], [True, True, True, False]])
    kl = float64([[1.0, -2.0, 0.0, 0.0], [0.5, 0.0, 4.0, 0.0]]).masked_fill(~mask, garbage)
    found = token_rewards(float64([2.0, -3.0]), kl, mask, beta=0.5)
    near(found, float64([[-0.5, 3.0, 0.0, 0.0], [-0.25, 0.0, -5.0, 0.0]]))
    near(found.sum(dim=1), float64([2.0 - 0.5 * -1.0, -3.0 - 0.5 * 4.5]))


def test_returns_to_go() -> None:
    near(returns_to_go(float64([[1, 2, 4], [-1, 0, 0]])), float64([[7, 6, 4], [-1, 0, 0]]))


def test_generalised() -> None:
    """lam = 1/2.

    Row 1: deltas 0 + 1/4 - 1/2, 0 + 1/2 - 1/4, 1 + 0 - 1/2 = -1/4, 1/4, 1/2; advantages 0, 1/2, 1/2 from the end.
    Row 2, two tokens: deltas 1 + 1 - 1, 2 + 0 - 1 = 1, 1; advantages 3/2, 1.
    """
    mask = torch.tensor([[True, True, True], [True, True, False]])
    rewards, values = float64([[0, 0, 1], [1, 2, 0]]), float64([[0.5, 0.25, 0.5], [1, 1, 0]])
    near(generalised(rewards, values, mask, 0.5), float64([[0.0, 0.5, 0.5], [1.5, 1.0, 0.0]]))


def deltas_by_definition(rewards: list[float], values: list[float]) -> list[float]:
    following = [*values[1:], 0.0]
    return [r + after - value for r, after, value in zip(rewards, following, values, strict=True)]


@st.composite
def token_batches(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """(rewards, values, mask) of 1 to 4 responses of 1 to 7 tokens, with 0 to 2 columns of padding."""
    lengths = torch.tensor(draw(st.lists(st.integers(1, 7), min_size=1, max_size=4)))
    width = int(lengths.max()) + draw(st.integers(0, 2))
    mask = torch.arange(width) < lengths[:, None]
    seed = draw(st.integers(0, 10_000))
    tables = (normal(seed + n, *mask.shape, scale=3.0).masked_fill(~mask, 0.0) for n in (0, 1))
    return *tables, mask


@settings(max_examples=60, deadline=None)
@given(token_batches(), st.floats(0, 1), st.sampled_from([0.0, 5.0, NAN]))
def test_generalised_equals_its_definition(batch: tuple[Tensor, Tensor, Tensor], lam: float, garbage: float) -> None:
    """Sum over l of lam^l delta_{t+l}, token by token, to 1e-12; 0 beyond the end whatever the tables hold there."""
    rewards, values, mask = batch
    found = generalised(rewards.masked_fill(~mask, garbage), values.masked_fill(~mask, garbage), mask, lam)
    assert (found[~mask] == 0).all()
    for row, length in enumerate(mask.sum(dim=1).tolist()):
        deltas = deltas_by_definition(rewards[row, :length].tolist(), values[row, :length].tolist())
        expected = [sum(lam**step * deltas[t + step] for step in range(length - t)) for t in range(length)]
        near(found[row, :length], float64(expected), 1e-12)


@settings(max_examples=60, deadline=None)
@given(token_batches())
def test_generalised_at_both_ends(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    """lam = 1: what is still to come, less the value; lam = 0: the one-step errors. To 1e-12."""
    rewards, values, mask = batch
    near(generalised(rewards, values, mask, 1.0), (returns_to_go(rewards) - values).masked_fill(~mask, 0.0), 1e-12)
    found = generalised(rewards, values, mask, 0.0)
    for row, length in enumerate(mask.sum(dim=1).tolist()):
        deltas = deltas_by_definition(rewards[row, :length].tolist(), values[row, :length].tolist())
        near(found[row, :length], float64(deltas), 1e-12)


@settings(max_examples=30, deadline=None)
@given(token_batches(), st.floats(0, 1))
def test_right_values_leave_only_surprise(batch: tuple[Tensor, Tensor, Tensor], lam: float) -> None:
    """With values equal to the returns there is nothing left to learn: every advantage is 0, to 1e-12."""
    rewards, _, mask = batch
    near(generalised(rewards, returns_to_go(rewards), mask, lam), torch.zeros_like(rewards), 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_advantages_keep_their_type(dtype: torch.dtype) -> None:
    rewards, mask = normal(0, 2, 3).to(dtype), torch.ones(2, 3).bool()
    for found in (
        leave_one_out(rewards),
        group_normalised(rewards),
        token_rewards(rewards[:, 0].float(), rewards, mask, 0.1),
        generalised(rewards, rewards, mask, 0.95),
        returns_to_go(rewards),
        shaped_scores(rewards[:, 0], whiten=True, clip=1.0),
    ):
        assert found.dtype == dtype
