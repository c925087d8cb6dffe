"""Mixtures by weights: sizes worked out by hand, no repeats, order kept, chosen by seed."""

import json

import pytest

from demotune.common.errors import DemotuneError
from demotune.data import load_demonstrations


@pytest.fixture
def sources(tmp_path):
    """Three files of 30, 10 and 7 good rows; the second also has a bad one."""
    paths = []
    for name, size in (("a", 30), ("b", 10), ("c", 7)):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"prompt": f"{name}{n}", "completion": "x"}) + "\n" for n in range(size)))
        paths.append(str(path))
    with (tmp_path / "b.jsonl").open("a") as stream:
        stream.write("{broken\n")
    return paths


def prompts(loaded):
    return [d.prompt[0]["content"] for d in loaded.rows]


def counts(loaded):
    return [sum(prompt.startswith(name) for prompt in prompts(loaded)) for name in "abc"]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ((), [30, 10, 7]),
        ((1, 1, 1), [7, 7, 7]),  # 7 rows of c are the limit
        ((3, 1, 0.7), [30, 10, 7]),  # exactly the sizes: everything
        ((0.6, 0.1, 0.1), [30, 5, 5]),  # a is the limit: 30 / 6 = 5 for each tenth
        ((1, 4, 1), [3, 10, 3]),  # b is the limit: 2.5 for each quarter, half a row rounds up
    ],
)
def test_sizes_are_the_largest_in_proportion(sources, weights, expected):
    loaded = load_demonstrations(sources, weights=weights)
    assert counts(loaded) == expected
    assert len(set(prompts(loaded))) == sum(expected)
    assert loaded.rows_read == 48
    assert len(loaded.bad_rows) == 1


def test_the_order_of_the_sources_is_kept(sources):
    everything = prompts(load_demonstrations(sources))
    mixed = prompts(load_demonstrations(sources, weights=(1, 1, 1)))
    assert mixed == [prompt for prompt in everything if prompt in set(mixed)]


def test_the_seed_chooses_the_rows(sources):
    first, again, other = (prompts(load_demonstrations(sources, weights=(1, 1, 1), seed=s)) for s in (1, 1, 2))
    assert first == again
    assert first != other
    assert [p[0] for p in first] == [p[0] for p in other]


def test_one_source_with_a_weight_is_untouched(sources):
    assert load_demonstrations(sources[:1], weights=(0.3,)) == load_demonstrations(sources[:1])


def test_a_weight_that_leaves_nothing_of_a_source_is_refused(sources):
    with pytest.raises(DemotuneError, match=r"leave no row of .*a\.jsonl \(good rows: \[30, 10, 7\]\)"):
        load_demonstrations(sources, weights=(0.001, 1, 1))


def test_a_source_with_only_bad_rows_is_named(sources, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{broken\n")
    with pytest.raises(DemotuneError, match=r"leave no row of .*bad\.jsonl"):
        load_demonstrations([sources[0], str(bad)], weights=(1, 1))


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_weights_must_be_positive_numbers(sources, weight):
    with pytest.raises(DemotuneError, match=f"weights must be > 0, got {weight}"):
        load_demonstrations(sources, weights=(1, weight, 1))


def test_one_weight_for_each_source(sources):
    with pytest.raises(DemotuneError, match="got 2 weights for 3 data sources"):
        load_demonstrations(sources, weights=(1, 1))
