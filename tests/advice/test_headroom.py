"""Headroom worked out by hand, and the reward's worth where the truth is known."""

import numpy as np
import pytest

from demotune.advice.headroom import Answers, Scores, States, equal_share, fit_reward, headroom
from demotune.records import Completion, RenderedDemonstration, Response


def response(*ids: int) -> Response:
    return Response((*ids, 2), True)


def scores(demo: float, samples: list[tuple[float, float]], greedy: float) -> Scores:
    return Scores(np.array([demo, demo]), np.array(samples), np.array([greedy, greedy]))


def test_gains_over_samples() -> None:
    """Samples earn 0 and 2, on average 1; the demonstration 5, greedy 3, the best of two 2: gains 4, 2 and 1."""
    prompts = list(range(6))
    found = headroom([scores(5, [(0, 0), (2, 2)], 3)] * 6, prompts)
    assert found.prompts == 6
    assert (found.demonstrations.value, found.greedy.value, found.best.value) == (4, 2, 1)
    assert found.best_over_greedy.value == -1
    assert (found.greedy_share.value, found.best_share.value) == (0.5, 0.25)


def test_one_reward_chooses_and_the_other_judges() -> None:
    """Each reward likes another sample, so what one chooses is the worst of the other: -1 and not +1."""
    found = headroom([scores(1, [(1, -1), (-1, 1)], 0)] * 6, list(range(6)))
    assert found.best.value == -1


def test_noise_finds_no_headroom_in_the_best_of_n() -> None:
    draw = np.random.default_rng(3)
    rows = [Scores(np.zeros(2), draw.normal(size=(4, 2)), np.zeros(2)) for _ in range(400)]
    found = headroom(rows, list(range(400)))
    assert found.best.low < 0 < found.best.high


def test_rows_of_one_prompt_are_averaged() -> None:
    rows = [scores(1, [(0, 0), (0, 0)], 0), scores(3, [(0, 0), (0, 0)], 0), scores(6, [(0, 0), (0, 0)], 0)]
    found = headroom(rows, ["a", "a", "b"])
    assert found.prompts == 2
    assert found.demonstrations.value == 4  # of 2 and 6


def answers(number: int, samples: list[Response], greedy: Response | None = None) -> Answers:
    demo = response(number, number + 1, 9)
    return Answers(RenderedDemonstration((number,), demo, f"row {number}"), tuple(samples), greedy)


def test_share_of_equal_samples_counts_each_prompt_once() -> None:
    rows = [answers(n, [response(n, n + 1, 9), response(n, 5)]) for n in range(10, 14)]
    rows += [answers(n, [response(n, 5), response(n, 6)]) for n in range(20, 24)]
    assert equal_share(rows).value == pytest.approx(0.25)


def quality_states(rows: list[Answers], noise: float = 0.3) -> States:
    """One column is 1 for demonstrations, 0.9 for greedy answers, 0 for samples; another is noise."""
    draw = np.random.default_rng(0)
    table: dict[Completion, np.ndarray] = {}
    for row in rows:
        for completion in row.completions:
            demo = completion.response == row.row.demo
            value = 1.0 if demo else 0.9 if completion.response == row.greedy else 0.0
            table[completion] = np.array([value + noise * draw.normal(), draw.normal()])
    return States(table)


def some_rows() -> tuple[list[Answers], list[Answers]]:
    train = [answers(n, [response(n, 5, 5), response(n, 6, 6)]) for n in range(100, 140)]
    heldout = [answers(n, [response(n, 5, 5), response(n, 6, 6)], response(n, 7, 7)) for n in range(200, 240)]
    return train, heldout


def test_a_quality_that_greedy_answers_have_is_found_closed() -> None:
    train, heldout = some_rows()
    fitted = fit_reward(train, heldout, quality_states([*train, *heldout]))
    assert fitted is not None
    _, found = fitted
    assert found.train_prompts == 40
    assert found.accuracy.low > 0.8
    assert found.headroom.greedy_share.low < 0.9 < found.headroom.greedy_share.high
    assert found.greedy_accuracy.value < found.accuracy.value - 0.2
    assert found.shortcut is not None
    assert found.shortcut.accuracy == pytest.approx(1.0)  # demonstrations end with 9
    assert not found.shortcut.beaten


def test_too_few_differing_prompts_give_no_reward() -> None:
    train, heldout = some_rows()
    equal = [Answers(row.row, (row.row.demo, row.row.demo)) for row in train[9:]]
    rows = [*train[:9], *equal]
    assert fit_reward(rows, heldout, quality_states([*rows, *heldout])) is None
