"""The statements of method.md, section 4, on problems small enough to enumerate. Item numbers are that section's.

Expected values never come from demotune: they are closed forms, finite differences or sums over all responses.
Item 12 is in test_theory_rate.py.
"""

from collections.abc import Iterator
from math import log

import numpy as np
import pytest
import torch
from helpers.tabular import (
    FiniteProblem,
    demo_log_likelihood,
    every_pair,
    expectation,
    expected_pair_loss,
    finite_difference_gradient,
    gradient,
    kl_to_reference,
    minimise,
    one_thread,
    optimal_policy,
    random_problem,
    random_table,
    random_token_problem,
    regularised_value,
)
from scipy.optimize import minimize
from torch import Tensor
from torch.testing import assert_close

from demotune.config.links import Link
from demotune.training.losses import implicit_reward_loss, loss_at_reference, sft_loss

LINKS: tuple[Link, ...] = ("logistic", "linear", "nce")
PROBLEMS = pytest.mark.parametrize(
    ("seed", "prompts", "responses", "beta"), [(0, 1, 2, 0.1), (1, 3, 5, 0.5), (2, 4, 7, 1.0), (3, 2, 10, 2.5)]
)


@pytest.fixture(scope="module", autouse=True)
def single_threaded() -> Iterator[None]:
    with one_thread():
        yield


def near(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Absolute, so that the number at the call is the largest error accepted."""
    assert_close(actual, expected, atol=tolerance, rtol=0.0)


def other_policies(problem: FiniteProblem, optimum: Tensor, seed: int) -> list[Tensor]:
    """Far from the optimum, close to it, deterministic, the reference and the demonstrations."""
    far = [torch.softmax(random_table(seed + i, optimum, scale=2.0), dim=1) for i in range(40)]
    close = [torch.softmax(optimum.log() + random_table(seed + i, optimum, scale=1e-3), dim=1) for i in range(40)]
    corners = [torch.eye(optimum.shape[1], dtype=torch.float64)[[y] * len(optimum)] for y in range(optimum.shape[1])]
    return [*far, *close, *corners, problem.ref_logps.exp(), problem.demo_probs]


# Item 1 ------------------------------------------------------------------------------------------------------------


@PROBLEMS
def test_closed_form_policy_beats_every_other(seed: int, prompts: int, responses: int, beta: float) -> None:
    problem = random_problem(seed, prompts, responses)
    reward = random_table(seed + 100, problem.demo_probs)
    optimum = optimal_policy(reward, problem.ref_logps, beta)
    best = regularised_value(problem, reward, optimum, beta)
    for policy in other_policies(problem, optimum, seed):
        assert regularised_value(problem, reward, policy, beta) < best


@PROBLEMS
def test_closed_form_policy_is_what_an_optimizer_finds(seed: int, prompts: int, responses: int, beta: float) -> None:
    problem = random_problem(seed, prompts, responses)
    reward = random_table(seed + 100, problem.demo_probs, scale=beta)
    logits = minimise(
        lambda logits: -regularised_value(problem, reward, torch.softmax(logits, dim=1), beta), problem.ref_logps
    )
    near(torch.softmax(logits, dim=1), optimal_policy(reward, problem.ref_logps, beta), 1e-6)


@pytest.mark.parametrize("link", LINKS)
@PROBLEMS
def test_reported_rewards_are_those_the_policy_is_optimal_for(
    link: Link, seed: int, prompts: int, responses: int, beta: float
) -> None:
    """The implicit reward of any policy, put in the closed form, gives that policy back; for y and for y~ alike."""
    problem = random_problem(seed, prompts, responses)
    policy_logps = torch.log_softmax(random_table(seed + 100, problem.demo_probs), dim=1)
    pairs = every_pair(policy_logps - problem.ref_logps, beta, link)
    shape = (prompts, responses, responses)
    for reward in (pairs.demo_reward.view(shape)[:, :, 0], pairs.sample_reward.view(shape)[:, 0, :]):
        near(optimal_policy(reward, problem.ref_logps, beta), policy_logps.exp(), 1e-12)


# Item 2 ------------------------------------------------------------------------------------------------------------


@PROBLEMS
def test_three_gradients_of_the_likelihood_agree(seed: int, prompts: int, responses: int, beta: float) -> None:
    """autograd = finite differences = (E_D grad r - E_pi grad r) / beta, for a reward that is not linear in theta."""
    problem = random_problem(seed, prompts, responses)
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(prompts, responses, 4, generator=generator, dtype=torch.float64)
    theta = torch.randn(2, 4, generator=generator, dtype=torch.float64)

    def reward(theta: Tensor) -> Tensor:
        return (inputs @ theta[0]).tanh() * (inputs @ theta[1]).sigmoid()

    def likelihood(theta: Tensor) -> Tensor:
        return demo_log_likelihood(problem, optimal_policy(reward(theta), problem.ref_logps, beta))

    policy = optimal_policy(reward(theta), problem.ref_logps, beta)
    formula = gradient(lambda t: expectation(problem, problem.demo_probs - policy, reward(t)) / beta, theta)
    near(gradient(likelihood, theta), formula, 1e-10)
    near(finite_difference_gradient(likelihood, theta), formula, 1e-6)


# Item 3 ------------------------------------------------------------------------------------------------------------


@PROBLEMS
def test_saddle_identity(seed: int, prompts: int, responses: int, beta: float) -> None:
    """beta l = min over pi of { E_D r - E_pi r + beta KL(pi || pi_ref) } + beta E_D log pi_ref."""
    problem = random_problem(seed, prompts, responses)
    reward = random_table(seed + 100, problem.demo_probs)

    def saddle(policy: Tensor) -> Tensor:
        gap = expectation(problem, problem.demo_probs - policy, reward)
        return gap + beta * kl_to_reference(problem, policy) + beta * demo_log_likelihood(problem, reference)

    reference = problem.ref_logps.exp()
    optimum = optimal_policy(reward, problem.ref_logps, beta)
    likelihood = demo_log_likelihood(problem, optimum)
    near(saddle(optimum), beta * likelihood, 1e-12)
    for policy in other_policies(problem, optimum, seed):
        assert saddle(policy) > beta * likelihood


# Item 4 ------------------------------------------------------------------------------------------------------------


@PROBLEMS
def test_reward_shift_leaves_policy_and_likelihood(seed: int, prompts: int, responses: int, beta: float) -> None:
    problem = random_problem(seed, prompts, responses)
    reward = random_table(seed + 100, problem.demo_probs)
    shift = 3 * torch.arange(1, prompts + 1, dtype=torch.float64)[:, None]
    policy = optimal_policy(reward, problem.ref_logps, beta)
    shifted = optimal_policy(reward + shift, problem.ref_logps, beta)
    near(shifted, policy, 1e-12)
    near(demo_log_likelihood(problem, shifted), demo_log_likelihood(problem, policy), 1e-12)


@PROBLEMS
def test_reward_shift_leaves_margins_and_irft_loss(seed: int, prompts: int, responses: int, beta: float) -> None:
    """The log-ratio that stands for a reward is r / beta; its margin is r(x,y) - r(x,y~), whatever beta is."""
    reward = random_table(seed, torch.empty(prompts, responses))
    shift = 3 * torch.arange(1, prompts + 1, dtype=torch.float64)[:, None]
    margin = (reward[:, :, None] - reward[:, None, :]).reshape(-1)
    expected = {"logistic": torch.log1p(torch.exp(-margin)), "linear": -margin}
    for link in ("logistic", "linear"):
        for table in (reward, reward + shift):
            pairs = every_pair(table / beta, beta, link)
            near(pairs.loss, expected[link], 1e-12)
            near(pairs.demo_reward - pairs.sample_reward, margin, 1e-12)


@PROBLEMS
def test_nce_has_an_absolute_scale(seed: int, prompts: int, responses: int, beta: float) -> None:
    """Not invariant, on purpose: a shift of +1 nat on both sides pays off for y and costs for y~."""
    logratios = random_table(seed, torch.empty(prompts, responses))
    demo, sample = logratios[:, 0], logratios[:, 1]
    change = implicit_reward_loss(demo + 1, sample + 1, beta, "nce").loss
    change = change - implicit_reward_loss(demo, sample, beta, "nce").loss
    softplus_change = torch.log1p(torch.exp(-demo - 1)) - torch.log1p(torch.exp(-demo))
    softplus_change += torch.log1p(torch.exp(sample + 1)) - torch.log1p(torch.exp(sample))
    near(change, softplus_change, 1e-12)
    assert (change.abs() > 1e-3).all()


# Item 5 ------------------------------------------------------------------------------------------------------------

# What the expected gradient at the reference is, as a multiple of E_D grad log pi.
START_FACTOR = {"logistic": lambda beta: -beta / 2, "linear": lambda beta: -beta, "nce": lambda beta: -0.5}


@pytest.mark.parametrize(("link", "value"), [("logistic", log(2)), ("linear", 0.0), ("nce", 2 * log(2))])
@pytest.mark.parametrize("beta", [0.05, 0.1, 1.0, 3.0])
def test_loss_at_the_start_of_a_stage(link: Link, value: float, beta: float) -> None:
    """For every pair, not on average: pi_theta and pi_t are evaluated separately and agree."""
    problem, weights = random_token_problem(seed=0, prompts=2, letters=2, max_tokens=3)
    logratios = problem.response_logps(weights) - problem.response_logps(weights.clone())
    losses = every_pair(logratios, beta, link).loss
    near(losses, torch.full_like(losses, value), 1e-14)
    assert loss_at_reference(link) == pytest.approx(value, abs=1e-14)


@pytest.mark.parametrize("link", LINKS)
@PROBLEMS
def test_expected_gradient_at_the_start_tabular(
    link: Link, seed: int, prompts: int, responses: int, beta: float
) -> None:
    """For a table of logits E_D grad log pi is rho(x) (d(y|x) - pi_t(y|x)), worked out on paper."""
    problem = random_problem(seed, prompts, responses)
    stage_logps = problem.ref_logps
    actual = gradient(
        lambda logits: expected_pair_loss(
            problem, torch.log_softmax(logits, dim=1) - stage_logps, stage_logps.exp(), beta, link
        ),
        stage_logps,
    )
    score = problem.prompt_probs[:, None] * (problem.demo_probs - stage_logps.exp())
    near(actual, START_FACTOR[link](beta) * score, 1e-12)


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize(("prompts", "letters", "max_tokens", "beta"), [(1, 1, 4, 0.1), (3, 2, 3, 0.7)])
def test_expected_gradient_at_the_start_tokens(
    link: Link, prompts: int, letters: int, max_tokens: int, beta: float
) -> None:
    """The same for an autoregressive policy with shared weights; E_D grad log pi by finite differences."""
    problem, weights = random_token_problem(0, prompts, letters, max_tokens)
    stage_logps = problem.response_logps(weights)
    near(stage_logps.exp().sum(dim=1), torch.ones(prompts, dtype=torch.float64), 1e-12)  # nothing was left out
    table = FiniteProblem(problem.prompt_probs, problem.demo_probs, stage_logps)
    actual = gradient(
        lambda w: expected_pair_loss(table, problem.response_logps(w) - stage_logps, stage_logps.exp(), beta, link),
        weights,
    )
    score = finite_difference_gradient(
        lambda w: expectation(table, problem.demo_probs, problem.response_logps(w)), weights
    )
    near(actual, START_FACTOR[link](beta) * score, 1e-8)


@pytest.mark.parametrize(("seed", "beta", "lr"), [(0, 0.1, 1.0), (1, 0.5, 0.3), (2, 2.0, 0.05)])
def test_one_step_per_stage_is_sft(seed: int, beta: float, lr: float) -> None:
    """IRFT with K = 1 follows SFT at lr * beta / 2, stage after stage, responses of different lengths included."""
    problem, weights = random_token_problem(seed, prompts=2, letters=2, max_tokens=3)
    demo_weights = (problem.prompt_probs[:, None] * problem.demo_probs).reshape(-1)

    def expected_sft_loss(w: Tensor) -> Tensor:
        token_logps = problem.token_logps(w)
        mask = problem.response_mask.expand_as(token_logps)
        return (demo_weights * sft_loss(token_logps.flatten(0, 1), mask.flatten(0, 1))).sum()

    irft, sft = weights, weights
    for _ in range(5):
        stage_logps = problem.response_logps(irft)
        table = FiniteProblem(problem.prompt_probs, problem.demo_probs, stage_logps)

        def irft_loss(w: Tensor, table: FiniteProblem = table) -> Tensor:
            logratios = problem.response_logps(w) - table.ref_logps
            return expected_pair_loss(table, logratios, table.ref_logps.exp(), beta, "logistic")

        irft = irft - lr * gradient(irft_loss, irft)
        sft = sft - lr * beta / 2 * gradient(expected_sft_loss, sft)
        near(irft, sft, 1e-12)
    assert (irft - weights).abs().max() > 1e-3  # it moved


# Item 7 ------------------------------------------------------------------------------------------------------------


@PROBLEMS
def test_linear_link_moves_logits_in_a_straight_line(seed: int, prompts: int, responses: int, beta: float) -> None:
    """phi_k = phi_t + eta * beta * k * (d - pi_t), within each of two stages. Every prompt counts once (sum)."""
    problem = random_problem(seed, prompts, responses)
    each_prompt_once = FiniteProblem(torch.ones(prompts), problem.demo_probs, problem.ref_logps)
    eta, logits = 0.7, random_table(seed + 100, problem.demo_probs)
    for _ in range(2):
        stage_logits, stage_logps = logits, torch.log_softmax(logits, dim=1)

        def loss(logits: Tensor, stage_logps: Tensor = stage_logps) -> Tensor:
            logratios = torch.log_softmax(logits, dim=1) - stage_logps
            return expected_pair_loss(each_prompt_once, logratios, stage_logps.exp(), beta, "linear")

        for k in range(1, 11):
            logits = logits - eta * gradient(loss, logits)
            expected = stage_logits + eta * beta * k * (problem.demo_probs - torch.softmax(stage_logits, dim=1))
            near(logits, expected, 1e-11)


# Item 8 ------------------------------------------------------------------------------------------------------------


def solved_stage(problem: FiniteProblem, stage_logps: Tensor, beta: float, link: Link) -> Tensor:
    """log pi_{t+1}: the inner problem of one stage, solved to a vanishing gradient."""
    each_prompt_once = FiniteProblem(torch.ones(len(stage_logps)), problem.demo_probs, problem.ref_logps)

    def loss(logits: Tensor) -> Tensor:
        logratios = torch.log_softmax(logits, dim=1) - stage_logps
        return expected_pair_loss(each_prompt_once, logratios, stage_logps.exp(), beta, link)

    return torch.log_softmax(minimise(loss, stage_logps), dim=1)


def distance_to_demos(problem: FiniteProblem, logps: Tensor) -> Tensor:
    """log(pi/d) up to a constant per prompt, (S, A): what each stage multiplies by 1 - 1/beta."""
    difference = logps - problem.demo_probs.log()
    return difference - difference.mean(dim=1, keepdim=True)


@pytest.mark.parametrize(("beta", "factor"), [(2.0, 0.5), (1.0, 0.0), (0.75, -1 / 3), (0.5, -1.0), (0.4, -1.5)])
@pytest.mark.parametrize(("seed", "prompts", "responses"), [(0, 1, 3), (1, 3, 4)])
def test_solved_logistic_stages(beta: float, factor: float, seed: int, prompts: int, responses: int) -> None:
    """Each stage gives pi_{t+1} proportional to pi_t^(1 - 1/beta) d^(1/beta), to 1e-6 in log-probability."""
    problem = random_problem(seed, prompts, responses, spread=0.4)
    logps = problem.ref_logps
    distances = [distance_to_demos(problem, logps)]
    for _ in range(4):
        expected = torch.log_softmax((1 - 1 / beta) * logps + (1 / beta) * problem.demo_probs.log(), dim=1)
        logps = solved_stage(problem, logps, beta, "logistic")
        near(logps, expected, 1e-6)
        distances.append(distance_to_demos(problem, logps))
        near(distances[-1], factor * distances[-2], 1e-6)
    near(distances[-1], factor**4 * distances[0], 1e-5)


@pytest.mark.parametrize("beta", [0.1, 0.4, 1.0])
def test_solved_nce_stage_is_the_demonstrations(beta: float) -> None:
    problem = random_problem(seed=2, prompts=3, responses=5)
    near(solved_stage(problem, problem.ref_logps, beta, "nce").exp(), problem.demo_probs, 1e-6)


# Item 9 ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", LINKS)
@PROBLEMS
def test_greedy_negatives_move_a_solved_policy(
    link: Link, seed: int, prompts: int, responses: int, beta: float
) -> None:
    """At pi = d sampling is at rest; the greedy response as y~ pushes along d - e_mode and lowers the mode."""
    problem = random_problem(seed, prompts, responses)
    demo_logps = problem.demo_probs.log()

    def direction(sample_probs: Tensor) -> Tensor:
        return -gradient(
            lambda logits: expected_pair_loss(
                problem, torch.log_softmax(logits, dim=1) - demo_logps, sample_probs, beta, link
            ),
            demo_logps,
        )

    near(direction(problem.demo_probs), torch.zeros_like(demo_logps), 1e-14)
    mode = torch.zeros_like(demo_logps)
    mode[torch.arange(prompts), problem.demo_probs.argmax(dim=1)] = 1.0
    greedy = direction(mode)
    bias = problem.prompt_probs[:, None] * (problem.demo_probs - mode)
    near(greedy, -START_FACTOR[link](beta) * bias, 1e-12)
    assert (greedy[mode.bool()] < 0).all()


# Item 11 -----------------------------------------------------------------------------------------------------------

ONE_STATE_TABLE = pytest.mark.parametrize(
    ("reference", "reward_over_beta", "policy"),
    [
        ([1 / 3, 1 / 3, 1 / 3], 1.0, [0.576117, 0.211942, 0.211942]),
        ([1 / 3, 1 / 3, 1 / 3], 2.0, [0.786986, 0.106507, 0.106507]),
        ([0.5, 0.3, 0.2], 1.0, [0.731059, 0.161365, 0.107577]),
        ([0.5, 0.3, 0.2], 2.0, [0.880797, 0.071522, 0.047681]),
    ],
)


def one_state(reference: list[float]) -> FiniteProblem:
    """One prompt, three responses, D = {y1}."""
    demo_probs = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    return FiniteProblem(
        torch.ones(1, dtype=torch.float64), demo_probs, torch.tensor([reference], dtype=torch.float64).log()
    )


@pytest.mark.parametrize("reference", [[1 / 3, 1 / 3, 1 / 3], [0.5, 0.3, 0.2]])
def test_one_state_sft_forgets_everything_unseen(reference: list[float]) -> None:
    """SFT -> (1, 0, 0). Plain steps of size eta leave 1 - pi(y1) of order 1 / (eta * steps) = 1e-4."""
    logits, mask = one_state(reference).ref_logps, torch.ones(1, 1, dtype=torch.bool)
    for _ in range(500):
        logits = logits - 20 * gradient(lambda x: sft_loss(torch.log_softmax(x, dim=1)[:, :1], mask).sum(), logits)
    near(torch.softmax(logits, dim=1), torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64), 1e-3)


@pytest.mark.parametrize("beta", [0.1, 1.0, 3.0])
@ONE_STATE_TABLE
def test_one_state_irl_table(reference: list[float], reward_over_beta: float, policy: list[float], beta: float) -> None:
    """The best reward in [0, R]^3 is (R, 0, 0), found by a bounded optimizer from three starts; 6 digits of pi."""
    problem, bound = one_state(reference), reward_over_beta * beta

    def negative_likelihood(reward: np.ndarray) -> tuple[float, np.ndarray]:
        point = torch.from_numpy(reward.copy()).requires_grad_()
        value = -optimal_policy(point[None], problem.ref_logps, beta)[0, 0].log()
        value.backward()
        return value.item(), point.grad.numpy()

    for start in ([0.5, 0.5, 0.5], [0.0, 1.0, 1.0], [0.1, 0.9, 0.3]):
        found = minimize(negative_likelihood, bound * np.array(start), jac=True, bounds=[(0.0, bound)] * 3)
        near(torch.from_numpy(found.x), torch.tensor([bound, 0.0, 0.0], dtype=torch.float64), 1e-9)
    pi = optimal_policy(torch.from_numpy(found.x)[None], problem.ref_logps, beta)[0]
    near(pi, torch.tensor(policy, dtype=torch.float64), 5.1e-7)
    near(pi[1] / pi[2], torch.tensor(reference[1] / reference[2], dtype=torch.float64), 1e-9)


@pytest.mark.parametrize("link", ["logistic", "linear"])
@ONE_STATE_TABLE
def test_one_state_stages_reach_the_irl_table(
    link: Link, reference: list[float], reward_over_beta: float, policy: list[float]
) -> None:
    """Projected reward steps on (y1, y~ ~ pi_t), alternating with the closed-form policy, end in the table's row."""
    problem, beta = one_state(reference), 0.5
    bound = reward_over_beta * beta
    reward = torch.full((1, 3), bound / 2, dtype=torch.float64)
    for _ in range(300):
        pi = optimal_policy(reward, problem.ref_logps, beta)
        step = gradient(lambda r, pi=pi: expected_pair_loss(problem, r / beta, pi, beta, link), reward)
        reward = (reward - 0.5 * step).clamp(0.0, bound)
    near(reward, torch.tensor([[bound, 0.0, 0.0]], dtype=torch.float64), 1e-12)
    pi = optimal_policy(reward, problem.ref_logps, beta)
    near(pi[0], torch.tensor(policy, dtype=torch.float64), 5.1e-7)
