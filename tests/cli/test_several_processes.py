"""Two processes on CPU: they share what is scored, judged and answered, and find what one process finds."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.command import call
from helpers.processes import in_two_processes, noted_commands, noted_rows
from helpers.tiny import save_tiny, write_rows
from helpers.tiny_runs import FAST, RFT, SMALL, STAGED

from demotune import resume
from demotune.common.files import read_json, read_rows, write_json
from demotune.common.json_records import read_records
from demotune.records import Pair, Response
from demotune.rewards.pair_selection import both_sides
from demotune.rewards.scalar import ScalarReward
from demotune.runs.rows import SampleRow
from demotune.training.losses import reward_loss

IRFT_FILES = ("start.jsonl.gz", "heldout.jsonl.gz", "implicit.jsonl.gz", "check.json", "reference_logps.jsonl.gz")
HELDOUT = 7


def flags(**fields: Any) -> list[str]:
    """The fields as flags."""
    texts: list[str] = []
    for name, value in fields.items():
        flag = name.replace("_", "-")
        texts.append(f"--{flag}={value}" if not isinstance(value, bool) else f"--{flag if value else f'no-{flag}'}")
    return texts


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    save_tiny(folder / "start")
    write_rows(folder / "rows.jsonl", 16)
    rows = [json.dumps({"prompt": f"tell {number}", "completion": f"{number} it is"}) for number in range(HELDOUT)]
    (folder / "heldout.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return folder


def trained(place: Path, method: str, output: str) -> list[str]:
    where = {"model": place / "start", "data": place / "rows.jsonl", "eval_data": place / "heldout.jsonl"}
    fields = SMALL | FAST | RFT if method == "rft" else STAGED | FAST | {"stages": 1}
    return [method, *flags(**where, output=place / output, **fields | {"per_device_train_batch_size": 2})]


def commands(place: Path, outputs: str) -> list[list[str]]:
    """Scoring, choosing and evaluating with the reward and the policies that two processes trained."""
    data, reading = place / "heldout.jsonl", {"batch_size": 2, "bf16": False}
    evaluated: dict[str, Any] = {"model": place / "killed", "baseline": place / "start", "reward": place / "rft"}
    return [
        ["score", *flags(reward=place / "killed", data=data, output=place / f"{outputs}.jsonl", **reading)],
        ["score", *flags(reward=place / "rft", data=data, **reading)],
        ["select", *flags(reward=place / "rft", data=data, top=3, output=place / f"{outputs}-best.jsonl", **reading)],
        ["evaluate", *flags(**evaluated, data=data, output=place / outputs, max_new_tokens=6, **reading)],
    ]


@pytest.fixture(scope="module")
def killed(place: Path) -> Path:
    """Notes of an irft run whose second process was killed in the middle of the check."""
    done = noted_commands(place / "notes-killed", [trained(place, "irft", "killed")], dying="check-reward")
    assert done.returncode != 0
    assert not (place / "killed" / "stages" / "00" / "check.json").exists()
    return place / "notes-killed"


@pytest.fixture(scope="module")
def shared(place: Path, killed: Path) -> "subprocess.CompletedProcess[str]":
    """That run resumed, one of rft, and the commands on both: all in two processes."""
    everything = [["resume", str(place / "killed")], trained(place, "rft", "rft"), *commands(place, "two"), []]
    done = noted_commands(place / "notes", everything)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def once(rows: list[list[int]], count: int) -> bool:
    """Whether both processes worked, and did all of so many rows without doing any twice."""
    return all(rows) and sorted(rows[0] + rows[1]) == list(range(count))


def test_a_check_is_shared_and_goes_on_where_it_was_killed(
    place: Path, killed: Path, shared: "subprocess.CompletedProcess[str]"
) -> None:
    journals = place / "killed" / "stages" / "00"
    assert once(noted_rows(killed, f"{journals}/start-logps"), HELDOUT)
    assert once(noted_rows(killed, f"{journals}/check-logps"), HELDOUT)
    before, after = (noted_rows(notes, f"{journals}/check-reward.") for notes in (killed, place / "notes"))
    assert before[1]
    assert after[0]
    assert once([before[0] + before[1], after[0] + after[1]], HELDOUT)
    assert not noted_rows(place / "notes", f"{journals}/check-logps")[0]
    assert not list(journals.glob("*.partial.jsonl"))


def test_one_process_finds_the_same_to_the_bit(place: Path, shared: "subprocess.CompletedProcess[str]") -> None:
    """The phases that score, done again by one process with the models that two have trained."""
    folder = place / "killed"
    stage = folder / "stages" / "00"
    expected = {name: (stage / name).read_bytes() for name in IRFT_FILES}
    (folder / "summary.json").unlink()
    state = read_json(stage / "state.json")
    write_json(stage / "state.json", {phase: state[phase] for phase in ("sample", "train")})
    resume(folder)
    assert {name: (stage / name).read_bytes() for name in IRFT_FILES} == expected


def test_rewards_are_shared_and_those_of_one_process(place: Path, shared: "subprocess.CompletedProcess[str]") -> None:
    stage = place / "rft" / "stages" / "00"
    rewards, notes = read_rows(stage / "rewards.jsonl.gz"), place / "notes"
    assert once(noted_rows(notes, f"{stage}/rewards-"), len(rewards))
    assert all(noted_rows(notes, f"{stage}/check-rewards"))
    reward = ScalarReward(stage / "reward", bf16=False)
    samples = [row for row in read_records(SampleRow, stage / "samples.jsonl.gz") if not row.equal]
    pairs = [
        Pair(
            row.key,
            row.prompt_ids,
            Response(row.demo_ids, finished=row.demo_finished),
            Response(row.sample_ids, finished=row.finished),
        )
        for row in samples
    ]
    found: list[tuple[float, float]] = []
    for start in range(0, len(pairs), 2):
        batch = pairs[start : start + 2]
        both = reward.rewards_of(both_sides(batch), batch_size=4)
        found += zip(both[: len(batch)], both[len(batch) :], strict=True)
    assert found == [(row["demo_reward"], row["sample_reward"]) for row in rewards]
    heldout = [pair for pair, row in zip(pairs, samples, strict=True) if row.heldout]
    judged = torch.tensor(reward.rewards_of(both_sides(heldout), batch_size=4))
    loss = reward_loss(judged[: len(heldout)], judged[len(heldout) :], "logistic", 0.0).mean()
    kept = min(row["eval_loss"] for row in read_rows(stage / "reward-metrics.jsonl") if "eval_loss" in row)
    assert float(loss) == kept


def test_what_is_exchanged_takes_each_process_equally_many_batches(
    place: Path, shared: "subprocess.CompletedProcess[str]"
) -> None:
    assert noted_rows(place / "notes", "exchanged") == [[0, 1, 2, 3], [4, 0, 1]]


def test_scoring_and_evaluating_are_shared_and_find_what_one_process_finds(
    place: Path, shared: "subprocess.CompletedProcess[str]"
) -> None:
    notes = place / "notes"
    passes = {  # over the rows: an implicit reward takes two, drawn answers are scored, rewards are of three sides
        "two.jsonl.parts/": 2,
        "two-best.jsonl.parts/": 1,
        "parts/killed-logps-": 1,
        "parts/start-answers-": 2,
        "parts/reward-": 3,
    }
    for journal, count in passes.items():
        rows = noted_rows(notes, journal)
        assert all(rows), journal
        assert sorted(rows[0] + rows[1]) == sorted([*range(HELDOUT)] * count), journal
    for command in commands(place, "one"):
        assert call(*command)[0] == 0
    for one, two in (("one.jsonl", "two.jsonl"), ("one-best.jsonl", "two-best.jsonl")):
        assert (place / two).read_bytes() == (place / one).read_bytes()
    assert read_rows(place / "two" / "rows.jsonl.gz") == read_rows(place / "one" / "rows.jsonl.gz")
    one, two = (read_json(place / name / "evaluation.json") for name in ("one", "two"))
    assert two["measures"] == one["measures"]
    assert not list(place.rglob("*.partial.jsonl"))
    assert not list(place.glob("*.parts"))


def test_the_screen_is_that_of_one_process_and_counts_all(shared: "subprocess.CompletedProcess[str]") -> None:
    shown = shared.stdout
    assert "2 processes; 4 pairs a step" in shown
    assert "2 processes; 8 responses a step" in shown
    for text in ("rows written to", "rows kept, in the order of the data", "results in ", "irft: what was learned"):
        assert shown.count(text) == 1, text
    finished: dict[str, list[tuple[str, str]]] = {}
    for title, done, total in re.findall(r"^(.+?)  (\d+)/(\d+) (?:rows|pairs|responses|passes)  ", shown, re.MULTILINE):
        finished.setdefault(title, []).append((done, total))
    assert {"score", "stage 1: held-out", "stage 1: held-out rewards", "stage 1: rewards", "stage 1: sample"} <= set(
        finished
    )
    for title, counts in finished.items():
        assert counts[-1][0] == counts[-1][1], title


def test_a_refused_launch_is_named_once_by_the_main_process(place: Path) -> None:
    variables = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}
    done = in_two_processes(["-m", "demotune", *trained(place, "irft", "refused")], variables)
    assert done.returncode == 1
    assert done.stderr.count("error: ") == 1
    assert "error: the launcher asks for DeepSpeed (ZeRO stage 3), which demotune does not use; " in done.stderr
    assert not (place / "refused").exists()
