"""What an evaluation says of test rows that were found in training data."""

from pathlib import Path

from demotune.runs.evaluation import Evaluation


def test_models_with_the_same_leaks_are_named_together() -> None:
    alike = {"searched": True, "leaked": 1, "test_rows": 120, "test": "the test rows"}
    unknown = {"searched": False, "why": "no run is known behind it"}
    clean = alike | {"leaked": 0}
    found = [
        *({**alike, "model": f"m{number}"} for number in range(5)),
        {**unknown, "model": "hub"},
        {**clean, "model": "c"},
    ]
    assert Evaluation(Path(), "", {"leaks": found}, (), (), (), {}).leaks == (
        "1 of 120 rows of the test rows are like training rows of m0, m1, m2 and 2 more",
        "test data was not looked for in the training data of hub: no run is known behind it",
    )
