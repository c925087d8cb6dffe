"""The `Sampler` that asks an engine."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cache

from demotune.models.policy import Policy
from demotune.records import Response
from demotune.sampling.engine.engine import Drawing, Engine
from demotune.sampling.options import SamplingOptions


class EngineSampler:
    """A `Sampler` (see there) whose tokens are drawn by the servers of an engine.

    `policy` is called when something is to be drawn: its weights are given to the servers, and prove their answers.
    """

    def __init__(self, policy: Callable[[], Policy], engine: Engine, name: str) -> None:
        """`name` says whose policy it is, in messages."""
        self._policy, self._engine, self._name = cache(policy), engine, name

    def ready(self, prompts: Sequence[Sequence[int]], options: SamplingOptions) -> AbstractContextManager[None]:
        drawing = Drawing(policy=self._policy, name=self._name, prompts=prompts, options=options)
        return self._engine.holding(drawing)

    def draw(
        self, prompts: Sequence[Sequence[int]], streams: Sequence[int], seed: int, options: SamplingOptions
    ) -> Iterator[tuple[int, Response]]:
        if prompts:
            with self.ready(prompts, options):
                yield from self._engine.draw(prompts, streams, seed, options)

    def keeps_logps(self, options: SamplingOptions) -> bool:
        return False
