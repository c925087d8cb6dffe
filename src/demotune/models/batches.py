"""Batches for a model: pairs as one pack, completions in units of like prompts; on its device, within its memory."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from demotune.common.errors import DemotuneError, first_line
from demotune.common.files import hash_of
from demotune.common.memory import is_lack_of_memory
from demotune.models.packing import Batch, pack
from demotune.records import Completion, Pair, Side
from demotune.runs.shared_work import compute_rows

Advance = Callable[[int], None]
"""Called with the number of completions that are done since the last call."""


def packed_tokens(pair: Pair) -> int:
    """Tokens of a pair whose sides share their prompt, unless a thought stands with it.

    Beside a pair with the same demonstration it adds fewer.
    """
    prompts = 1 if pair.demo_thought == pair.sample_thought == 0 else 2
    return prompts * len(pair.prompt_ids) + len(pair.demo.ids) + len(pair.sample.ids)


def pair_batch(pairs: Sequence[Pair]) -> Batch:
    """The different sides of B pairs, each once; `demo_rows` and `sample_rows` (B,) say where those of each pair are.

    Scoring and training share this layout.
    """
    sides, demo_rows, sample_rows = pair_sides(pairs)
    return pack_sides(sides) | {"demo_rows": torch.tensor(demo_rows), "sample_rows": torch.tensor(sample_rows)}


def pair_sides(pairs: Sequence[Pair]) -> tuple[list[Side], list[int], list[int]]:
    """The different demonstrations, then the different samples; the place of each pair's demonstration and sample."""
    demos, samples = zip(*(pair.sides for pair in pairs), strict=True)
    places = {side: place for place, side in enumerate(dict.fromkeys([*demos, *samples]))}
    return [*places], [places[side] for side in demos], [places[side] for side in samples]


def pack_sides(sides: Sequence[Side]) -> Batch:
    return pack([prompt for prompt, _ in sides], [response for _, response in sides])


def in_batches(
    completions: Sequence[Completion],
    batch_size: int,
    compute: Callable[[list[Completion]], list[float]],
    advance: Advance,
) -> list[float]:
    """What `compute` gives for each completion, in their order; equal prompts go together, the longest come first.

    Several processes that are `shared` compute whole batches each.
    """
    prompts = [tuple(completion.prompt_ids) for completion in completions]
    order = sorted(range(len(completions)), key=lambda number: (-len(prompts[number]), prompts[number], number))

    def numbers_of(rows: Sequence[int]) -> list[float]:
        with lack_of_memory_explained(len(rows), "--batch-size (in training --per-device-train-batch-size)"):
            return compute([completions[row] for row in rows])

    def key() -> str:
        read = [(prompt, row.response.ids) for prompt, row in zip(prompts, completions, strict=True)]
        return hash_of([read, batch_size])[:12]

    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    found = compute_rows(batches, numbers_of, advance, key)
    return [found[row] for row in range(len(completions))]


@contextmanager
def lack_of_memory_explained(count: int, flags: str) -> Iterator[None]:
    """A lack of memory inside becomes one DemotuneError that says what to lower."""
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
    """The batch on the model's device."""
    device = next(model.parameters()).device
    return {name: tensor.to(device) for name, tensor in batch.items()}
