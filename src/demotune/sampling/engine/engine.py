"""The servers that draw for a run: given the policy's weights, and proved to hold them, whenever something is drawn."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from threading import Event, Lock
from typing import Any

from demotune.common.errors import DemotuneError
from demotune.common.http_client import PassingError, Pause
from demotune.common.processes import from_main_process, main_process, wait_for_everyone
from demotune.common.progress import say, warn
from demotune.models.policy import Policy
from demotune.records import Response
from demotune.sampling.engine.completions import completion_request
from demotune.sampling.engine.process import StartedServer
from demotune.sampling.engine.server import DEV_MODE, EngineServer
from demotune.sampling.engine.sharing import AllGoneError, SharedWork, all_gone
from demotune.sampling.engine.weights import Weights, difference, hand_over, publish_weights, remove_others, tolerance
from demotune.sampling.options import SamplingOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """What is drawn now, from which policy."""

    policy: Callable[[], Policy]
    name: str
    """Of the policy, for messages."""
    prompts: Sequence[Sequence[int]]
    options: SamplingOptions


class Engine:
    """Servers by their addresses, or one that this run starts when something is to be drawn, and that ends by `close`.

    Several processes of a run have an engine each: the main one gives the servers their weights, all of them draw.
    """

    def __init__(
        self,
        servers: Sequence[str] | StartedServer,
        folder: Path,
        *,
        in_flight: int,
        pause: Pause = Event.wait,
    ) -> None:
        """`folder` is where weights are handed over; nothing else is there. `in_flight` are requests of one server."""
        self._started = servers if isinstance(servers, StartedServer) else None
        self._folder, self._in_flight, self._pause = folder, in_flight, pause
        self._scoring = Lock()
        self._servers = [] if isinstance(servers, StartedServer) else self._at(servers)
        self._weights: Weights | None = None
        self.distance: float | None = None
        """How far the log-probabilities of the server that was given weights last are from ours, in nats a token."""
        self._drawing: Drawing | None = None

    @contextmanager
    def holding(self, drawing: Drawing) -> Iterator[None]:
        """Inside, the servers hold the policy; its weights must not change. All processes enter and leave together."""
        if self._drawing is not None:
            yield
            return
        if main_process():
            self._give_all(drawing)
        self._share()
        self._drawing = drawing
        try:
            yield
        finally:
            self._drawing = None
        wait_for_everyone()
        if self._started is not None and main_process():
            (server,) = self._servers
            server.over.clear()  # set when the drawing ended
            self._started.rest(server)

    def draw(
        self, prompts: Sequence[Sequence[int]], streams: Sequence[int], seed: int, options: SamplingOptions
    ) -> Iterator[tuple[int, Response]]:
        """(stream, response) of each prompt as it is done, inside of `holding`."""
        weights = self._held
        excluded = weights.excluded(options)

        def respond(server: EngineServer, row: int) -> tuple[int, Response]:
            stream, model = streams[row], weights.name_at(server)
            body = completion_request(model, prompts[row], seed=seed, stream=stream, options=options, excluded=excluded)
            return stream, server.patiently(lambda: self._ask(server, body, options))

        servers = [server for server in self._servers if not server.gone]
        for server in servers:
            server.over.clear()
        try:
            yield from SharedWork(servers, range(len(prompts)), respond, in_flight=self._in_flight)
        except AllGoneError as gone:
            raise self._all_gone() from gone

    def close(self) -> None:
        """End the server that was started here, and remove the weights that were handed over."""
        if main_process():
            if self._started is not None:
                self._started.close()
            rmtree(self._folder, ignore_errors=True)

    @property
    def _now(self) -> Drawing:
        if self._drawing is None:
            raise RuntimeError("nothing is drawn outside of `holding`")
        return self._drawing

    @property
    def _held(self) -> Weights:
        if self._weights is None:
            raise RuntimeError("nothing was given to the servers yet")
        return self._weights

    def _at(self, addresses: Sequence[str]) -> list[EngineServer]:
        return [EngineServer(address, self._pause) for address in addresses]

    def _ask(self, server: EngineServer, body: dict[str, object], options: SamplingOptions) -> Response:
        """One request. A server that failed otherwise than by asking for patience may have begun anew."""
        if server.doubtful:
            self._settle(server)
        try:
            return server.complete(body, options).response
        except PassingError as failure:
            server.doubtful |= not failure.is_busy
            raise

    def _settle(self, server: EngineServer) -> None:
        """End the doubt about a server, by one thread for all."""
        seen = server.trials
        with server.lock:
            if server.doubtful and server.trials != seen:
                raise PassingError(server.trouble)
            if server.doubtful:
                server.trials += 1
                try:
                    self._give(server, self._now)
                except PassingError as failure:
                    server.trouble = str(failure)
                    raise

    def _give_all(self, drawing: Drawing) -> None:
        """Start what is to be started, write the weights, and give them to every server that answers."""
        weights = self._weights = publish_weights(drawing.policy(), self._folder)
        if self._started is not None and not self._servers:
            self._servers = self._at([self._started.start(weights.base or weights.folder)])
        for server in self._servers:
            server.gone = None
            server.over.clear()
            try:
                if self._started is not None:
                    self._started.wake(server)
                self._look_and_give(server, drawing)
            except PassingError as why:
                server.gone = str(why)
                warn(f"the server at {server.address} does not answer: {why}")
        if all(server.gone for server in self._servers):
            raise self._all_gone()
        remove_others(self._folder, self._weights)

    def _look_and_give(self, server: EngineServer, drawing: Drawing) -> None:
        first = not server.model
        server.patiently(server.look)
        _refuse_short(server, drawing)
        # Each time: it may have begun anew since the last drawing, and the proof does not see small differences.
        server.patiently(lambda: self._give(server, drawing))
        if first:
            far = f"{self.distance:.1e} nats a token"
            say(f"  {server.address} draws; its log-probabilities are within {far} of ours")

    def _give(self, server: EngineServer, drawing: Drawing) -> None:
        """Give a server the weights, and prove that it computes with them."""
        weights, policy, bf16 = self._held, drawing.policy(), drawing.options.bf16
        able = hand_over(server, weights)
        if not able and server.holds not in (None, weights.key):
            raise _not_held(server, drawing.name, weights, "it takes no new weights", able)
        with self._scoring:
            distance = difference(server, weights, policy, drawing.prompts, bf16)
        if not distance <= (most := tolerance(policy, bf16)):
            why = f"its log-probabilities are {distance:.2g} nats a token from ours, and {most:g} is allowed"
            raise _not_held(server, drawing.name, weights, why, able)
        server.holds, server.doubtful, self.distance = weights.key, False, distance

    def _share(self) -> None:
        """What the main process knows of the servers, for all."""

        def known_here() -> tuple[list[tuple[Any, ...]], Weights | None]:
            facts = [(one.address, one.gone, one.model, one.longest, one.holds, one.base) for one in self._servers]
            return facts, self._weights

        known, self._weights = from_main_process(known_here)
        if main_process():
            return
        self._servers = self._at([address for address, *_ in known])
        for server, (_, *facts) in zip(self._servers, known, strict=True):
            server.gone, server.model, server.longest, server.holds, server.base = facts
            server.doubtful = False

    def _all_gone(self) -> DemotuneError:
        return all_gone(self._servers) if self._started is None else self._started.died(self._servers[0])


def _refuse_short(server: EngineServer, drawing: Drawing) -> None:
    """Raise DemotuneError where a prompt with its response is longer than the server takes."""
    longest = max(len(prompt) + drawing.options.limit(len(prompt)) for prompt in drawing.prompts)
    if server.longest is not None and longest > server.longest:
        raise DemotuneError(
            f"the server at {server.address} takes {server.longest} tokens, and a prompt with its response may have "
            f"{longest}; start it with --max-model-len {longest}"
        )


def _not_held(server: EngineServer, name: str, weights: Weights, why: str, able: bool) -> DemotuneError:
    if able:
        fix = (
            "start it with the model of this run, unquantised, with --dtype float32 where the run computes in float32 "
            "and bfloat16 where it computes in bfloat16"
        )
    else:
        fix = f"load {weights.folder}, or start it so that the run can give it weights: {DEV_MODE}"
    return DemotuneError(f"the server at {server.address} does not hold the weights of {name}: {why}; {fix}")
