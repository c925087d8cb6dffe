"""The time left of sampling comes from drawn tokens, long before the first response is finished."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from helpers.tiny import save_tiny, tiny_tokenizer

from demotune.common import progress
from demotune.common.progress import Tracker, track
from demotune.data.rendering import Renderer
from demotune.models.policy import load_policy
from demotune.records import Response
from demotune.rewards.answers import drawn_in_order
from demotune.sampling import InProcessSampler, SamplingOptions, pace
from demotune.sampling.pace import Pace


class Clock:
    """A second for each step of all slots."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(pace, "time", found)
    return found


def estimates(clock: Clock, lengths: Sequence[int], slots: int, expected: float | None, most: int) -> list[float]:
    """The estimate over the truth, at each tenth of the work before its end."""
    with track("samples", len(lengths), "responses") as tracker:
        found = Pace(tracker, len(lengths), expected, most)
        waiting, active, left = list(lengths), [], []
        while waiting or active:
            while waiting and len(active) < slots:
                active.append([waiting.pop(0), 0])
            clock.now += 1
            for row in active:
                row[1] += 1
                found._hear(0, 0)
            for row in [row for row in active if row[1] == row[0]]:
                active.remove(row)
                found.finish(Response(tuple(range(row[0])), True))
            left.append(found._left())
    steps = len(left)
    return [left[steps * tenth // 10] / (steps - steps * tenth // 10) for tenth in range(1, 9)]


@pytest.mark.parametrize(
    ("lengths", "slots", "expected", "most"),
    [
        ([50] * 64, 64, 50.0, 1024),  # nothing is finished before the end
        ([50] * 64, 8, 50.0, 1024),
        ([20 + 7 * n % 60 for n in range(200)], 16, 45.0, 256),
        ([20 + 7 * n % 60 for n in range(200)], 16, 150.0, 256),  # demonstrations are far longer
        ([100] * 40, 10, None, 100),  # all are cut off
    ],
)
def test_the_estimate_is_of_the_right_size_from_the_first_tenth(
    clock: Clock, lengths: Sequence[int], slots: int, expected: float | None, most: int
) -> None:
    assert all(1 / 3.5 < ratio < 3.5 for ratio in estimates(clock, lengths, slots, expected, most))


def test_the_screen_shows_tokens_before_a_response_is_finished(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with track("samples", 10, "responses") as tracker:
        found = Pace(tracker, 10, 32.0, 100)
        for _ in range(pace.TOKENS_BETWEEN_LOOKS):
            clock.now += 0.1
            found._hear(0, 0)
    shown = capsys.readouterr().out
    assert "samples  0/10 responses" in shown
    assert "64 tokens, 10 tok/s" in shown
    assert "0:25 left" in shown  # (10 x 32 - 64) tokens at 10 a second, from the first on


def test_a_sampler_is_heard_and_draws_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    heard: list[int] = []
    monkeypatch.setattr(Pace, "_hear", lambda self, stream, token: heard.append(token))
    renderer = Renderer(tiny_tokenizer())
    options = SamplingOptions(max_new_tokens=12, stop_ids=renderer.stop_ids, vocabulary=renderer.vocabulary)
    prompts = [renderer.prompt_ids([{"role": "user", "content": f"say {n}"}]) for n in range(5)]
    save_tiny(tmp_path)
    model = load_policy(tmp_path, dtype="float32", attn_implementation=None, device=torch.device("cpu"))
    own: list[int] = []
    sampler = InProcessSampler(lambda: model, slots=2, listen=lambda _, token: own.append(token))
    drawn = drawn_in_order(sampler, prompts, 7, options, what="sample")
    quiet = dict(InProcessSampler(lambda: model, slots=2).draw(prompts, range(5), 7, options))
    assert [response.ids for response in drawn] == [quiet[row].ids for row in range(5)]
    assert sorted(heard) == sorted(own) == sorted(token for response in drawn for token in response.ids)


def test_a_sampler_of_another_kind_counts_by_whole_responses(clock: Clock) -> None:
    tracker = Tracker("samples", 4, "responses")
    found = Pace(tracker, 4, 10.0, 100)

    class Engine:
        pass

    engine = Engine()
    assert found.listened(engine) is engine  # type: ignore[arg-type]
    clock.now = 1.0
    found.finish(Response((1,) * 10, True))
    clock.now = 2.0
    found.finish(Response((1,) * 10, True))
    assert tracker.done == 2
    assert tracker.left is not None
    assert math.isclose(tracker.left, (4 * 10 - 20) / 20)
