"""Item 10 of method.md, section 4: where RFT with a table of rewards comes to rest.

The reward step descends E over y ~ d, y~ ~ pi of `losses.reward_loss`, by enumeration; the policy step is exact,
pi = pi_ref exp(r / beta) / Z. Every prompt counts once, so that none of them is slower than the others. Float64.
"""

from collections.abc import Iterator

import pytest
import torch
from helpers.tabular import FiniteProblem, gradient, minimise, one_thread, optimal_policy, random_problem, random_table
from torch import Tensor
from torch.testing import assert_close

from demotune.training.losses import RewardLink, reward_loss

PROBLEMS = pytest.mark.parametrize(
    ("seed", "prompts", "responses", "beta"), [(0, 1, 2, 0.1), (1, 3, 4, 0.5), (2, 2, 3, 1.0), (3, 2, 5, 2.5)]
)
LINKS: tuple[RewardLink, ...] = ("linear", "logistic")


@pytest.fixture(scope="module", autouse=True)
def single_threaded() -> Iterator[None]:
    with one_thread():
        yield


def near(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Absolute, so that the number at the call is the largest error accepted."""
    assert_close(actual, expected, atol=tolerance, rtol=0.0)


def expected_reward_loss(problem: FiniteProblem, reward: Tensor, policy: Tensor, link: RewardLink) -> Tensor:
    """Sum over x of E over y ~ d, y~ ~ policy of the loss. `reward` and `policy` are (S, A)."""
    shape = (*reward.shape, reward.shape[1])
    demo_reward = reward[:, :, None].expand(shape).reshape(-1)
    sample_reward = reward[:, None, :].expand(shape).reshape(-1)
    pair_probs = problem.demo_probs[:, :, None] * policy[:, None, :]
    return (pair_probs.reshape(-1) * reward_loss(demo_reward, sample_reward, link)).sum()


def reward_slope(problem: FiniteProblem, reward: Tensor, policy: Tensor, link: RewardLink) -> Tensor:
    """The expected gradient of a reward step, samples drawn from `policy` and so not differentiated. (S, A)."""
    return gradient(lambda table: expected_reward_loss(problem, table, policy, link), reward)


def resting_policy(problem: FiniteProblem, beta: float, link: RewardLink) -> Tensor:
    """d for the linear link, pi_ref^(beta / (1 + beta)) d^(1 / (1 + beta)) / Z for the logistic one. (S, A)."""
    if link == "linear":
        return problem.demo_probs
    mixture = problem.ref_logps.exp() ** (beta / (1 + beta)) * problem.demo_probs ** (1 / (1 + beta))
    return mixture / mixture.sum(dim=1, keepdim=True)


def reward_behind(problem: FiniteProblem, policy: Tensor, beta: float) -> Tensor:
    """A reward whose closed-form policy is `policy`: beta log(pi / pi_ref), up to a constant per prompt."""
    return beta * (policy.log() - problem.ref_logps)


# Stationary points -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", LINKS)
@PROBLEMS
def test_reward_step_and_policy_step_agree_to_stay(
    link: RewardLink, seed: int, prompts: int, responses: int, beta: float
) -> None:
    """At the resting point the expected gradient of the reward is 0 to 1e-10 and the policy is its optimum to 1e-12,
    also after a shift of the reward by a constant per prompt.
    """
    problem = random_problem(seed, prompts, responses)
    policy = resting_policy(problem, beta, link)
    shift = 2 * torch.arange(1, prompts + 1, dtype=torch.float64)[:, None]
    for reward in (reward_behind(problem, policy, beta), reward_behind(problem, policy, beta) - shift):
        near(optimal_policy(reward, problem.ref_logps, beta), policy, 1e-12)
        near(reward_slope(problem, reward, policy, link), torch.zeros_like(reward), 1e-10)


@pytest.mark.parametrize("link", LINKS)
@PROBLEMS
def test_elsewhere_the_reward_still_moves(
    link: RewardLink, seed: int, prompts: int, responses: int, beta: float
) -> None:
    """At pi = d the logistic link moves on, at the logistic link's resting point the linear one does; and so do both
    at the start and at random rewards: by a tenth or more of the policy's distance, in the largest entries of both.
    """
    problem = random_problem(seed, prompts, responses)
    rest = resting_policy(problem, beta, link)
    other = resting_policy(problem, beta, "logistic" if link == "linear" else "linear")
    randoms = [
        optimal_policy(random_table(seed + n, rest, scale=beta), problem.ref_logps, beta) for n in range(100, 120)
    ]
    for policy in (other, problem.ref_logps.exp(), *randoms):
        distance = (policy - rest).abs().max()
        slope = reward_slope(problem, reward_behind(problem, policy, beta), policy, link)
        assert distance > 1e-3
        assert slope.abs().max() > 0.1 * distance


@PROBLEMS
def test_linear_reward_slope_is_policy_minus_demonstrations(
    seed: int, prompts: int, responses: int, beta: float
) -> None:
    """Whatever the reward is, to 1e-13: so it vanishes at pi = d and nowhere else."""
    problem = random_problem(seed, prompts, responses)
    for number in range(5):
        reward = random_table(seed + number, problem.demo_probs, scale=3.0)
        policy = optimal_policy(reward, problem.ref_logps, beta)
        near(reward_slope(problem, reward, policy, "linear"), policy - problem.demo_probs, 1e-13)


# The logistic reward step, solved ----------------------------------------------------------------------------------


def solved_reward(problem: FiniteProblem, policy: Tensor) -> Tensor:
    return minimise(lambda reward: expected_reward_loss(problem, reward, policy, "logistic"), torch.zeros_like(policy))


def centred(table: Tensor) -> Tensor:
    return table - table.mean(dim=1, keepdim=True)


@PROBLEMS
def test_solved_logistic_reward_is_a_density_ratio(seed: int, prompts: int, responses: int, beta: float) -> None:
    """The best reward against samples of pi is log(d / pi) up to a constant, 1e-6; at the resting policy it is a
    reward for which that policy is optimal.
    """
    problem = random_problem(seed, prompts, responses, spread=0.6)
    other = torch.softmax(random_table(seed + 100, problem.demo_probs, scale=0.6), dim=1)
    rest = resting_policy(problem, beta, "logistic")
    for policy in (other, rest):
        expected = problem.demo_probs.log() - policy.log()
        near(centred(solved_reward(problem, policy)), centred(expected), 1e-6)
    near(optimal_policy(solved_reward(problem, rest), problem.ref_logps, beta), rest, 1e-6)


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_solving_the_logistic_reward_each_stage_overshoots(beta: float) -> None:
    """Each stage multiplies log(pi / resting policy) by -1 / beta, to 1e-5: only beta > 1 converges that way."""
    problem = random_problem(seed=4, prompts=2, responses=3, spread=0.3)
    rest = resting_policy(problem, beta, "logistic")
    policy = problem.ref_logps.exp()
    for _ in range(3):
        distance = centred(policy.log() - rest.log())
        policy = optimal_policy(solved_reward(problem, policy), problem.ref_logps, beta)
        near(centred(policy.log() - rest.log()), -distance / beta, 1e-5)
        assert distance.abs().max() > 1e-2


# Alternating -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("steps_per_stage", [1, 4])
@pytest.mark.parametrize(("seed", "beta"), [(0, 0.1), (1, 0.5), (2, 1.0), (3, 3.0)])
def test_small_reward_steps_and_exact_policies_come_to_rest_there(
    link: RewardLink, steps_per_stage: int, seed: int, beta: float
) -> None:
    """1200 reward steps from r = 0, pi = pi_ref: the policy is within 1e-6 of the resting one, and of no other."""
    problem = random_problem(seed, prompts=2, responses=4, spread=0.6)
    eta = 0.5 * (beta if link == "linear" else beta / (1 + beta))
    reward = torch.zeros_like(problem.demo_probs)
    for _ in range(1200 // steps_per_stage):
        policy = optimal_policy(reward, problem.ref_logps, beta)
        for _ in range(steps_per_stage):
            reward = reward - eta * reward_slope(problem, reward, policy, link)
    policy = optimal_policy(reward, problem.ref_logps, beta)
    near(policy, resting_policy(problem, beta, link), 1e-6)
    assert (policy - resting_policy(problem, beta, "logistic" if link == "linear" else "linear")).abs().max() > 1e-3
