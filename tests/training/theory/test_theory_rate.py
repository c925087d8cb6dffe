"""Item 12 of method.md, section 4: the rate of Theorem 3.1, and what stale samples cost.

Everything is sampled here, one pair per step, as in training: x ~ prompts, y ~ d, y~ ~ pi_t drawn when the stage
starts. Only the squared gradient norm is not estimated: grad l is (E_D grad - E_pi grad) of the scores, exactly
(item 2), at every step. Four problems, three step sizes and 12 runs of each go side by side; the seeds are fixed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf

import numpy as np
import pytest
import torch
from helpers.tabular import one_thread, random_problem
from torch import Tensor

from demotune.training.losses import Link, implicit_reward_loss

PROBLEM_SEEDS = (0, 1, 2, 3)
SCALES = (1.5, 4.0, 9.0)
RUNS = 12
PROMPTS, RESPONSES = 3, 5


@pytest.fixture(scope="module", autouse=True)
def single_threaded() -> Iterator[None]:
    with one_thread():
        yield


@dataclass(frozen=True, slots=True)
class Learner:
    """A score for every (x, y), log pi_theta = log pi_ref + score + const: so score = r / beta.

    `irft`: the loss sees log pi_theta / pi_t. `rft`: the score is an explicit reward over beta, the loss sees that
    reward, and the policy step is exact (the closed form). With linear scores and link the two are one algorithm.
    """

    method: str
    link: Link
    beta: float
    features: Tensor
    """(S * A, P): the identity is a table; P < S * A cannot represent every policy."""
    bound: float = inf
    """|score| stays below it: the bounded rewards of the paper."""

    def scores(self, theta: Tensor) -> Tensor:
        """(B, P) to (B, S, A)."""
        linear = (theta @ self.features.T).view(-1, PROMPTS, RESPONSES)
        return linear if self.bound == inf else self.bound * torch.tanh(linear / self.bound)

    def score_step(self) -> float:
        """How far one pair moves the scores, as a multiple of eta * grad log pi, at the start of a stage (item 5)."""
        return self.beta / 2 if self.link == "logistic" else self.beta


def average_squared_gradient(
    learner: Learner, steps: int, steps_per_stage: int, *, eta_exponent: float = 0.5, greedy: bool = False
) -> Tensor:
    """The mean of ||grad l||^2 over all T * K steps and the runs: (problems, step sizes).

    eta = c (TK)^-eta_exponent, with c such that a pair moves the scores by SCALES / 32 at TK = 1024.
    """
    etas = torch.tensor(SCALES, dtype=torch.float64) / 32 * (1024 / steps) ** eta_exponent / learner.score_step()
    runs = torch.arange(len(PROBLEM_SEEDS) * len(SCALES) * RUNS)
    etas = etas.repeat_interleave(RUNS).repeat(len(PROBLEM_SEEDS))[:, None]
    problems = [random_problem(seed, PROMPTS, RESPONSES) for seed in PROBLEM_SEEDS]
    prompt_probs, demo_probs, ref_logps = (
        torch.stack(tables).repeat_interleave(len(SCALES) * RUNS, dim=0)
        for tables in zip(*((p.prompt_probs, p.demo_probs, p.ref_logps) for p in problems), strict=True)
    )
    generator = torch.Generator().manual_seed(2024)
    theta = torch.zeros(len(runs), learner.features.shape[1], dtype=torch.float64)
    squared = torch.zeros(len(runs), dtype=torch.float64)

    def draw(table: Tensor, prompts: Tensor) -> Tensor:
        """One response for each of the (B, K) prompts from a (B, S, A) table of probabilities."""
        rows = table[runs[:, None], prompts].flatten(0, 1)
        return torch.multinomial(rows, 1, generator=generator).view_as(prompts)

    for _ in range(steps // steps_per_stage):
        stage_logps = torch.log_softmax(ref_logps + learner.scores(theta), dim=-1)
        prompts = torch.multinomial(prompt_probs, steps_per_stage, replacement=True, generator=generator)
        demos = draw(demo_probs, prompts)
        samples = stage_logps.argmax(dim=-1)[runs[:, None], prompts] if greedy else draw(stage_logps.exp(), prompts)
        for x, y, y_sampled in zip(prompts.T, demos.T, samples.T, strict=True):
            theta.requires_grad_()
            scores = learner.scores(theta)
            logps = torch.log_softmax(ref_logps + scores, dim=-1)
            demo_minus_policy = prompt_probs[:, :, None] * (demo_probs - logps.detach().exp())
            score_slope = 1 - (scores.detach() / learner.bound) ** 2  # of tanh; 1 without a bound
            squared += ((demo_minus_policy * score_slope).flatten(1) @ learner.features).square().sum(dim=1)
            logratios = scores if learner.method == "rft" else logps - stage_logps
            pairs = implicit_reward_loss(
                logratios[runs, x, y], logratios[runs, x, y_sampled], learner.beta, learner.link
            )
            theta = theta.detach() - etas * torch.autograd.grad(pairs.loss.sum(), theta)[0]
    return (squared / steps).view(len(PROBLEM_SEEDS), len(SCALES), RUNS).mean(dim=2)


def slopes(learner: Learner, steps_per_stage: int, *, eta_exponent: float = 0.5, greedy: bool = False) -> Tensor:
    """Of log average ||grad l||^2 against log(TK), by least squares: (problems, step sizes)."""
    sizes = [256, 1024, 4096]
    averages = [
        average_squared_gradient(learner, steps, steps_per_stage, eta_exponent=eta_exponent, greedy=greedy)
        for steps in sizes
    ]
    fit = np.polyfit(np.log(sizes), torch.stack(averages).log().flatten(1).numpy(), 1)[0]
    return torch.from_numpy(fit).view_as(averages[0])


TABLE = torch.eye(PROMPTS * RESPONSES, dtype=torch.float64)
FEATURES = torch.randn(15, 5, generator=torch.Generator().manual_seed(7), dtype=torch.float64) / 5**0.5
IRFT_TABLE = Learner("irft", "logistic", 0.5, TABLE)


@pytest.mark.parametrize("steps_per_stage", [1, 4])
@pytest.mark.parametrize(
    "learner",
    [
        pytest.param(IRFT_TABLE, id="irft-table"),
        pytest.param(Learner("irft", "logistic", 0.1, FEATURES), id="irft-softmax-linear"),
        pytest.param(Learner("rft", "linear", 0.5, TABLE, bound=4.0), id="rft-bounded-table"),
    ],
)
def test_rate(learner: Learner, steps_per_stage: int) -> None:
    """With eta = c (TK)^(-1/2), log average ||grad l||^2 against log(TK) has a slope of about -1/2, for every c.

    Accepted: [-0.60, -0.38] for each of the four problems and three c. Seen: -0.52 to -0.39. At these sizes the
    transient of a small c holds the slope a little above -1/2 (it steepens towards it as TK grows), and 12 runs
    leave a noise of about 0.02. The band excludes 0 (a floor, below), -1/3, -2/3 and -1.
    """
    found = slopes(learner, steps_per_stage)
    assert (found >= -0.60).all(), found
    assert (found <= -0.38).all(), found


def test_other_step_sizes_lose_the_rate() -> None:
    """Between two terms, progress 1 / (eta TK) and noise eta, any other exponent of eta leaves one that stays.

    At a middle c and these sizes a mixture of the two can look like -1/2 for any exponent, so the ends are asked.
    """
    constant = slopes(IRFT_TABLE, 4, eta_exponent=0.0)[:, -1]  # large c: the noise stays. Seen -0.18 to -0.05
    assert (constant > -0.30).all(), constant
    vanishing = slopes(IRFT_TABLE, 4, eta_exponent=1.0)[:, 0]  # small c: no progress. Seen -0.28 to -0.12
    assert (vanishing > -0.30).all(), vanishing


def test_greedy_negatives_lose_the_rate() -> None:
    """Item 9 in training: a biased gradient leaves a floor that no TK removes. Seen: slopes of -0.24 to 0.05."""
    found = slopes(IRFT_TABLE, 4, greedy=True)
    assert (found > -0.30).all(), found


@pytest.mark.parametrize(
    "learner",
    [
        pytest.param(Learner("irft", "logistic", 0.1, TABLE), id="irft-logistic"),
        pytest.param(Learner("rft", "linear", 0.5, TABLE), id="rft-linear"),
    ],
)
def test_stale_samples_cost(learner: Learner) -> None:
    """At fixed TK a moderate K is nearly free, a large K is not: the samples no longer come from the policy.

    Seen at the two larger step sizes, as multiples of K = 1: 0.97 to 1.12 (K=8), 3.1 to 11 (K=256), 4.6 to 17 (one
    stage, K=1024). Not so at small c, where pi moves little within a stage, nor for the logistic link at beta = 1
    (1.0 to 2.0), where the solved inner problem is the demonstrations (item 8).
    """
    fresh, moderate, large, one_stage = (average_squared_gradient(learner, 1024, k)[:, 1:] for k in (1, 8, 256, 1024))
    assert (moderate < 1.2 * fresh).all()
    assert (large > 2 * fresh).all()
    assert (one_stage > 2 * fresh).all()
    assert (one_stage[:, 0] > large[:, 0]).all()
