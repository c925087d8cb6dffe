"""Write the reference policy's log-probabilities onto pairs and demonstrations, once, as numbers.

Pairs are scored in the very micro-batches in which they will be trained. In bfloat16 a sequence's log-probability moves
by up to 0.2 nats with the batch that it stands in; scored and trained alike, the first loss of a stage is exact.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn

from demotune.logprobs import align, autocast, sequence_logps
from demotune.losses import bounded
from demotune.objectives import pair_batch
from demotune.records import Completion, Pair, RenderedDemonstration
from demotune.reward_models import head_scores, reward_batch

Advance = Callable[[int], None]


def score_pairs(
    model: nn.Module, microbatches: Sequence[Sequence[Pair]], *, bf16: bool, advance: Advance
) -> Iterator[list[tuple[float, float]]]:
    """For each micro-batch, (log pi(y | x), log pi(sample | x)) of each of its pairs, in nats."""
    for pairs in microbatches:
        batch = _to_device(model, pair_batch(pairs))
        with torch.no_grad(), autocast(batch["input_ids"].device, bf16):
            demo_logps, sample_logps = sequence_logps(model, batch).chunk(2)
        advance(len(pairs))
        yield list(zip(demo_logps.tolist(), sample_logps.tolist(), strict=True))


def score_demonstrations(
    model: nn.Module, demonstrations: Sequence[RenderedDemonstration], batch_size: int, *, bf16: bool, advance: Advance
) -> list[float]:
    """log pi(y | x) of each demonstration, in nats."""
    logps: list[float] = []
    for start in range(0, len(demonstrations), batch_size):
        rows = demonstrations[start : start + batch_size]
        batch = _to_device(model, align([row.prompt_ids for row in rows], [row.demo.ids for row in rows]))
        with torch.no_grad(), autocast(batch["input_ids"].device, bf16):
            logps += sequence_logps(model, batch).tolist()
        advance(len(rows))
    return logps


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
    """The reward of each completion by a scalar reward model, in their order; like lengths are scored together."""
    lengths = [len(completion.prompt_ids) + len(completion.response.ids) for completion in completions]
    order = sorted(range(len(completions)), key=lambda number: (-lengths[number], number))
    rewards: dict[int, float] = {}
    for start in range(0, len(order), batch_size):
        unit = order[start : start + batch_size]
        batch = _to_device(reward, reward_batch([completions[number] for number in unit], pad_id))
        with torch.no_grad(), autocast(batch["input_ids"].device, bf16):
            scores = head_scores(reward, batch)
        rewards |= zip(unit, bounded(scores, bound).tolist(), strict=True)
        advance(len(unit))
    return [rewards[number] for number in range(len(completions))]


def _to_device(model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    device = next(model.parameters()).device
    return {name: tensor.to(device) for name, tensor in batch.items()}
