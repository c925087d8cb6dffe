"""Write the reference policy's log-probabilities onto pairs and demonstrations, once, as numbers.

Pairs are scored in the very micro-batches in which they will be trained. In bfloat16 a sequence's log-probability moves
by up to 0.2 nats with the batch that it stands in; scored and trained alike, the first loss of a stage is exact.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn

from demotune.logprobs import autocast, sequence_logps
from demotune.losses import bounded
from demotune.objectives import packed_tokens, pair_batch
from demotune.packing import Batch, cut_to_budget, pack
from demotune.records import Completion, Pair, RenderedDemonstration
from demotune.reward_models import head_scores, reward_batch

Advance = Callable[[int], None]


def score_pairs(
    model: nn.Module,
    microbatches: Sequence[Sequence[Pair]],
    *,
    bf16: bool,
    advance: Advance,
    budget: int | None = None,
) -> Iterator[list[tuple[float, float]]]:
    """For each micro-batch, (log pi(y | x), log pi(sample | x)) of each of its pairs, in nats.

    `budget` is the run's `tokens_per_microbatch`: micro-batches are cut as they are when they are trained.
    """
    for pairs in microbatches:
        scores: list[tuple[float, float]] = []
        for part in cut_to_budget(pairs, packed_tokens, budget):
            batch = to_device(model, pair_batch(part))
            with torch.no_grad(), autocast(batch["input_ids"].device, bf16):
                demo_logps, sample_logps = sequence_logps(model, batch).chunk(2)
            scores += zip(demo_logps.tolist(), sample_logps.tolist(), strict=True)
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

    def logps(unit: list[Completion]) -> torch.Tensor:
        batch = to_device(model, pack([row.prompt_ids for row in unit], [row.response.ids for row in unit]))
        with torch.no_grad(), autocast(batch["input_ids"].device, bf16):
            return sequence_logps(model, batch)

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

    def rewards(unit: list[Completion]) -> torch.Tensor:
        batch = to_device(reward, reward_batch(unit, pad_id))
        with torch.no_grad(), autocast(batch["input_ids"].device, bf16):
            return bounded(head_scores(reward, batch), bound)

    return _in_batches(completions, batch_size, rewards, advance)


def _in_batches(
    completions: Sequence[Completion],
    batch_size: int,
    score: Callable[[list[Completion]], torch.Tensor],
    advance: Advance,
) -> list[float]:
    """One number for each completion, in their order; equal prompts stand together, the longest come first."""
    prompts = [tuple(completion.prompt_ids) for completion in completions]
    order = sorted(range(len(completions)), key=lambda number: (-len(prompts[number]), prompts[number], number))
    scores: dict[int, float] = {}
    for start in range(0, len(order), batch_size):
        unit = order[start : start + batch_size]
        scores |= zip(unit, score([completions[number] for number in unit]).tolist(), strict=True)
        advance(len(unit))
    return [scores[number] for number in range(len(completions))]


def to_device(model: nn.Module, batch: Batch) -> Batch:
    """The batch where the model is."""
    device = next(model.parameters()).device
    return {name: tensor.to(device) for name, tensor in batch.items()}
