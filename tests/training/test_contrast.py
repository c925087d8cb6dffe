"""What a reward is taught to tell apart: which pairs it learns from, who answers and how often, kills, refusals."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.killing import Killed, die_before
from helpers.rft_runs import FIELDS, TEMPLATE, make_world, read, state_of, weights
from helpers.tiny import save_tiny

from demotune import DemotuneError, RFTConfig, RunResult, SFTConfig, resume, run
from demotune.common.files import read_rows
from demotune.estimation.estimate import estimate_config
from demotune.records import Pair, Response
from demotune.rewards.answers import drawn_in_order
from demotune.runs.folder import RunFolder
from demotune.sampling import InProcessSampler
from demotune.training.contrast import contrast_pairs
from demotune.training.drawing import sampling_options
from demotune.training.phases import contrast as contrast_phase
from demotune.training.prepare import prepare_run
from demotune.training.setup import Setup, derive_seed
from demotune.training.stage import Stage, stage_slice

FULL = ("reward_learning_rate", "reward_epochs", "reward_eval_steps")
LINEAR: dict[str, Any] = {name: value for name, value in FIELDS.items() if name not in FULL} | {"reward_kind": "linear"}
KINDS: dict[str, dict[str, Any]] = {"full": FIELDS, "linear": LINEAR}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With an SFT run, whose model runs start from."""
    folder = make_world(tmp_path_factory.mktemp("contrast"))
    inputs = {"model": str(folder / "start"), "data": (str(folder / "rows.jsonl"),), "eval_share": 0.25}
    run(SFTConfig(output=str(folder / "sft"), template=TEMPLATE, max_length=24, max_steps=4, bf16=False, **inputs))
    return folder


def config(place: Path, output: Path, kind: str = "linear", **fields: Any) -> RFTConfig:
    where = {"model": str(place / "sft" / "model"), "data": (str(place / "rows.jsonl"),), "output": str(output)}
    return RFTConfig(**{**where, **KINDS[kind], **fields})


def setup_of(folder: Path, place: Path, **fields: Any) -> Setup:
    return prepare_run(config(place, folder, **fields), RunFolder(folder), ())


ALL: dict[str, Any] = {"reward_negatives": ("policy", "start", "base")}


@pytest.fixture(scope="module")
def several(place: Path) -> RunResult:
    return run(config(place, place / "several", **ALL))


def test_each_row_is_a_pair_with_each_negative(several: RunResult, place: Path) -> None:
    """In the first stage the policy is the start model, so its sample stands once."""
    setup = setup_of(several.run_folder, place, **ALL)
    for number in (0, 1):
        stage = Stage(setup, number)
        sampled = {row["key"]: row["sample_ids"] for row in read(several.run_folder, number, "samples.jsonl.gz")}
        drawn = {
            (row["source"], row["key"]): row["sample_ids"]
            for name in {0, number}
            for row in read(several.run_folder, name, "contrast.jsonl.gz")
        }
        first = {row["key"]: row["sample_ids"] for row in read(several.run_folder, 0, "samples.jsonl.gz")}
        for heldout, rows in ((False, stage_slice(setup, number)), (True, setup.heldout)):
            expected = []
            for row in rows:
                started = [drawn.get(("start", row.key), first.get(row.key))] if number else []
                for ids in (sampled[row.key], *started, drawn["base", row.key]):
                    expected.append((row.key, row.prompt_ids, row.demo, tuple(ids)))
            found = [(one.key, one.prompt_ids, one.demo, one.sample.ids) for one in contrast_pairs(stage, heldout)]
            assert found == expected


def test_with_several_samples_each_model_gives_as_many(place: Path, tmp_path: Path) -> None:
    """Two of each; the start model's to held-out prompts are those of the first stage's policy."""
    fields = {"samples_per_prompt": 2, "finished_only": False, **ALL}
    asked = config(place, tmp_path / "run", **fields)
    folder = run(asked).run_folder
    setup = prepare_run(asked, RunFolder(folder), ())
    for number in (0, 1):
        stage = Stage(setup, number)
        answers = read(folder, number, "contrast.jsonl.gz")
        per_row = Counter((row["source"], row["key"]) for row in answers)
        assert set(per_row.values()) == {2}
        assert {source for source, _ in per_row} == ({"base"} if number == 0 else {"start", "base"})
        sources = 2 + (number > 0)
        for side, rows in ((False, stage_slice(setup, number)), (True, setup.heldout)):
            pairs = contrast_pairs(stage, side)
            assert Counter(pair.key for pair in pairs) == {row.key: 2 * sources for row in rows}
            assert len({(pair.key, pair.sample.ids) for pair in pairs}) > sources * len(rows)
    planned, _ = estimate_config(config(place, tmp_path / "x", **fields), "h100")
    for number in (0, 1):
        work = {one.name: one.forward_tokens for one in planned.work if one.stage == number}
        record = state_of(folder, number)
        assert work["contrast"] == pytest.approx(record["contrast"]["forward_tokens"], rel=0.25)
        assert work["reward"] == pytest.approx(record["reward"]["forward_tokens"], rel=0.25)


def test_who_answers_what_and_how_often(several: RunResult, place: Path) -> None:
    """The start model answered the first stage's prompts as its policy, and the base model held-out prompts once."""
    setup = setup_of(several.run_folder, place, **ALL)
    slices = [[row.key for row in stage_slice(setup, number)] for number in (0, 1)]
    heldout = [row.key for row in setup.heldout]
    for number, expected in (
        (0, {"start": [], "base": slices[0] + heldout}),
        (1, dict.fromkeys(("start", "base"), slices[1])),
    ):
        rows = read(several.run_folder, number, "contrast.jsonl.gz")
        for source, keys in expected.items():
            assert [row["key"] for row in rows if row["source"] == source] == keys
        assert all(row["heldout"] == (row["key"] in heldout) for row in rows)
        assert state_of(several.run_folder, number)["contrast"]["samples"] == {k: len(v) for k, v in expected.items()}


def test_the_base_model_is_the_one_that_sft_began_with(several: RunResult, place: Path) -> None:
    """Found from the run that made the start model; its samples are those of a sampler of our own."""
    setup = setup_of(several.run_folder, place, **ALL)
    rows = [*stage_slice(setup, 0), *setup.heldout]
    options = sampling_options(setup)
    seed = derive_seed(setup.config.seed, 0, "contrast-base")
    prompts = [row.prompt_ids for row in rows]
    sampler = InProcessSampler(lambda: setup.load(place / "start"), slots=4)
    expected = drawn_in_order(sampler, prompts, seed, options, what="base")
    found = read(several.run_folder, 0, "contrast.jsonl.gz")
    assert [Response(tuple(row["sample_ids"]), row["finished"]) for row in found] == expected


@pytest.mark.parametrize("kind", ["full", "linear"])
@pytest.mark.parametrize(
    "contrast",
    [
        {"reward_positives": "start", "reward_negatives": ("base",)},
        {"reward_negatives": ("start",)},
        {"reward_negatives": ("policy", "base")},
    ],
)
def test_each_contrast_runs_and_is_judged_on_its_own_pairs(
    kind: str, contrast: Mapping[str, Any], place: Path, tmp_path: Path
) -> None:
    asked = config(place, tmp_path / "run", kind, slices="all", **contrast)
    folder = run(asked).run_folder
    setup = prepare_run(asked, RunFolder(folder), ())
    for number in (0, 1):
        learned, judged = (contrast_pairs(Stage(setup, number), side) for side in (False, True))
        record = state_of(folder, number)["reward"]
        assert record["pairs"] == sum(map(usable, learned))
        assert record["check"]["pairs"] == sum(map(usable, judged)) > 0
        assert record["equal_pairs"] == sum(pair.demo.ids == pair.sample.ids for pair in learned)
        if "policy" not in contrast["reward_negatives"]:
            assert record["check"]["equal"] == sum(pair.demo.ids == pair.sample.ids for pair in judged)
    if "start" in contrast.get("reward_positives", ""):
        pairs = contrast_pairs(Stage(setup, 0), heldout=False)
        sampled = {row["key"]: row["sample_ids"] for row in read(folder, 0, "samples.jsonl.gz")}
        assert [pair.demo.ids for pair in pairs] == [tuple(sampled[pair.key]) for pair in pairs]


def usable(pair: Pair) -> bool:
    return pair.demo.finished and pair.sample.finished and pair.demo.ids != pair.sample.ids


def test_samples_of_the_base_model_that_are_demonstrations_are_drawn_again(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demonstrations are what the base model writes first; its file has a later answer, which differs.

    It is loaded once, however often it draws.
    """
    loaded: list[str] = []
    load = contrast_phase._load
    monkeypatch.setattr(contrast_phase, "_load", lambda stage, source: loaded.append(source) or load(stage, source))
    fields: dict[str, Any] = {"reward_negatives": ("base",), "stages": 1, "finished_only": False}
    first = run(config(place, tmp_path / "first", **fields)).run_folder
    prompts = {row["key"]: row["prompt"] for row in read(first, 0, "samples.jsonl.gz")}
    written = [row for row in read(first, 0, "contrast.jsonl.gz") if row["finished"] and row["sample"]]
    known = {prompts[row["key"]]: row["sample"] for row in written}
    rows = [json.loads(line) for line in (place / "rows.jsonl").read_text().splitlines()]
    for row in rows:
        row["completion"] = known.get("a" + row["prompt"], row["completion"])
    (tmp_path / "known.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = run(config(place, tmp_path / "run", data=(str(tmp_path / "known.jsonl"),), **fields)).run_folder
    demos = {row["key"]: row["demo_ids"] for row in read(folder, 0, "samples.jsonl.gz")}
    answers = read(folder, 0, "contrast.jsonl.gz")
    differing = [row["key"] for row in answers if row["sample_ids"] != demos[row["key"]]]
    assert Counter(differing) == dict.fromkeys(demos, 1)
    facts = state_of(folder, 0)["contrast"]
    assert facts["samples"]["base"] == len(answers)
    equal = facts["equal_samples"]["base"]
    assert equal == len(answers) - len(differing) > 3
    reward = state_of(folder, 0)["reward"]
    assert reward["equal_pairs"] + reward["check"]["equal"] == equal
    assert facts["equal_samples"] == {"start": 0, "base": equal}
    said = f"{equal} samples of the base model equal the response that the reward is to prefer; after they were drawn "
    assert f"{said}again 0 rows have no other one" in " ".join(capsys.readouterr().out.split())
    assert loaded == ["base", "base"]  # two runs


def test_samples_of_the_base_model_that_the_start_model_wrote_are_drawn_again(place: Path, tmp_path: Path) -> None:
    """Responses of one of twelve tokens: some are equal by chance, in both stages."""
    fields: dict[str, Any] = {"reward_positives": "start", "reward_negatives": ("base",), "reward_kind": "full"}
    fields |= {"finished_only": False, "max_new_tokens": 1}
    asked = config(place, tmp_path / "run", "full", **fields)
    folder = run(asked).run_folder
    setup = prepare_run(asked, RunFolder(folder), ())
    for number in (0, 1):
        record = state_of(folder, number)
        assert record["contrast"]["equal_samples"]["base"] > 0
        pairs = [pair for side in (False, True) for pair in contrast_pairs(Stage(setup, number), side)]
        equal = [pair for pair in pairs if pair.equal]
        assert len(equal) == record["reward"]["equal_pairs"] + record["reward"]["check"]["equal"]
        differing = Counter(pair.key for pair in pairs if not pair.equal)
        assert set(differing.values()) == {1}
        assert len(differing) > 0.9 * len({pair.key for pair in pairs})  # three rounds may not be enough for a row


def test_all_slices_are_answered_once(place: Path, tmp_path: Path) -> None:
    folder = run(config(place, tmp_path / "run", slices="all", **ALL)).run_folder
    assert read(folder, 1, "contrast.jsonl.gz") == []
    assert state_of(folder, 1)["reward"]["check"]["pairs"] > 0


@pytest.mark.parametrize("moment", ["stages/00/contrast.jsonl.gz", "stages/01/contrast.jsonl.gz"])
def test_killed_while_models_answer_and_resumed(moment: str, several: RunResult, place: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        die_before(moment, patch)
        with pytest.raises(Killed):
            run(config(place, tmp_path / "run", **ALL))
    assert [*(tmp_path / "run").rglob("contrast-base-0-0.partial.jsonl")]  # responses that are not drawn again
    resume(tmp_path / "run")
    for file in several.run_folder.glob("stages/*/*.jsonl.gz"):
        assert read_rows(tmp_path / "run" / file.relative_to(several.run_folder)) == read_rows(file), file
    for part in ("model", "reward"):
        expected = weights(several.run_folder / part)
        assert all(torch.equal(value, expected[name]) for name, value in weights(tmp_path / "run" / part).items())


def test_estimate_counts_the_answers(several: RunResult, place: Path, tmp_path: Path) -> None:
    found, _ = estimate_config(config(place, tmp_path / "x", **ALL), "h100")
    for number in (0, 1):
        (work,) = [one for one in found.work if (one.name, one.stage) == ("contrast", number)]
        drawn = state_of(several.run_folder, number)["contrast"]["samples"]
        assert sum(draw.rows for draw in work.draws) == sum(drawn.values())
        assert work.loads == sum(count > 0 for count in drawn.values())


def test_without_a_contrast_there_is_no_such_phase(place: Path, tmp_path: Path) -> None:
    folder = run(config(place, tmp_path / "run", stages=1)).run_folder
    assert "contrast" not in state_of(folder, 0)
    assert not (folder / "stages" / "00" / "contrast.jsonl.gz").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"reward_negatives": ()}, "reward_negatives must be different models, got none"),
        ({"reward_negatives": "policy,policy"}, "must be different models, got policy, policy"),
        ({"reward_positives": "start"}, "also the first stage's policy.*give --reward-negatives base"),
        ({"reward_positives": "start", "reward_negatives": "start,base"}, "give --reward-negatives base"),
        ({"base_model": "m"}, "no sample of it is asked for.*drop --base-model"),
        ({"reward_negatives": "worse"}, "reward_negatives must be one of policy, start, base"),
    ],
)
def test_contrasts_that_are_none_are_refused(fields: Mapping[str, Any], message: str) -> None:
    with pytest.raises(DemotuneError, match=message):
        RFTConfig(**{"model": "m", "data": ("d",), "output": "o", **fields})


def test_a_base_model_that_cannot_be_had_is_refused(place: Path, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"reward_negatives": ("base",)}
    with pytest.raises(DemotuneError, match=r"start is of no run of sft that names it; give --base-model MODEL"):
        run(config(place, tmp_path / "run", model=str(place / "start"), **asked))
    other = save_tiny(tmp_path / "other")
    with pytest.raises(DemotuneError, match="other has another vocabulary than"):
        run(config(place, tmp_path / "run", base_model=other, **asked))
