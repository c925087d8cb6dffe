"""Keys and values of the rows that are being written, in slots, and the layouts that fill and read them.

A prefix that all prompts share is kept once. Behind it each row has its own columns, filled from the left:

    prefix   | s  s  s  s |                               (K, P, D), one for all
    slot 0                | p  p  p  y  y  .  .  .  . |   (S, K, C, D)
    slot 1                | p  y  y  y  .  .  .  .  . |

K key heads, D numbers each, S slots, C columns; a list entry per layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from demotune.models.attention import BlockCausal
from demotune.models.packing import fused_attention


@dataclass(frozen=True, slots=True)
class CacheShape:
    """What one token leaves behind in each layer: heads, numbers per key, numbers per value."""

    layers: tuple[tuple[int, int, int], ...]
    dtype: torch.dtype

    @property
    def bytes_per_token(self) -> int:
        return sum(heads * (key + value) for heads, key, value in self.layers) * self.dtype.itemsize


class ShapeFinder:
    """Layout of a call whose only purpose is to see what the layers hand over."""

    def __init__(self, device: torch.device) -> None:
        self._plain = BlockCausal([1], device)
        self._layers: dict[int, tuple[int, int, int]] = {}

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        self._layers[layer] = (key.shape[0], key.shape[2], value.shape[2])
        return self._plain.attend(layer, query, key, value, scaling)

    def shape(self, autocast_dtype: torch.dtype | None) -> CacheShape:
        """Under autocast keys come in float32 from some architectures, and attention would round them all the same."""
        layers = tuple(self._layers[layer] for layer in range(len(self._layers)))
        return CacheShape(layers, autocast_dtype or self._plain.dtype)


class Cache:
    """Storage for `slots` rows of `columns` tokens. Unused columns hold finite numbers: 0 times them must be 0."""

    def __init__(self, shape: CacheShape, slots: int, columns: int, device: torch.device) -> None:
        self.dtype = shape.dtype
        self.keys = [
            torch.zeros(slots, heads, columns, size, dtype=shape.dtype, device=device)
            for heads, size, _ in shape.layers
        ]
        self.values = [
            torch.zeros(slots, heads, columns, size, dtype=shape.dtype, device=device)
            for heads, _, size in shape.layers
        ]
        self.prefix: list[tuple[Tensor, Tensor]] = []
        """Keys and values (K, P, D) per layer; empty without a common prefix."""

    def copy(self, source: int, targets: Sequence[int], columns: int) -> None:
        """Write the first columns of one slot into others."""
        for stored in (*self.keys, *self.values):
            for target in targets:
                stored[target, :, :columns] = stored[source, :, :columns]


class PrefixFill:
    """Layout of one call with the common prefix alone, which becomes the cache's."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        assert layer == len(self._cache.prefix), "layers come in order, once each"
        query, key, value = (tensor.to(self._cache.dtype) for tensor in (query, key, value))
        self._cache.prefix.append((key, value))
        mixed = fused_attention(query.unsqueeze(0), key.unsqueeze(0), value.unsqueeze(0), None, scaling)
        return mixed[0].transpose(0, 1)


class PromptFill:
    """Layout of a call with whole prompts (less the prefix) behind one another; each fills a slot.

    Attention alone is padded, on the right, where causality hides it: prompts of one call are of like lengths.
    """

    def __init__(self, cache: Cache, lengths: Sequence[int], slots: Sequence[int], prefix: int) -> None:
        """`lengths` are those of the prompts without the prefix, which has `prefix` tokens."""
        self._cache = cache
        device = cache.keys[0].device
        width = max(lengths)
        ends = torch.tensor(lengths, device=device).unsqueeze(-1)
        columns = torch.arange(width, device=device)
        self._tokens = (columns < ends).flatten().nonzero().squeeze(-1)  # places in (U * T) that hold one
        starts = ends.cumsum(dim=0) - ends
        self._index = starts + torch.minimum(columns, ends - 1)
        self._slots = torch.tensor(slots, device=device)
        self._sees: Tensor | None = None
        if prefix:
            later = torch.arange(prefix + width, device=device) > prefix + columns.unsqueeze(-1)
            self._sees = _minus_infinity_where(later, cache.dtype)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        cache, width = self._cache, self._index.shape[1]
        query, key, value = (  # (heads, N, D) -> (U, heads, T, D)
            tensor.to(cache.dtype)[:, self._index].transpose(0, 1) for tensor in (query, key, value)
        )
        cache.keys[layer][self._slots, :, :width] = key
        cache.values[layer][self._slots, :, :width] = value
        if cache.prefix:
            key, value = (
                torch.cat([shared.expand(len(own), -1, -1, -1), own], dim=2)
                for shared, own in zip(cache.prefix[layer], (key, value), strict=True)
            )
        mixed = fused_attention(query, key, value, self._sees, scaling)
        return mixed.transpose(1, 2).flatten(0, 1)[self._tokens]


class Decoding:
    """Layout of a call with one new token for each of the first B slots.

    Key heads are not repeated: the query heads that share one are the rows of one matrix. The prefix is one matrix
    product for all rows.
    """

    def __init__(self, cache: Cache, lengths: Sequence[int]) -> None:
        """`lengths` are the columns that each row has filled, where the new token goes."""
        self._cache = cache
        device = cache.keys[0].device
        self._columns = torch.tensor(lengths, device=device)
        self._rows = torch.arange(len(lengths), device=device)
        self._width = max(lengths) + 1
        self._beyond: Tensor | None = None
        if min(lengths) + 1 < self._width:
            beyond = torch.arange(self._width, device=device) > self._columns.unsqueeze(-1)  # (B, L)
            self._beyond = _minus_infinity_where(beyond, cache.dtype)[:, None, None]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        cache, rows = self._cache, query.shape[1]
        keys, values = cache.keys[layer], cache.values[layer]
        keys[self._rows, :, self._columns] = key.transpose(0, 1).to(cache.dtype)
        values[self._rows, :, self._columns] = value.transpose(0, 1).to(cache.dtype)
        keys, values = keys[:rows, :, : self._width], values[:rows, :, : self._width]
        by_head = (query * scaling).to(cache.dtype).reshape(keys.shape[1], -1, rows, query.shape[-1])  # (K, G, B, D)
        with torch.autocast(query.device.type, enabled=False):
            scores: Tensor = by_head.permute(2, 0, 1, 3) @ keys.transpose(-1, -2)  # (B, K, G, L)
            if self._beyond is not None:
                scores += self._beyond
            if not cache.prefix:
                weights = scores.softmax(dim=-1, dtype=torch.float32).to(cache.dtype)
                mixed: Tensor = weights @ values
                return mixed.flatten(1, 2)
            prefix_keys, prefix_values = cache.prefix[layer]
            shared = by_head.flatten(1, 2) @ prefix_keys.transpose(-1, -2)  # (K, G * B, P)
            shared = shared.view(*by_head.shape[:-1], -1).permute(2, 0, 1, 3)  # (B, K, G, P)
            scores = torch.cat([shared, scores], dim=-1)
            weights = scores.softmax(dim=-1, dtype=torch.float32).to(cache.dtype)
            prefix = prefix_keys.shape[1]
            of_prefix = weights[..., :prefix].permute(1, 2, 0, 3).flatten(1, 2) @ prefix_values  # (K, G * B, D)
            of_prefix = of_prefix.view(*by_head.shape[:-1], -1).permute(2, 0, 1, 3)
            mixed = weights[..., prefix:] @ values + of_prefix
            return mixed.flatten(1, 2)


def _minus_infinity_where(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask to add: on a CPU that costs a third less than one of truth values."""
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill(hidden, -torch.inf)
