"""When a stage takes policy steps: its reward must beat chance and the best shortcut on held-out pairs."""

import json
import random
from pathlib import Path

import pytest
from helpers.killing import Killed
from helpers.rft_runs import config, make_world, read, state_of, weights, word

from demotune import RFTConfig, resume, run
from demotune.common.files import read_rows
from demotune.common.json_records import from_json, write_records
from demotune.common.statistics import Interval, share_interval
from demotune.models.policy import content_hash
from demotune.records import Pair, Response
from demotune.report.overview import warnings
from demotune.rewards import shortcuts
from demotune.rewards.shortcuts import ShortcutAudit, audit_shortcuts
from demotune.runs.folder import RunFolder
from demotune.runs.heldout import PairCheck, check_pairs
from demotune.runs.rows import RewardRow
from demotune.runs.run import load_run
from demotune.training.prepare import prepare_run
from demotune.training.reward_gate import Lead, closed_for, lead_over_shortcuts, why_closed
from demotune.training.stage import Stage


def check(right: int, pairs: int) -> PairCheck:
    return check_pairs([(1.0, 0.0)] * right + [(0.0, 1.0)] * (pairs - right), [(1, 1)] * pairs)


def lead(value: float, error: float) -> Lead:
    return Lead(30, 0.7 + value, "length", 0.7, Interval(value, value - 2 * error, value + 2 * error), error)


# The rule.


def test_chance_within_the_interval_closes() -> None:
    """27 of 52 by hand: Wilson's interval is [0.39, 0.65]; 34 of 52 is [0.52, 0.77]."""
    assert why_closed(check(27, 52), None) == (
        "the reward is right on 0.52 [0.39, 0.65] of 52 held-out pairs, which chance reaches too"
    )
    assert share_interval(33, 52).low < 0.5 < share_interval(34, 52).low
    assert why_closed(check(33, 52), None) is not None
    assert why_closed(check(34, 52), None) is None


def test_a_lead_of_one_standard_error_closes_and_more_opens() -> None:
    assert why_closed(check(50, 52), lead(0.1, 0.1)) == (
        f"the reward is right on {share_interval(50, 52).text()} of 52 held-out pairs; on 30 held-out prompts with "
        "samples of the policy it is right on 0.80, the best shortcut (length) on 0.70, a lead of 0.10 [-0.10, 0.30], "
        "which is not clear of 0"
    )
    assert why_closed(check(50, 52), lead(0.101, 0.1)) is None
    assert why_closed(check(50, 52), lead(0.0, 0.0)) is not None
    few = why_closed(check(50, 52), lead(0.5, float("nan")))
    assert few is not None
    assert few.endswith("the best shortcut (length) on 0.70, and a comparison needs 5 prompts")


def letters(rng: random.Random, length: int) -> Response:
    return Response((*(rng.randrange(10, 60) for _ in range(length)), 1), True)


def test_the_lead_by_hand() -> None:
    """Length separates all pairs but those of every fifth prompt, equally long; the reward is right on all."""
    rng = random.Random(0)
    pairs = [
        Pair(f"k{number}", (number,), letters(rng, 40), letters(rng, 40 if number % 5 == 0 else 8))
        for number in range(40)
        for sample in (0, 1)
    ]
    audit = audit_shortcuts(pairs)
    assert audit is not None
    assert audit.best[0].name == "length"
    rewards = {place: (1.0, 0.0) for place, pair in enumerate(pairs) if pair.prompt_ids[0] < 20}
    found = lead_over_shortcuts(audit, pairs, rewards)
    assert (found.prompts, found.accuracy, found.shortcut) == (20, 1.0, "length")
    assert found.shortcut_accuracy == pytest.approx(0.9)  # 16 prompts right, 4 tied
    assert found.lead.value == pytest.approx(0.1)  # 20 prompts: 4 with a half, 16 with nothing
    assert found.error == pytest.approx((0.04 / 19) ** 0.5)  # their deviation is 0.2, over 20 prompts not 40 pairs
    assert found.clear
    ties = {place: (0.0, 0.0) if pairs[place].prompt_ids[0] % 5 == 0 else (1.0, 0.0) for place in rewards}
    assert not lead_over_shortcuts(audit, pairs, ties).clear


# In a run.


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world of the other tests, and demonstrations that differ clearly from its samples."""
    folder = make_world(tmp_path_factory.mktemp("gate"))
    rng = random.Random(1)
    prompts = sorted({word(rng, 1, 5) for _ in range(150)})[:80]
    rows = [{"prompt": prompt, "completion": "".join(rng.choice("ab") for _ in range(3)) + "c"} for prompt in prompts]
    (folder / "clear.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def closed(place: Path, name: str, **fields: object) -> RFTConfig:
    """Rewards that learn nothing: their rate is next to nothing."""
    return config(place, name, **{"force": False, "reward_learning_rate": 1e-9, **fields})


@pytest.fixture(scope="module")
def kept(place: Path) -> Path:
    return run(closed(place, "kept")).run_folder


def test_a_reward_at_chance_keeps_the_policy(kept: Path, place: Path) -> None:
    for stage in (0, 1):
        record = state_of(kept, stage)["policy"]
        reward = state_of(kept, stage)["reward"]["check"]
        assert record["kept"].startswith(f"the reward is right on {reward['accuracy']['value']:.2f} [")
        assert record["kept"].endswith(f"of {reward['pairs']} held-out pairs, which chance reaches too")
        assert (record["steps"], record["batches"], record["trained_tokens"]) == (0, 0, 0)
        folder = kept / "stages" / f"{stage:02d}"
        assert not (folder / "rollouts").exists()
        published, start = weights(folder / "model"), weights(place / "start")
        assert published.keys() == start.keys()
        assert all((published[name] == value).all() for name, value in start.items())
        checked = json.loads((folder / "check.json").read_text())
        assert checked["gate"]["verdict"] == "no clear change"
        assert checked["gate"]["gain"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    hashes = {content_hash(kept / "stages" / stage / "model") for stage in ("00", "01")}
    assert len(hashes) == 1
    assert hashes == {state_of(kept, 1)["sample"]["policy"]}
    assert read(kept, 0, "samples.jsonl.gz") != read(kept, 1, "samples.jsonl.gz")  # the second stage went on


def test_screen_and_report_say_why(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    folder = run(closed(place, "said", stages=1)).run_folder
    why = state_of(folder, 0)["policy"]["kept"]
    shown = " ".join(capsys.readouterr().out.split())
    assert f"stage 1 keeps its policy: {why}; --force takes policy steps all the same" in shown
    assert f"stage 1: the policy was kept, no policy steps were taken: {why}" in shown
    assert f"said, stage 1: the policy was kept, no policy steps were taken: {why}" in warnings([load_run(folder)])


CLEAR = {"force": False, "stages": 1, "reward_epochs": 20.0, "reward_patience": 20}


def test_a_reward_that_is_right_no_more_often_than_a_shortcut_keeps_the_policy(place: Path) -> None:
    """All demonstrations end with c: the reward finds them, and so do last tokens alone."""
    record = state_of(run(config(place, "shortcut", data=(str(place / "clear.jsonl"),), **CLEAR)).run_folder, 0)
    assert record["reward"]["check"]["accuracy"]["low"] > 0.5
    assert "the best shortcut (last tokens) on 1.00, a lead of 0.00 [0.00, 0.00]" in record["policy"]["kept"]


def test_without_a_heldout_sample_of_the_policy_the_gate_stays_closed(place: Path) -> None:
    """The reward learned from base samples, too, and was judged on these."""
    given = {"data": (str(place / "clear.jsonl"),), "reward_negatives": ("policy", "base"), **CLEAR}
    asked = config(place, "cut-off", base_model=str(place / "start"), **given)
    folder = run(asked).run_folder
    stage = Stage(prepare_run(asked, RunFolder(folder), ()), 0)
    assert (before := closed_for(stage)) is not None
    assert "shortcut" in before
    rows = read_rows(folder / "stages" / "00" / "rewards.jsonl.gz")
    write_records(
        folder / "stages" / "00" / "rewards.jsonl.gz",
        [from_json(RewardRow, row | {"usable": row["usable"] and not row["heldout"]}) for row in rows],
    )
    assert (after := closed_for(stage)) is not None
    assert after.startswith("no held-out sample of the policy is one that the reward may see")


@pytest.mark.parametrize(
    ("negatives", "audited"), [(("policy", "base"), True), (("base",), False), (("start",), False)]
)
def test_shortcuts_are_tried_where_the_reward_learned_from_the_policys_samples(
    negatives: tuple[str, ...], audited: bool, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def audit(pairs: list[Pair]) -> ShortcutAudit | None:
        seen.append(len(pairs))
        return audit_shortcuts(pairs)

    monkeypatch.setattr("demotune.training.reward_gate.audit_shortcuts", audit)
    base = {"base_model": str(place / "start")} if "base" in negatives else {}
    given = {"data": (str(place / "clear.jsonl"),), "reward_negatives": negatives, **CLEAR, **base}
    run(config(place, str(tmp_path / "run"), **given))
    assert len(seen) == audited


def test_a_clear_reward_opens(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same reward beside a shortcut that separates nothing: all responses that it sees have their end token."""
    monkeypatch.setattr(shortcuts, "SHORTCUTS", {"end token": shortcuts.SHORTCUTS["end token"]})
    record = state_of(run(config(place, "clear", data=(str(place / "clear.jsonl"),), **CLEAR)).run_folder, 0)
    assert record["policy"]["kept"] is None
    assert record["policy"]["steps"] == 2


def test_force_takes_the_steps(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    record = state_of(run(closed(place, "forced", force=True, stages=1)).run_folder, 0)["policy"]
    assert record["kept"] is None
    assert record["doubt"].endswith("which chance reaches too")
    assert record["steps"] == 2
    shown = " ".join(capsys.readouterr().out.split())
    assert "which chance reaches too; policy steps follow it all the same (--force)" in shown


def test_without_heldout_pairs_nothing_is_judged(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    record = state_of(run(closed(place, "unjudged", eval_share=0.0, stages=1)).run_folder, 0)["policy"]
    assert record["kept"] is None
    assert record["steps"] == 2
    shown = " ".join(capsys.readouterr().out.split())
    assert "stage 1: without held-out pairs it is not known whether the reward is better than chance" in shown


@pytest.mark.parametrize("published", [False, True])
def test_killed_around_the_kept_policy_and_resumed(
    published: bool, place: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the kept policy is written, and after, before the phase is marked."""
    name = f"killed-{published}"
    publish = Stage.publish_policy

    def dying(stage: Stage) -> None:
        if published:
            publish(stage)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Stage, "publish_policy", dying)
        with pytest.raises(Killed):
            run(closed(place, name))
    assert (place / name / "stages" / "00" / "model").exists() == published
    assert "policy" not in state_of(place / name, 0)
    resume(place / name)
    for stage in ("00", "01"):
        for file in ("samples.jsonl.gz", "rewards.jsonl.gz", "heldout.jsonl.gz", "check.json"):
            assert (place / name / "stages" / stage / file).read_bytes() == (
                kept / "stages" / stage / file
            ).read_bytes()
    assert content_hash(place / name / "model") == content_hash(kept / "model")


@pytest.mark.parametrize("use_peft", [False, True])
def test_a_kept_policy_is_what_the_next_stage_starts_from(use_peft: bool, place: Path) -> None:
    """LoRA: stage 0 publishes an adapter of nothing on the start model."""
    folder = run(closed(place, f"chain-{use_peft}", use_peft=use_peft)).run_folder
    states = [state_of(folder, stage) for stage in (0, 1)]
    assert all(state["policy"]["kept"] for state in states)
    assert states[0]["policy"]["outputs"]["model"] == states[1]["policy"]["outputs"]["model"]
    assert {record["policy"] for record in states[1].values()} == {states[0]["policy"]["outputs"]["model"]}
