"""Where the time of a run goes: named, nested spans of code. They cost nothing while nobody profiles."""

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from typing import Literal, ParamSpec, TypeVar

Kind = Literal["sampling", "scoring", "forward", "backward", "optimizer", "files"]
"""Kinds of work in a profile; "files" is reading, writing and hashing models."""

P = ParamSpec("P")
R = TypeVar("R")

clock = time.perf_counter
"""What profiles are taken with; benchmarks on a busy machine set it to processor time."""

_NOTHING = nullcontext()


class Profile:
    """Seconds by kind of work. A span's time is its own: what spans inside it took is theirs."""

    def __init__(self) -> None:
        self.seconds: defaultdict[Kind, float] = defaultdict(float)
        self.total = 0.0
        """Seconds of the whole profile, with what no span covers; known when it is closed."""
        self._open: list[Kind] = []
        self._begun = self._since = _now()

    def enter(self, kind: Kind) -> int:
        """Open a span; returns what `leave` takes."""
        self._pass_time()
        self._open.append(kind)
        return len(self._open) - 1

    def leave(self, depth: int) -> None:
        """Close the span at `depth`, and any that an exception left open inside it."""
        self._pass_time()
        del self._open[depth:]

    def close(self) -> None:
        """End the profile."""
        self.leave(0)
        self.total = self._since - self._begun

    def record(self) -> dict[str, float]:
        """Seconds by kind, and "total"."""
        return {**{str(kind): seconds for kind, seconds in self.seconds.items()}, "total": self.total}

    def _pass_time(self) -> None:
        now = _now()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now

    @contextmanager
    def span(self, kind: Kind) -> Iterator[None]:
        """Time the code under it."""
        depth = self.enter(kind)
        try:
            yield
        finally:
            self.leave(depth)


_current: Profile | None = None


def span(kind: Kind) -> AbstractContextManager[None]:
    """A span of the profile that is being taken; nothing when none is."""
    return _NOTHING if _current is None else _current.span(kind)


def timed(kind: Kind) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A function whose calls are spans. Not for generators: their work is done after the call."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def timed_function(*args: P.args, **kwargs: P.kwargs) -> R:
            with span(kind):
                return function(*args, **kwargs)

        return timed_function

    return decorate


def current_profile() -> Profile | None:
    """The profile that is being taken, for code whose spans begin and end in different functions."""
    return _current


@contextmanager
def profiled(wanted: bool) -> Iterator[Profile | None]:
    """Take a profile of the code under it, where it is wanted; one at a time in a process."""
    global _current  # noqa: PLW0603 (spans are in code that knows nothing of who asks)
    _current = profile = Profile() if wanted else None
    try:
        yield profile
    finally:
        _current = None
        if profile is not None:
            profile.close()


def _now() -> float:
    """Seconds; an accelerator's queue is emptied first, so that its work counts where it was asked for."""
    torch = sys.modules.get("torch")  # without it there is no such queue
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock()
