"""Which pairs a stage trains on beside its own: those of earlier stages, and those between policies."""

import random
from pathlib import Path
from typing import Any

import pytest
from helpers.rft_runs import make_world, read, state_of, weights
from torch import equal

from demotune import DemotuneError, IRFTConfig, SPINConfig, run
from demotune.common.files import read_json
from demotune.config.config_files import load_config
from demotune.pipeline import prepare_run
from demotune.records import Pair, Response
from demotune.runs.folder import RunFolder
from demotune.runs.run import load_run
from demotune.training.methods import method_of
from demotune.training.pairs import between_policies, training_pairs, triplets
from demotune.training.stage import Stage

FIELDS: dict[str, Any] = {
    "template": "a{prompt}",
    "max_length": 24,
    "max_new_tokens": 4,
    "learning_rate": 5e-3,
    "stages": 3,
    "slices": "all",
    "samples_per_prompt": 2,
    "steps_per_stage": 3,
    "per_device_train_batch_size": 4,
    "eval_share": 0.25,
    "bf16": False,
}


def pair(key: str, sample: int) -> Pair:
    return Pair(key, (9,), Response((1,), True), Response((sample,), True))


def test_between_policies_the_later_sample_is_preferred() -> None:
    """Samples say which stage drew them, 20 + stage; row b has samples of stages 0 and 2 only, row c of one stage."""
    by_stage = [
        [pair("a", 20), pair("b", 20), pair("c", 20)],
        [pair("a", 21)],
        [pair("a", 22), pair("a", 22), pair("b", 22)],
    ]
    found = between_policies(by_stage, 200, random.Random(0))
    assert len(found) == 200
    seen = {(one.key, one.demo.ids[0], one.sample.ids[0]) for one in found}
    assert seen == {("a", 21, 20), ("a", 22, 20), ("a", 22, 21), ("b", 22, 20)}
    assert found == between_policies(by_stage, 200, random.Random(0))


def test_between_policies_equal_samples_make_no_pair() -> None:
    assert between_policies([[pair("a", 5)], [pair("a", 5)]], 10, random.Random(0)) == []
    assert between_policies([[pair("a", 5)], [pair("b", 6)]], 10, random.Random(0)) == []


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("pairs"))


def irft(place: Path, name: str, **fields: Any) -> IRFTConfig:
    where = {"model": str(place / "start"), "data": (str(place / "rows.jsonl"),), "output": str(place / name)}
    return IRFTConfig(**{**where, **FIELDS, **fields})


def test_stages_of_ditto_train_on_three_kinds_of_pairs(place: Path) -> None:
    """The third stage: its 30 pairs, half as many of the two stages before, a third as many between policies."""
    fields = {"history": 0.5, "history_from": "all", "interpolicy": 0.3, "reference": "initial"}
    result = run(irft(place, "ditto", **fields))
    setup = prepare_run(load_config(result.run_folder / "run.yaml"), RunFolder(result.run_folder), ())
    samples = [
        {(row["key"], tuple(row["sample_ids"])) for row in read(result.run_folder, stage, "samples.jsonl.gz")}
        for stage in range(3)
    ]
    pairs = training_pairs(Stage(setup, 2))
    own, again, between = pairs[:30], pairs[30:45], pairs[45:]
    assert all((one.key, one.sample.ids) in samples[2] for one in own)
    assert all((one.key, one.sample.ids) in samples[0] | samples[1] for one in again)
    assert any((one.key, one.sample.ids) not in samples[1] for one in again)  # from the first stage too
    assert 7 <= len(between) <= 9
    for one in between:
        assert (one.key, one.demo.ids) in samples[1] | samples[2]
        assert (one.key, one.sample.ids) in samples[0] | samples[1]
    references = read(result.run_folder, 2, "reference_logps.jsonl.gz")
    assert [row["key"] for row in references[: len(pairs)]] == [one.key for one in pairs]
    work = {one.name: one for one in method_of(setup.config).work_of(setup, 2)}
    counted = state_of(result.run_folder, 2)
    assert work["train"].trained_tokens == pytest.approx(counted["train"]["trained_tokens"], rel=0.3)
    assert work["reference"].forward_tokens == pytest.approx(counted["reference"]["forward_tokens"], rel=0.3)
    check = read_json(result.run_folder / "stages" / "02" / "check.json")
    assert check["reward"]["pairs"] == 18  # held-out pairs are demonstrations against samples alone


def test_history_takes_the_previous_stage_unless_all_are_asked_for(place: Path) -> None:
    result = run(irft(place, "previous", history=0.5, samples_per_prompt=1))
    setup = prepare_run(load_config(result.run_folder / "run.yaml"), RunFolder(result.run_folder), ())
    before = {(row["key"], tuple(row["sample_ids"])) for row in read(result.run_folder, 1, "samples.jsonl.gz")}
    again = training_pairs(Stage(setup, 2))[15:]
    assert len(again) == 8
    assert all((one.key, one.sample.ids) in before for one in again)


def test_tspin_keeps_the_start_models_samples_and_has_no_reference(place: Path) -> None:
    """The second stage: each pair beside the start model's sample of its prompt; the first one's are the pair's own."""
    result = run(irft(place, "tspin", link="tspin", stages=2, learning_rate=1e-3))
    setup = prepare_run(load_config(result.run_folder / "run.yaml"), RunFolder(result.run_folder), ())
    first = triplets(Stage(setup, 0))
    assert all(one.first == one.pair.sample for one in first)
    second = triplets(Stage(setup, 1))
    assert len(second) == 30
    assert [one.first for one in second] == [one.first for one in first]
    assert any(one.first != one.pair.sample for one in second)
    assert len(read(result.run_folder, 1, "reference_logps.jsonl.gz")) == 18  # held-out pairs alone
    rows = load_run(result.run_folder).stages[1].samples
    assert {row.sample_logp is None for row in rows if not row.heldout} == {True}
    assert {row.sample_logp is None for row in rows if row.heldout and row.sample != row.demonstration} == {False}
    metrics = [row for row in read(result.run_folder, 1, "metrics.jsonl") if "loss" in row]
    assert all(row["rewards/first"] < 0 for row in metrics)
    work = {one.name: one for one in method_of(setup.config).work_of(setup, 1)}
    counted = state_of(result.run_folder, 1)
    assert work["train"].trained_tokens == pytest.approx(counted["train"]["trained_tokens"], rel=0.3)
    assert work["reference"].forward_tokens == pytest.approx(counted["reference"]["forward_tokens"], rel=0.3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"slices": "disjoint"}, "samples of the same prompts, and slices is disjoint; set --slices all"),
        ({"sft_weight": 1.0}, "knows neither interpolicy pairs nor an SFT loss"),
        ({"interpolicy": 0.1}, "knows neither interpolicy pairs nor an SFT loss"),
    ],
)
def test_what_tspin_does_not_go_with(fields: dict[str, Any], message: str, place: Path) -> None:
    with pytest.raises(DemotuneError, match=message):
        irft(place, "refused", link="tspin", **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"slices": "disjoint"}, "slices is disjoint; set --slices all"),
        ({"sft_weight": 1.0}, "the better sides of interpolicy pairs are samples; drop --sft-weight"),
    ],
)
def test_what_interpolicy_does_not_go_with(fields: dict[str, Any], message: str, place: Path) -> None:
    with pytest.raises(DemotuneError, match=message):
        irft(place, "refused", interpolicy=0.1, **fields)


def test_spin_and_irft_are_the_same_stage_with_several_samples_too(place: Path) -> None:
    """Several samples a demonstration: IRFT with T = 1 is SPIN, to the bit."""
    fields = {**FIELDS, "stages": 1, "samples_per_prompt": 3}
    where = {"model": str(place / "start"), "data": (str(place / "rows.jsonl"),)}
    spin = run(SPINConfig(**where, output=str(place / "spin"), **fields)).model_folder
    same = run(irft(place, "same", stages=1, samples_per_prompt=3)).model_folder
    ours, theirs = weights(spin), weights(same)
    assert all(equal(ours[name], theirs[name]) for name in theirs)
