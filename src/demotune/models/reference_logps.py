"""Log-probabilities of responses as plain numbers, without gradient: of a reference policy, of any model.

Pairs are computed in the very micro-batches in which they will be trained. In bfloat16 a sequence's log-probability
moves by up to 0.2 nats with the batch that it is in; with the same batches, the first loss of a stage is exact.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from demotune.models.batches import (
    Advance,
    in_batches,
    lack_of_memory_explained,
    pack_sides,
    packed_tokens,
    pair_sides,
    to_device,
)
from demotune.models.logprobs import autocast, response_logps, sequence_logps
from demotune.models.packing import cut_to_budget
from demotune.records import Completion, Pair, Side

KnownLogps = Mapping[Side, float]
"""Log-probabilities under the policy at hand that need not be computed again.

Only what is computed in float32 may be known: in half precision a number would not be the one that training computes.
"""


def pair_logps(
    model: nn.Module,
    microbatch: Sequence[Pair],
    *,
    bf16: bool,
    budget: int | None = None,
    known: KnownLogps | None = None,
) -> list[tuple[float, float]]:
    """(log pi(y | x), log pi(sample | x)) of each pair of a micro-batch, in nats.

    `budget` is the run's `tokens_per_microbatch`: the micro-batch is cut as in training.
    """
    known = known or {}
    found: list[tuple[float, float]] = []
    for part in cut_to_budget(microbatch, packed_tokens, budget):
        sides, demo_rows, sample_rows = pair_sides(part)
        with lack_of_memory_explained(len(sides), "--per-device-train-batch-size, --tokens-per-microbatch"):
            computed = iter(_logps(model, [side for side in sides if side not in known], bf16=bf16))
        logps = [known[side] if side in known else next(computed) for side in sides]
        found += [(logps[demo], logps[sample]) for demo, sample in zip(demo_rows, sample_rows, strict=True)]
    return found


def token_logps(
    model: nn.Module, microbatch: Sequence[Completion], *, bf16: bool, budget: int | None = None
) -> list[tuple[float, ...]]:
    """Log pi of each response token of each completion of a micro-batch, in nats. `budget` as above."""
    found: list[tuple[float, ...]] = []
    for part in cut_to_budget(microbatch, lambda row: row.tokens, budget):
        batch = to_device(model, pack_sides([(row.prompt_ids, row.response.ids) for row in part]))
        with (
            lack_of_memory_explained(len(part), "--per-device-train-batch-size, --tokens-per-microbatch"),
            torch.no_grad(),
            autocast(batch["input_ids"].device, bf16),
        ):
            logps = response_logps(model, batch).logps.tolist()
        found += [tuple(row[: len(one.response.ids)]) for row, one in zip(logps, part, strict=True)]
    return found


def completion_logps(
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

    return in_batches(completions, batch_size, logps, advance)


def _logps(model: nn.Module, sides: Sequence[Side], *, bf16: bool) -> list[float]:
    """log pi(y | x) of all sides, by one call."""
    if not sides:
        return []
    batch = to_device(model, pack_sides(sides))
    with torch.no_grad(), autocast(batch["input_ids"].device, bf16):
        logps: list[float] = sequence_logps(model, batch).tolist()
    return logps
