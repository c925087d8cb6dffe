"""Finite problems, small enough to enumerate every response: there the method's statements are exact.

Float64 throughout. S prompts, A responses per prompt. Only `expected_pair_loss` calls the code under test; the
rest is the mathematics of method.md written out, as naively as possible, to compare with.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from demotune.training.losses import Link, PairLoss, implicit_reward_loss


@contextmanager
def one_thread() -> Iterator[None]:
    """For tens of thousands of tiny operations: more threads make them ten times slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True, slots=True)
class FiniteProblem:
    """Prompts, demonstrations and a starting policy as tables. Every row of probabilities sums to 1."""

    prompt_probs: Tensor
    """(S,): how often each prompt occurs."""
    demo_probs: Tensor
    """(S, A): d(y|x), the distribution the demonstrations are drawn from."""
    ref_logps: Tensor
    """(S, A): log pi_ref(y|x)."""


def random_problem(seed: int, prompts: int, responses: int, spread: float = 1.0) -> FiniteProblem:
    """Softmaxes of normal numbers; `spread` is the standard deviation of the logits of d and pi_ref."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return FiniteProblem(
        prompt_probs=torch.softmax(0.5 * normal(prompts), dim=0),
        demo_probs=torch.softmax(spread * normal(prompts, responses), dim=1),
        ref_logps=torch.log_softmax(spread * normal(prompts, responses), dim=1),
    )


def random_table(seed: int, like: Tensor, scale: float = 1.0) -> Tensor:
    """A (S, A) table of normal numbers: a reward, or the logits of some other policy."""
    return scale * torch.randn(like.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def optimal_policy(reward: Tensor, ref_logps: Tensor, beta: float) -> Tensor:
    """pi(y|x) = pi_ref(y|x) exp(r(x,y)/beta) / Z(x): the closed form of the inner problem. (S, A), probabilities."""
    unnormalised = ref_logps.exp() * (reward / beta).exp()
    return unnormalised / unnormalised.sum(dim=1, keepdim=True)


def expectation(problem: FiniteProblem, response_probs: Tensor, values: Tensor) -> Tensor:
    """E over x ~ prompts, y ~ response_probs(.|x) of values(x, y). All tables are (S, A)."""
    return (problem.prompt_probs[:, None] * response_probs * values).sum()


def kl_to_reference(problem: FiniteProblem, policy: Tensor) -> Tensor:
    """E_x KL(pi(.|x) || pi_ref(.|x)), nats; a probability of exactly 0 contributes 0."""
    return expectation(problem, torch.ones_like(policy), torch.xlogy(policy, policy) - policy * problem.ref_logps)


def regularised_value(problem: FiniteProblem, reward: Tensor, policy: Tensor, beta: float) -> Tensor:
    """E r - beta KL(pi || pi_ref): what the inner problem maximises over policies."""
    return expectation(problem, policy, reward) - beta * kl_to_reference(problem, policy)


def demo_log_likelihood(problem: FiniteProblem, policy: Tensor) -> Tensor:
    """l = E_D log pi(y|x), the outer objective."""
    return expectation(problem, problem.demo_probs, policy.log())


def every_pair(logratios: Tensor, beta: float, link: Link) -> PairLoss:
    """The loss of each (x, y, y~): all A * A pairs of each of S prompts, flattened to (S * A * A,)."""
    prompts, responses = logratios.shape
    demo_logratio = logratios[:, :, None].expand(prompts, responses, responses)
    sample_logratio = logratios[:, None, :].expand(prompts, responses, responses)
    return implicit_reward_loss(demo_logratio.reshape(-1), sample_logratio.reshape(-1), beta, link)


def expected_pair_loss(
    problem: FiniteProblem, logratios: Tensor, sample_probs: Tensor, beta: float, link: Link
) -> Tensor:
    """E over x, y ~ d, y~ ~ sample_probs of the pair loss, by enumeration. `logratios` is (S, A)."""
    pair_probs = problem.prompt_probs[:, None, None] * problem.demo_probs[:, :, None] * sample_probs[:, None, :]
    return (pair_probs.reshape(-1) * every_pair(logratios, beta, link).loss).sum()


def gradient(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    point = at.detach().clone().requires_grad_()
    return torch.autograd.grad(function(point), point)[0]


def finite_difference_gradient(function: Callable[[Tensor], Tensor], at: Tensor, step: float = 1e-5) -> Tensor:
    """Central differences, one coordinate at a time: truncation and rounding are both about 1e-10 for step 1e-5."""
    slopes = torch.zeros_like(at).flatten()
    for index in range(at.numel()):
        shift = torch.zeros_like(at).flatten()
        shift[index] = step
        shift = shift.view_as(at)
        slopes[index] = (function(at + shift) - function(at - shift)) / (2 * step)
    return slopes.view_as(at)


def minimise(function: Callable[[Tensor], Tensor], start: Tensor, gradient_tolerance: float = 1e-12) -> Tensor:
    """The minimiser: L-BFGS to come close, then Newton steps; AssertionError when the gradient does not vanish.

    Logits have a flat direction (a constant per prompt), hence the pseudo-inverse.
    """
    point = start.detach().clone().requires_grad_()
    optimizer = torch.optim.LBFGS([point], max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = function(point)
        value.backward()
        return value

    optimizer.step(closure)
    solution = point.detach()
    for _ in range(5):
        slope = gradient(function, solution)
        if slope.abs().max() < gradient_tolerance:
            return solution
        hessian = torch.autograd.functional.hessian(function, solution).reshape(slope.numel(), slope.numel())
        inverse = torch.linalg.pinv(hessian, rtol=1e-9, hermitian=True)
        solution = solution - (inverse @ slope.flatten()).view_as(slope)
    raise AssertionError(f"no minimum found: the gradient is still {slope.abs().max():.1e}")


@dataclass(frozen=True, slots=True)
class TokenProblem:
    """Responses made of tokens, under an autoregressive policy whose weights all prompts and prefixes share.

    logits(x, prefix) = features[x, prefix] @ weights. The N responses are all those that end with the end token or
    reach the length limit, so that their probabilities sum to 1. Padded positions point at real log-probabilities.
    """

    features: Tensor
    """(S, prefixes, F)."""
    prefix_index: Tensor
    """(N, T): which prefix precedes each token."""
    token_ids: Tensor
    """(N, T): 0 in the padding, which is also a letter."""
    response_mask: Tensor
    """(N, T): True where the position is a token of the response, the end token included."""
    prompt_probs: Tensor
    """(S,)."""
    demo_probs: Tensor
    """(S, N)."""

    def token_logps(self, weights: Tensor) -> Tensor:
        """(F, V) to (S, N, T): the log-probability of each token given its prompt and prefix."""
        return torch.log_softmax(self.features @ weights, dim=-1)[:, self.prefix_index, self.token_ids]

    def response_logps(self, weights: Tensor) -> Tensor:
        """(F, V) to (S, N): sums over the tokens of each response, one response at a time."""
        token_logps = self.token_logps(weights)
        lengths = self.response_mask.sum(dim=1).tolist()
        return torch.stack([token_logps[:, n, :length].sum(dim=1) for n, length in enumerate(lengths)], dim=1)


def random_token_problem(seed: int, prompts: int, letters: int, max_tokens: int) -> tuple[TokenProblem, Tensor]:
    """The problem and the starting weights (F, V), V = letters + 1; the last id is the end token."""
    prefixes = [prefix for length in range(max_tokens) for prefix in product(range(letters), repeat=length)]
    responses = [(*prefix, letters) for prefix in prefixes]
    responses += list(product(range(letters), repeat=max_tokens))
    prefix_index = torch.zeros(len(responses), max_tokens, dtype=torch.long)
    token_ids = torch.zeros_like(prefix_index)
    response_mask = torch.zeros_like(prefix_index, dtype=torch.bool)
    for n, response in enumerate(responses):
        for t, token in enumerate(response):
            prefix_index[n, t], token_ids[n, t], response_mask[n, t] = prefixes.index(response[:t]), token, True
    features = 6
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    problem = TokenProblem(
        features=normal(prompts, len(prefixes), features) / features**0.5,
        prefix_index=prefix_index,
        token_ids=token_ids,
        response_mask=response_mask,
        prompt_probs=torch.softmax(0.5 * normal(prompts), dim=0),
        demo_probs=torch.softmax(normal(prompts, len(responses)), dim=1),
    )
    return problem, normal(features, letters + 1)
