"""Responses that are kept while they are drawn: in portions, by whoever goes on, they are the ones drawn in one go."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from demotune.common.sequences import Mapped
from demotune.records import Response
from demotune.runs.phase_journal import PhaseJournal
from demotune.sampling import SamplingOptions, kept
from demotune.sampling.kept import draw_kept

OPTIONS = SamplingOptions(max_new_tokens=9, stop_ids=(1,), vocabulary=50, max_length=32)


class Echo:
    """Answers with the prompt's first token and the stream; notes what it was given."""

    def __init__(self, fails_after: int | None = None) -> None:
        self.given: list[list[int]] = []
        self.held: list[int] = []
        self._left = fails_after

    def draw(
        self, prompts: Sequence[Sequence[int]], streams: Sequence[int], seed: int, options: SamplingOptions
    ) -> Iterator[tuple[int, Response]]:
        self.given.append([len(prompt) for prompt in prompts])
        for prompt, stream in zip(prompts, streams, strict=True):
            if self._left == 0:
                raise KeyboardInterrupt
            self._left = None if self._left is None else self._left - 1
            yield stream, Response((prompt[0], stream), finished=stream % 2 == 0, logps=(-1.0, -2.0))

    def ready(self, prompts: Sequence[Sequence[int]], options: SamplingOptions) -> AbstractContextManager[None]:
        self.held += [len(prompt) for prompt in prompts]
        return nullcontext()

    def keeps_logps(self, options: SamplingOptions) -> bool:
        return True


def prompts() -> Sequence[Sequence[int]]:
    return Mapped(lambda row: [row + 10] * (row % 4 + 1), range(11))


def draw(folder: Path, sampler: Echo) -> Sequence[Response]:
    return draw_kept(PhaseJournal(folder, "sample"), lambda: sampler, prompts(), 0, OPTIONS, first_stream=100)


def test_a_sampler_gets_some_prompts_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longest first. The policy is made ready once, for all of them."""
    monkeypatch.setattr(kept, "DRAWN_TOGETHER", 4)
    sampler = Echo()
    found = draw(tmp_path, sampler)
    assert sampler.given == [[4, 4, 3, 3], [3, 2, 2, 2], [1, 1, 1]]
    assert sampler.held == [4, 4, 3, 3, 3, 2, 2, 2, 1, 1, 1]
    assert [response.ids for response in found] == [(row + 10, 100 + row) for row in range(11)]
    assert [response.finished for response in found] == [row % 2 == 0 for row in range(11)]
    assert {response.logps for response in found} == {None}


def test_what_was_drawn_is_not_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six of eleven come before an interruption in the second portion; the five others are drawn by the next one."""
    monkeypatch.setattr(kept, "DRAWN_TOGETHER", 4)
    with pytest.raises(KeyboardInterrupt):
        draw(tmp_path, Echo(fails_after=6))
    sampler = Echo()
    found = draw(tmp_path, sampler)
    assert sampler.given == [[2, 2, 1, 1], [1]]
    assert [response.ids for response in found] == [(row + 10, 100 + row) for row in range(11)]
    again = Echo()
    assert list(draw(tmp_path, again)) == list(found)
    assert again.given == []
