"""How long sampling goes on, from the tokens that are drawn: the first response may be finished only near the end."""

import time

from demotune.common.progress import Tracker
from demotune.records import Response
from demotune.sampling.in_process.sampler import InProcessSampler
from demotune.sampling.protocol import Sampler

ROWS_BELIEVED = 16
"""The expected length counts as much as so many finished responses."""
SHARE_LEFT = 0.2
"""At least this share of a response is taken to be left of each unfinished one: those that are longer than expected."""
TOKENS_BETWEEN_LOOKS, SECONDS_BETWEEN_SHOWS = 64, 0.5
"""At the clock, and on the screen: counting must cost nothing."""


class Pace:
    """Counts the tokens of one process's share of the rows, and sets its tracker's time left for the rest.

    A response is taken to have `expected` tokens (None: `most`), and with each that is finished more as those have.
    """

    def __init__(self, tracker: Tracker, rows: int, expected: float | None, most: int) -> None:
        self._tracker, self._rows = tracker, rows
        self._expected = float(most) if expected is None else min(expected, most)
        self._heard = self._finished_tokens = self._finished = 0
        self._first = self._shown = 0.0

    def listened(self, sampler: Sampler) -> Sampler:
        """The sampler, heard token by token where it draws in this process."""
        return sampler.heard_by(self._hear) if isinstance(sampler, InProcessSampler) else sampler

    def finish(self, response: Response, others: int = 0) -> None:
        """Count a response, and what other processes have finished meanwhile."""
        self._first = self._first or time.monotonic()
        self._finished += 1
        self._finished_tokens += len(response.ids)
        self._heard = max(self._heard, self._finished_tokens)
        self._tracker.left = self._left()
        self._tracker.advance(1 + others, self._info)

    def _hear(self, _: int, __: int) -> None:
        self._first = self._first or time.monotonic()
        self._heard += 1
        if self._heard % TOKENS_BETWEEN_LOOKS == 0 and time.monotonic() - self._shown >= SECONDS_BETWEEN_SHOWS:
            self._shown = time.monotonic()
            self._tracker.left = self._left()
            self._tracker.advance(0, self._info)

    @property
    def _info(self) -> str:
        return f"{self._heard:,} tokens, {self._heard / max(time.monotonic() - self._first, 1e-9):.0f} tok/s"

    def _left(self) -> float:
        """Seconds."""
        known = self._finished_tokens + ROWS_BELIEVED * self._expected
        length = known / (self._finished + ROWS_BELIEVED)
        unfinished = self._rows - self._finished
        rest = max(self._rows * length - self._heard, unfinished * length * SHARE_LEFT)
        return rest * (time.monotonic() - self._first) / self._heard
