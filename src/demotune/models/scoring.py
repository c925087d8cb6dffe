"""Write the reference policy's log-probabilities onto pairs and demonstrations, once, as numbers.

Pairs are scored in the very micro-batches in which they will be trained. In bfloat16 a sequence's log-probability moves
by up to 0.2 nats with the batch that it stands in; scored and trained alike, the first loss of a stage is exact.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from demotune.common.errors import DemotuneError
from demotune.common.memory import is_lack_of_memory
from demotune.models.files import first_line
from demotune.models.logprobs import autocast, sequence_logps
from demotune.models.packing import Batch, cut_to_budget
from demotune.models.pairs import pack_sides, packed_tokens, pair_sides
from demotune.models.reward import bounded, head_scores, reward_batch
from demotune.records import Completion, Pair, RenderedDemonstration, Side

Advance = Callable[[int], None]
Known = Mapping[Side, float]
"""Log-probabilities under the policy at hand that need not be computed again.

Only what is computed in float32 may be known: in half precision a number would not be the one that training finds.
"""


def score_pairs(
    model: nn.Module,
    microbatches: Sequence[Sequence[Pair]],
    *,
    bf16: bool,
    advance: Advance,
    budget: int | None = None,
    known: Known | None = None,
) -> Iterator[list[tuple[float, float]]]:
    """For each micro-batch, (log pi(y | x), log pi(sample | x)) of each of its pairs, in nats.

    `budget` is the run's `tokens_per_microbatch`: micro-batches are cut as they are when they are trained.
    """
    known = known or {}
    for pairs in microbatches:
        scores: list[tuple[float, float]] = []
        for part in cut_to_budget(pairs, packed_tokens, budget):
            sides = pair_sides(part)
            with _enough_memory(len(sides), "--per-device-train-batch-size, --tokens-per-microbatch"):
                computed = iter(_logps(model, [side for side in sides if side not in known], bf16=bf16))
            logps = [known[side] if side in known else next(computed) for side in sides]
            scores += zip(logps[: len(part)], logps[len(part) :], strict=True)
        advance(len(pairs))
        yield scores


def score_demonstrations(
    model: nn.Module, demonstrations: Sequence[RenderedDemonstration], batch_size: int, *, bf16: bool, advance: Advance
) -> list[float]:
    """log pi(y | x) of each demonstration, in nats."""
    completions = [Completion(row.prompt_ids, row.demo) for row in demonstrations]
    return score_logps(model, completions, batch_size=batch_size, bf16=bf16, advance=advance)


def score_logps(
    model: nn.Module,
    completions: Sequence[Completion],
    *,
    batch_size: int,
    bf16: bool,
    advance: Advance = lambda _: None,
) -> list[float]:
    """log pi(y | x) of each completion under a language model, in nats, in their order."""

    def logps(unit: list[Completion]) -> list[float]:
        return _logps(model, [(row.prompt_ids, row.response.ids) for row in unit], bf16=bf16)

    return _in_batches(completions, batch_size, logps, advance)


def score_completions(
    reward: nn.Module,
    completions: Sequence[Completion],
    *,
    pad_id: int,
    bound: float | None,
    batch_size: int,
    bf16: bool,
    advance: Advance = lambda _: None,
) -> list[float]:
    """The reward of each completion by a scalar reward model, in their order."""

    def rewards(unit: list[Completion]) -> list[float]:
        batch = to_device(reward, reward_batch(unit, pad_id))
        with torch.no_grad(), autocast(batch["input_ids"].device, bf16):
            scores: list[float] = bounded(head_scores(reward, batch), bound).tolist()
        return scores

    return _in_batches(completions, batch_size, rewards, advance)


def _logps(model: nn.Module, sides: Sequence[Side], *, bf16: bool) -> list[float]:
    """log pi(y | x) of all sides, by one call."""
    if not sides:
        return []
    batch = to_device(model, pack_sides(sides))
    with torch.no_grad(), autocast(batch["input_ids"].device, bf16):
        logps: list[float] = sequence_logps(model, batch).tolist()
    return logps


def _in_batches(
    completions: Sequence[Completion],
    batch_size: int,
    score: Callable[[list[Completion]], list[float]],
    advance: Advance,
) -> list[float]:
    """One number for each completion, in their order; equal prompts stand together, the longest come first."""
    prompts = [tuple(completion.prompt_ids) for completion in completions]
    order = sorted(range(len(completions)), key=lambda number: (-len(prompts[number]), prompts[number], number))
    scores: dict[int, float] = {}
    for start in range(0, len(order), batch_size):
        unit = order[start : start + batch_size]
        with _enough_memory(len(unit), "--batch-size (in training --per-device-train-batch-size)"):
            scores |= zip(unit, score([completions[number] for number in unit]), strict=True)
        advance(len(unit))
    return [scores[number] for number in range(len(completions))]


@contextmanager
def _enough_memory(count: int, flags: str) -> Iterator[None]:
    """A lack of memory inside is one DemotuneError that says what to lower."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_lack_of_memory(error):
            raise
        raise DemotuneError(
            f"there is not enough memory to score {count} responses together ({first_line(error)}); lower {flags} or "
            "--max-length, or take a smaller model"
        ) from error


def to_device(model: nn.Module, batch: Batch) -> Batch:
    """The batch where the model is."""
    device = next(model.parameters()).device
    return {name: tensor.to(device) for name, tensor in batch.items()}
