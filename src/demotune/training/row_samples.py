"""Samples of rows, drawn until each row has so many that differ from what is compared with them."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from demotune.common.progress import track
from demotune.common.sequences import Joined, Mapped
from demotune.models.policy import Policy
from demotune.records import Pair, RenderedDemonstration, Response
from demotune.rewards.answer_only import AnswerMarker, equal_answers
from demotune.training.drawing import draw_with, drawing_rounds
from demotune.training.stage import Stage, tokens_of


class RowSamples:
    """The samples of rows, in the order in which they were drawn; one number of each kind for every sample."""

    def __init__(
        self,
        rows: Sequence[RenderedDemonstration],
        preferred: Sequence[Response | None],
        marker: AnswerMarker | None,
    ) -> None:
        """`preferred` has what the samples of each row must differ from; None where they may be anything."""
        self.rows, self._preferred, self._marker = rows, preferred, marker
        self._drawn = Joined[Response]()
        self.places = np.empty(0, np.int64)
        """Of its row."""
        self.lengths = np.empty(0, np.int64)
        self.finished = np.empty(0, bool)
        self.equal = np.empty(0, bool)
        """Whether it equals what it must differ from, so that the two make no pair."""

    def add(self, places: NDArray[np.int64], responses: Sequence[Response]) -> None:
        """A response to each of the rows at these places."""
        numbers = np.array(
            [
                (len(response.ids), response.finished, self._equals(place, response))
                for place, response in zip(places.tolist(), responses, strict=True)
            ],
            np.int64,
        ).reshape(-1, 3)
        self._drawn = Joined(self._drawn, responses)
        self.places = np.append(self.places, places)
        self.lengths = np.append(self.lengths, numbers[:, 0])
        self.finished = np.append(self.finished, numbers[:, 1] > 0)
        self.equal = np.append(self.equal, numbers[:, 2] > 0)

    def _equals(self, place: int, response: Response) -> bool:
        row, preferred = self.rows[place], self._preferred[place]
        if preferred is None:
            return False
        return equal_answers(Pair(row.key, row.prompt_ids, preferred, response), self._marker)

    def without(self) -> NDArray[np.int64]:
        """The places of rows that have no sample yet."""
        return np.flatnonzero(np.bincount(self.places, minlength=len(self.rows)) == 0)

    def differing(self) -> NDArray[np.int64]:
        """How many samples of each row differ."""
        return np.bincount(self.places[~self.equal], minlength=len(self.rows))

    def lacking(self, count: int) -> NDArray[np.int64]:
        """The place of each row, as often as it lacks samples that differ, to have `count`."""
        return np.repeat(np.arange(len(self.rows)), np.maximum(count - self.differing(), 0))

    def by_row(self) -> Iterator[tuple[int, Response]]:
        """(place of the row, sample), row by row, those of each in the order in which they were drawn."""
        for number in np.argsort(self.places, kind="stable").tolist():
            yield int(self.places[number]), self._drawn[number]


def draw_samples(stage: Stage, samples: RowSamples, policy: Callable[[], Policy], *, purpose: str, title: str) -> int:
    """Draw until each row has M samples that differ, or all rounds are over; returns how many tokens that took.

    The first samples of the rows have the streams that they have where M is 1, and each round has streams of its own.
    """
    count, tokens, rows = stage.setup.samples_per_prompt, 0, samples.rows
    wanted = np.append(samples.without(), np.tile(np.arange(len(rows)), count - 1))
    for number, again in drawing_rounds(stage.setup):
        if not len(wanted):
            break
        prompts = Mapped(lambda place: rows[place].prompt_ids, wanted)
        with track(f"{title}{again}", len(prompts), "responses") as tracker:
            drawn = draw_with(
                stage,
                policy,
                prompts,
                purpose=purpose,
                tracker=tracker,
                first_stream=number * len(rows) * count,
            )
        samples.add(wanted, drawn)
        tokens += tokens_of(zip(prompts, drawn, strict=True))
        wanted = samples.lacking(count)
    return tokens
