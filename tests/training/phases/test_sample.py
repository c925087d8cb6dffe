"""The sample phase: M samples a demonstration, equal ones dropped and drawn again, killed and resumed."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from helpers.killing import Killed, after_append
from helpers.rft_runs import make_world, read, state_of, weights

from demotune import DemotuneError, IRFTConfig, RFTConfig, resume, run
from demotune.common.files import read_json
from demotune.runs.folder import RunFolder
from demotune.runs.run import load_run

FIELDS: dict[str, Any] = {
    "template": "a{prompt}",
    "max_length": 24,
    "max_new_tokens": 4,
    "learning_rate": 1e-3,
    "stages": 1,
    "epochs_per_stage": 1.0,
    "per_device_train_batch_size": 4,
    "eval_share": 0.25,
    "bf16": False,
}
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("sample"))


def irft(place: Path, name: str, data: str = "rows.jsonl", **fields: Any) -> IRFTConfig:
    where = {"model": str(place / "start"), "data": (str(place / data),), "output": str(place / name)}
    return IRFTConfig(**{**where, **FIELDS, **fields})


def samples(folder: Path, stage: int = 0) -> Rows:
    return read(folder, stage, "samples.jsonl.gz")


def equal(row: dict[str, Any]) -> bool:
    return bool(row["demo_ids"] == row["sample_ids"])


def answered_by(rows: Rows, data: Path, source: Path) -> Path:
    """The data with each sample that ended by itself in the place of its demonstration."""
    texts = {row["prompt"]: row["sample"] for row in rows if row["finished"] and row["sample"]}
    written = [json.loads(line) for line in source.read_text().splitlines()]
    for row in written:
        row["completion"] = texts.get("a" + row["prompt"], row["completion"])
    data.write_text("".join(json.dumps(row) + "\n" for row in written))
    return data


@pytest.fixture(scope="module")
def single(place: Path) -> Path:
    """A run with one sample a demonstration."""
    return run(irft(place, "single", samples_per_prompt=1)).run_folder


@pytest.fixture(scope="module")
def known(place: Path, single: Path) -> Path:
    """Data whose demonstrations are the first samples of some rows, so that these are drawn as first samples again."""
    return answered_by(samples(single), place / "known.jsonl", place / "rows.jsonl")


@pytest.fixture(scope="module")
def twice(place: Path, known: Path) -> Path:
    """Two stages with two samples a demonstration, some of which are equal to it."""
    return run(irft(place, "twice", known.name, samples_per_prompt=2, stages=2)).run_folder


def test_few_demonstrations_get_four_samples_each(place: Path) -> None:
    result = run(irft(place, "automatic"))
    assert result.run_folder.joinpath("run.yaml").read_text().count("samples_per_prompt: 4") == 1
    rows, facts = samples(result.run_folder), state_of(result.run_folder, 0)["sample"]
    counts = Counter(row["key"] for row in rows if not equal(row))
    assert set(counts.values()) == {4}
    own = [row for row in rows if not row["heldout"] and not equal(row)]
    assert (facts["samples_per_prompt"], facts["pairs"]) == (4, len(own))
    assert len({tuple(row["sample_ids"]) for row in own}) > len(own) / 2
    assert state_of(result.run_folder, 0)["train"]["steps"] == len({row["key"] for row in own})  # 4 pairs a step
    check = read_json(result.run_folder / "stages" / "00" / "check.json")["reward"]
    assert check["pairs"] == 4 * check["prompts"] == 4 * sum(row.heldout for row in load_run(result.run_folder).rows)


def test_first_samples_do_not_depend_on_how_many_are_drawn(place: Path, single: Path) -> None:
    """So the gate, which reads one answer a held-out prompt, reads the same."""
    more = run(irft(place, "three", samples_per_prompt=3)).run_folder
    first = {row["key"]: row["sample_ids"] for row in reversed(samples(more))}
    assert first == {row["key"]: row["sample_ids"] for row in reversed(samples(single))}
    assert read(more, 0, "start.jsonl.gz") == read(single, 0, "start.jsonl.gz")


def test_samples_that_are_their_demonstration_make_no_pair_and_are_drawn_again(place: Path, known: Path) -> None:
    folder = run(irft(place, "again", known.name, samples_per_prompt=1)).run_folder
    rows, facts = samples(folder), state_of(folder, 0)["sample"]
    by_key: dict[str, Rows] = {}
    for row in rows:
        by_key.setdefault(row["key"], []).append(row)
    drawn_again = [group for group in by_key.values() if len(group) > 1]
    assert len(drawn_again) >= 5
    for group in by_key.values():
        assert all(equal(row) for row in group[:-1])
        assert not equal(group[-1])
    own = [row for row in rows if not row["heldout"]]
    assert facts["equal_samples"] == sum(map(equal, own)) > 0
    assert facts["equal_heldout_samples"] == sum(equal(row) for row in rows if row["heldout"]) > 0
    assert (facts["pairs"], facts["rows_without_pairs"]) == (15, 0)
    references = read(folder, 0, "reference_logps.jsonl.gz")
    assert [row["key"] for row in references] == [row["key"] for row in rows if not equal(row)]
    check = read_json(folder / "stages" / "00" / "check.json")["reward"]
    assert (check["pairs"], check["prompts"], check["equal"]) == (9, 9, facts["equal_heldout_samples"])
    shown = load_run(folder).stages[0].samples
    assert [row.sample_logp is None for row in shown] == [equal(row) for row in rows]
    start = {row["key"]: row["sample_ids"] for row in read(folder, 0, "start.jsonl.gz")}
    assert start == {key: by_key[key][0]["sample_ids"] for key in start}  # the first, though it makes no pair


def test_samples_with_the_answer_of_their_demonstration_make_no_pair_and_are_drawn_again(place: Path) -> None:
    """With `answer_after` answers are compared, whatever was thought before them: "id" has the answer of "cd"."""
    fields = {"answer_after": "d", "samples_per_prompt": 1, "max_new_tokens": 8, "max_length": 32}
    drawn = samples(run(irft(place, "thoughts", **fields)).run_folder)
    answers = {row["prompt"]: row["sample"][row["sample"].rindex("d") :] for row in drawn if row["finished"]}
    written = [json.loads(line) for line in (place / "rows.jsonl").read_text().splitlines()]
    for row in written:
        row["completion"] = "c" + answers.get("a" + row["prompt"], row["completion"])
    (place / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in written))
    folder = run(irft(place, "answers", "answers.jsonl", **fields)).run_folder
    rows, facts = samples(folder), state_of(folder, 0)["sample"]

    def same_answer(row: dict[str, Any]) -> bool:
        answer = row["sample_ids"][row["sample_thought"] :]
        return row["sample_thought"] > 0 and bool(row["demo_ids"][row["demo_thought"] :] == answer)

    again = [row for row in rows if same_answer(row)]
    assert len(again) >= 5
    assert not all(equal(row) for row in again)
    assert facts["equal_samples"] == sum(not row["heldout"] for row in again) > 0
    assert facts["equal_heldout_samples"] == sum(row["heldout"] for row in again) > 0
    assert set(Counter(row["key"] for row in rows if not same_answer(row)).values()) == {1}
    trained = [row["key"] for row in rows if not row["heldout"] and row["sample_thought"] and not same_answer(row)]
    heldout = [row["key"] for row in rows if row["heldout"] and not same_answer(row)]
    assert [row["key"] for row in read(folder, 0, "reference_logps.jsonl.gz")] == trained + heldout
    shown = load_run(folder).stages[0].samples
    assert [row.key for row in shown if row.sample_logp is not None] == trained + heldout


def test_later_stages_begin_with_the_answer_that_was_checked(twice: Path) -> None:
    checked = {row["key"]: row["sample_ids"] for row in read(twice, 0, "heldout.jsonl.gz")}
    rows = [row for row in samples(twice, 1) if row["heldout"]]
    first = {row["key"]: row["sample_ids"] for row in reversed(rows)}
    assert first == checked
    assert set(Counter(row["key"] for row in rows if not equal(row)).values()) == {2}


@pytest.mark.parametrize("rows_drawn", [1, 20, 50, 52, 55])
def test_killed_while_it_draws_again_and_resumed(
    rows_drawn: int, place: Path, known: Path, twice: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 48 first samples and some ten drawn again: killed after so many, resumed, bit for bit the same."""
    monkeypatch.setattr("demotune.common.journals.ROWS_KEPT_TOGETHER", 1)
    found = 0

    def die(rows: Any) -> None:
        nonlocal found
        found += len(rows)
        if found >= rows_drawn:
            raise Killed

    name = f"killed-{rows_drawn}"
    with pytest.MonkeyPatch.context() as patch:
        after_append(die, patch)
        with pytest.raises(Killed):
            run(irft(place, name, known.name, samples_per_prompt=2, stages=2))
    again = resume(place / name).run_folder
    for stage in (0, 1):
        assert samples(again, stage) == samples(twice, stage)
    ours, theirs = weights(again / "model"), weights(twice / "model")
    assert all(ours[name].equal(theirs[name]) for name in theirs)


def test_a_first_stage_without_pairs_says_what_to_do(place: Path, known: Path) -> None:
    """Greedy samples of a greedy policy's own answers."""
    greedy = {"temperature": 0.0, "samples_per_prompt": 1, "eval_share": 0.0}
    drawn = samples(run(irft(place, "greedy", **greedy)).run_folder)
    finished = [row for row in drawn if row["finished"] and row["sample"]]
    data = place / "greedy.jsonl"
    data.write_text(
        "".join(json.dumps({"prompt": r["prompt"][1:], "completion": r["sample"]}) + "\n" for r in finished)
    )
    assert finished
    with pytest.raises(
        DemotuneError, match=r"give the same answers as their demonstrations.*--num-train-epochs.*higher --temperature"
    ):
        run(irft(place, "nothing", data.name, **greedy))


def test_a_later_stage_without_pairs_ends_the_run_with_the_stages_before(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two rows that the SFT term of the first stage teaches by heart."""
    rows = [{"prompt": "bc", "completion": "d"}, {"prompt": "ef", "completion": "gh"}]
    (place / "two.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields = {"temperature": 0.0, "samples_per_prompt": 1, "eval_share": 0.0, "slices": "all", "stages": 3}
    learnt = {"sft_weight": 50.0, "steps_per_stage": 60, "learning_rate": 1e-2}
    result = run(irft(place, "learnt", "two.jsonl", **fields, **learnt))
    assert len(result.stages) == 1
    assert RunFolder(result.run_folder).finished_stages == [0]
    assert "the run ends before stage 2: all 2 samples of stage 2 give the same answers" in capsys.readouterr().out


def test_rft_learns_from_several_samples_too(place: Path, known: Path) -> None:
    config = RFTConfig(
        model=str(place / "start"), data=(str(known),), output=str(place / "rft"), template="a{prompt}",
        max_length=24, max_new_tokens=4, stages=1, samples_per_prompt=2, eval_share=0.25, finished_only=False,
        reward_steps=2, policy_batches=1, prompts_per_batch=2, num_generations=2, stop_unfinished=0.0,
        stop_length_ratio=0.0, bf16=False,
    )  # fmt: skip
    result = run(config)
    differing = [row for row in samples(result.run_folder) if not equal(row)]
    rewards = read(result.run_folder, 0, "rewards.jsonl.gz")
    assert [row["key"] for row in rewards] == [row["key"] for row in differing]
    assert result.stages[0]["phases"]["reward"]["pairs"] == 30
    check = result.stages[0]["check"]
    assert (check["reward"]["prompts"], check["reward"]["pairs"], check["policy"]["prompts"]) == (9, 18, 9)
    assert check["reward"]["equal"] == result.stages[0]["phases"]["sample"]["equal_heldout_samples"] > 0
    assert result.stages[0]["phases"]["check"]


def test_greedy_samples_are_one_a_demonstration(place: Path) -> None:
    with pytest.raises(DemotuneError, match="greedy samples are all the same, and samples_per_prompt is 2"):
        irft(place, "greedy-2", temperature=0.0, samples_per_prompt=2)
