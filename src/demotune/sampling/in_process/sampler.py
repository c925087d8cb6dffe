"""The fast sampler: rows in slots of one cache, all tokens of a step in one packed call.

A row that finishes leaves, and a waiting prompt takes its slot at once. When none waits, the remaining rows move into
the first slots, so that each step costs what its rows need. Each row has its own stream of uniform numbers, from
(seed, stream), and takes one number per token. So which prompts share a step, how many slots there are, and where an
interrupted run stopped, does not change what is drawn beyond rounding.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from demotune.common.memory import give_back_memory, is_lack_of_memory, slots_that_fit, too_large
from demotune.models.attention import Layout, bare, carries_layouts, layout_arguments
from demotune.models.logprobs import autocast
from demotune.models.packing import shared_tokens
from demotune.records import Response
from demotune.sampling.in_process.adapters import prepared_for_sampling
from demotune.sampling.in_process.cache import Cache, Decoding, PrefixFill, PromptFill, ShapeFinder
from demotune.sampling.in_process.choosing import Drawn, as_response, choose_tokens, keeps_logps, uniform_stream
from demotune.sampling.in_process.naive import draw_in_batches
from demotune.sampling.options import SamplingOptions

Listener = Callable[[int, int], None]
SHORTEST_PREFIX = 8
"""A common prefix shorter than this, in tokens, is not stored apart."""
FILLED_TOGETHER = 4096
"""Most prompt tokens of one call, unless one prompt alone has more."""


class InProcessSampler:
    """A `Sampler` (see there) in this process. `policy` is called, to load it, only when something is to be drawn.

    At most `slots` rows are drawn at a time; where memory lacks, fewer. `listen` is called with (stream, token) as each
    token is drawn, by models that this sampler draws from in its fast way.
    """

    def __init__(self, policy: Callable[[], nn.Module], *, slots: int, listen: Listener | None = None) -> None:
        self._policy, self._slots, self._listen = policy, slots, listen

    def draw(
        self, prompts: Sequence[Sequence[int]], streams: Sequence[int], seed: int, options: SamplingOptions
    ) -> Iterator[tuple[int, Response]]:
        if prompts:
            model, listen = self._policy(), self._listen
            yield from sample_responses(model, prompts, streams, seed, options, slots=self._slots, listen=listen)

    def heard_by(self, listen: Listener) -> "InProcessSampler":
        """The same sampler; `listen` hears each token, too."""
        before = self._listen

        def both(stream: int, token: int) -> None:
            if before is not None:
                before(stream, token)
            listen(stream, token)

        return InProcessSampler(self._policy, slots=self._slots, listen=listen if before is None else both)

    def ready(self, prompts: Sequence[Sequence[int]], options: SamplingOptions) -> AbstractContextManager[None]:
        return nullcontext()

    def keeps_logps(self, options: SamplingOptions) -> bool:
        return keeps_logps(options)


def sample_responses(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    streams: Sequence[int],
    seed: int,
    options: SamplingOptions,
    *,
    slots: int,
    listen: Listener | None = None,
) -> Iterator[tuple[int, Response]]:
    """Draw one response for each prompt from a model, as `InProcessSampler.draw` does.

    While the iterator is open the model must not be trained. Raises DemotuneError where one row alone does not fit.
    """
    draw: Callable[..., Iterable[tuple[int, Response]]]
    draw = partial(_Slots, listen=listen) if carries_layouts(model) else draw_in_batches
    left = dict(enumerate(streams))
    with prepared_for_sampling(model, bf16=options.bf16):
        while left:
            places = list(left)
            slots = min(slots, len(places))
            lack = ""
            try:
                members = [prompts[place] for place in places]
                for row, response in draw(model, members, list(left.values()), seed, options, slots=slots):
                    yield left.pop(places[row]), response
            except RuntimeError as error:
                if not is_lack_of_memory(error):
                    raise
                lack = str(error).strip().partition("\n")[0]
            if lack and slots == 1:
                raise too_large(lack)
            if lack:
                slots //= 2
                give_back_memory()  # the failed call's tensors, now that its frames are gone


@dataclass(slots=True)
class _Row:
    """A response that is being drawn."""

    place: int
    stream: int
    prompt: tuple[int, ...]
    limit: int
    uniforms: np.ndarray = field(default_factory=lambda: np.empty(0))
    """One number per token, drawn when the row gets its slot."""
    drawn: list[Drawn] = field(default_factory=list)

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.drawn)


class _Slots:
    """The rows that are being drawn, and those that wait, longest first and identical prompts side by side."""

    def __init__(
        self,
        model: nn.Module,
        prompts: Sequence[Sequence[int]],
        streams: Sequence[int],
        seed: int,
        options: SamplingOptions,
        *,
        slots: int,
        listen: Listener | None = None,
    ) -> None:
        self._listen = listen
        order = sorted(range(len(prompts)), key=lambda row: (-len(prompts[row]), tuple(prompts[row]), row))
        rows = (_Row(row, streams[row], tuple(prompts[row]), options.limit(len(prompts[row]))) for row in order)
        self._waiting = deque(rows)
        self._model, self._seed, self._options = bare(model), seed, options
        self._device = next(model.parameters()).device
        self._prefix = common_prefix([row.prompt for row in self._waiting])
        self._cache, slots = self._make_cache(slots)
        self._rows: list[_Row | None] = [None] * slots
        self._spare = slots
        """Number of a slot without a row: it holds the prompt of `_kept`."""
        self._kept: tuple[tuple[int, ...], Tensor] | None = None
        """A prompt of which more rows wait, and its logits."""
        if self._prefix:
            self._call(self._prefix, range(len(self._prefix)), PrefixFill(self._cache), keep=[0])

    def __iter__(self) -> Iterator[tuple[int, Response]]:
        """Draw all rows; yields (place of the prompt, response) as each is done."""
        while True:
            for row in self._fill():
                yield row.place, as_response(row.drawn, self._options)
            self._compact()
            if self._rows[0] is None:
                return
            for row in self._step():
                yield row.place, as_response(row.drawn, self._options)

    def _make_cache(self, slots: int) -> tuple[Cache, int]:
        finder = ShapeFinder(self._device)
        logits = self._call([0], [0], finder, keep=[0])
        shape = finder.shape(torch.bfloat16 if self._options.bf16 else None)
        columns = max(len(row.prompt) + row.limit - 1 for row in self._waiting) - len(self._prefix)
        step = 4 * logits.numel() * 4  # logits and what choosing a token makes of them, in float32
        slots = slots_that_fit(slots, columns * shape.bytes_per_token + step, self._device)
        repeated = any(one.prompt == other.prompt for one, other in itertools.pairwise(self._waiting))
        return Cache(shape, slots + repeated, columns, self._device), slots

    def _step(self) -> Iterator[_Row]:
        """One token for each row that is being drawn."""
        rows = [row for row in self._rows if row is not None]
        places = [row.length - 1 for row in rows]
        layout = Decoding(self._cache, [place - len(self._prefix) for place in places])
        logits = self._call([row.drawn[-1][0] for row in rows], places, layout, keep=None)
        yield from self._take(list(range(len(rows))), logits)

    def _fill(self) -> Iterator[_Row]:
        """Give free slots to waiting rows until none is free or none waits; yields those done at their first token."""
        while self._waiting and None in self._rows:
            free = [slot for slot, row in enumerate(self._rows) if row is None]
            members = self._next(len(free))
            slots = free[: len(members)]
            logits = self._fill_prompts(members, slots)
            for slot, row in zip(slots, members, strict=True):
                self._rows[slot] = row
            yield from self._take(slots, logits)

    def _next(self, count: int) -> list[_Row]:
        """Rows for the next call: at most `count`, and of as many different prompts as one call may hold."""
        members: list[_Row] = []
        tokens = 0
        while self._waiting and len(members) < count:
            prompt = self._waiting[0].prompt
            if not members or prompt != members[-1].prompt:
                tokens += len(prompt) - len(self._prefix)
                if members and tokens > FILLED_TOGETHER:
                    break
            row = self._waiting.popleft()
            row.uniforms = uniform_stream(self._seed, row.stream, row.limit)
            members.append(row)
        return members

    def _fill_prompts(self, rows: Sequence[_Row], slots: Sequence[int]) -> Tensor:
        """Keys and values of the rows' prompts into their slots; each different prompt is computed once. (B, V)."""
        slots_of: dict[tuple[int, ...], list[int]] = {}
        for row, slot in zip(rows, slots, strict=True):
            slots_of.setdefault(row.prompt, []).append(slot)
        found: dict[tuple[int, ...], Tensor] = {}
        if self._kept and self._kept[0] in slots_of:
            prompt, found[prompt] = self._kept
            self._cache.copy(self._spare, slots_of[prompt], len(prompt) - len(self._prefix))
        if new := [prompt for prompt in slots_of if prompt not in found]:
            found |= zip(new, self._compute(new, [slots_of[prompt][0] for prompt in new]), strict=True)
            for prompt in new:
                first, *others = slots_of[prompt]
                self._cache.copy(first, others, len(prompt) - len(self._prefix))
        last = rows[-1].prompt
        if not self._waiting or self._waiting[0].prompt != last:
            self._kept = None
        elif self._kept is None or self._kept[0] != last:
            self._cache.copy(slots_of[last][0], [self._spare], len(last) - len(self._prefix))
            self._kept = last, found[last].clone()
        return torch.stack([found[row.prompt] for row in rows])

    def _compute(self, prompts: Sequence[tuple[int, ...]], slots: Sequence[int]) -> Tensor:
        """One packed call for several prompts, which fill the slots: logits of their first tokens, (U, V)."""
        start = len(self._prefix)
        lengths = [len(prompt) - start for prompt in prompts]
        return self._call(
            [token for prompt in prompts for token in prompt[start:]],
            [place for prompt in prompts for place in range(start, len(prompt))],
            PromptFill(self._cache, lengths, slots, start),
            keep=[end - 1 for end in itertools.accumulate(lengths)],
        )

    def _take(self, slots: Sequence[int], logits: Tensor) -> Iterator[_Row]:
        """The next token of the rows in these slots; yields the rows that it finishes, which leave."""
        rows = [row for slot in slots if (row := self._rows[slot]) is not None]
        uniforms = torch.tensor([row.uniforms[len(row.drawn)] for row in rows], dtype=torch.float64)
        for slot, row, drawn in zip(slots, rows, choose_tokens(logits, uniforms, self._options), strict=True):
            row.drawn.append(drawn)
            if self._listen is not None:
                self._listen(row.stream, drawn[0])
            if drawn[0] in self._options.stop_ids or len(row.drawn) == row.limit:
                self._rows[slot] = None
                yield row

    def _compact(self) -> None:
        """Move rows from the end into free slots, so that the first slots hold all of them."""
        free = deque(slot for slot, row in enumerate(self._rows) if row is None)
        for last in range(len(self._rows) - 1, -1, -1):
            row = self._rows[last]
            if not free or free[0] > last:
                return
            if row is not None:
                self._cache.copy(last, [slot := free.popleft()], row.length - 1 - len(self._prefix))
                self._rows[slot], self._rows[last] = row, None

    @torch.no_grad()
    def _call(self, ids: Sequence[int], places: Sequence[int], layout: Layout, keep: Sequence[int] | None) -> Tensor:
        """The model on one packed row: logits of the tokens to keep (all where None), (N, V)."""
        with autocast(self._device, self._options.bf16):
            logits: Tensor = self._model(
                input_ids=torch.tensor([ids], device=self._device),
                position_ids=torch.tensor([places], device=self._device),
                logits_to_keep=torch.arange(len(ids), device=self._device)
                if keep is None
                else torch.tensor(keep, device=self._device),
                **layout_arguments(layout, self._device),
            ).logits
        return logits[0]


def common_prefix(prompts: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Tokens with which all prompts begin, one less than the shortest has at most; none where it is not worth while."""
    if len(prompts) < 2:
        return ()
    shared = min(shared_tokens(prompts), min(map(len, prompts)) - 1)
    return tuple(prompts[0][:shared]) if shared >= SHORTEST_PREFIX else ()
