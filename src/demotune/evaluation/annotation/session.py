"""One rater at work: what the page shows, and votes that are kept before the page goes on."""

import datetime
from collections.abc import Sequence
from threading import Lock
from typing import Any, Literal

from demotune.evaluation.annotation.items import Contest, Item
from demotune.evaluation.annotation.votes import standing
from demotune.runs.annotations import Vote, VoteJournal

Choice = Literal["left", "right", "tie"]
"""None takes a vote back."""


class Session:
    """The votes of one rater, in memory and in the journal. Safe for several threads."""

    def __init__(self, contest: Contest, rater: str, seed: int, journal: VoteJournal, votes: Sequence[Vote]) -> None:
        """`votes` are what the journal holds."""
        self._journal, self._lock = journal, Lock()
        self._asked = [item for item in contest.items if not item.identical]
        self._model = contest.model
        self._model_left = [item.model_is_left(seed, rater) for item in self._asked]
        places = {item.name: place for place, item in enumerate(self._asked)}
        self._verdicts = {places[name]: verdict for name, verdict in standing(votes).items() if name in places}

    @property
    def asked(self) -> int:
        return len(self._asked)

    @property
    def rated(self) -> int:
        return len(self._verdicts)

    def state(self) -> dict[str, Any]:
        """Everything that the page shows; it does not say which answer is whose."""
        with self._lock:
            return {
                "items": [self._shown(place, item) for place, item in enumerate(self._asked)],
                "votes": [[place, self._choice(place)] for place in self._verdicts],
            }

    def vote(self, place: int, choice: Choice | None) -> None:
        """Keep a vote; the same vote once more changes nothing. Raises LookupError for an item that is not there."""
        if not 0 <= place < len(self._asked):
            raise LookupError(f"there is no item {place}")
        verdict = self._verdict(place, choice)
        with self._lock:
            if self._verdicts.get(place) == verdict:
                return
            item, left = self._asked[place], self._model_left[place]
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            side = self._model if left else item.name.baseline
            name = item.name
            self._journal.append(Vote(name.key, name.baseline, name.answers, side, verdict, now))
            self._verdicts.pop(place, None)
            if verdict is not None:
                self._verdicts[place] = verdict

    def _shown(self, place: int, item: Item) -> dict[str, Any]:
        answers = [item.ours, item.theirs]
        return {
            "messages": [dict(message) for message in item.messages],
            "answers": answers if self._model_left[place] else answers[::-1],
        }

    def _verdict(self, place: int, choice: Choice | None) -> float | None:
        if choice is None or choice == "tie":
            return None if choice is None else 0.5
        return float((choice == "left") == self._model_left[place])

    def _choice(self, place: int) -> Choice:
        verdict = self._verdicts[place]
        if verdict == 0.5:
            return "tie"
        return "left" if (verdict == 1) == self._model_left[place] else "right"
